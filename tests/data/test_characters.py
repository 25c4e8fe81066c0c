"""Penn Treebank as characters: its two forms, and when the manual replaces it."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import TextDataset, characters, load_characters
from minizone.data.download import KNOWN_FILES, read_verified
from minizone.data.manual import read_manual
from minizone.errors import UserError
from tests.helpers import SEVERAL, SMALL, check_stand_in, real_data

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")


def text(data: TextDataset, split: str) -> str:
    """Turn indices back into characters."""
    codes = np.array([ord(symbol) for symbol in data.vocabulary], np.uint8)  # (V,)
    return codes[getattr(data, split)].tobytes().decode("latin-1")


def test_forms_of_the_small_files(small):
    authors = load_characters("ptb", small)
    stripped = load_characters("ptb", small, form="stripped")
    assert authors.name == "PTB, authors' form" and stripped.name == "PTB, stripped form"
    assert text(authors, "train") == "the cat <unk> N \nsat on \na mat \n"
    assert text(stripped, "train") == "the cat <unk> N\nsat on\na mat\n"
    assert text(stripped, "test") == "a cat sat\non N\n"
    assert authors.sha256 == {Path(file).name: hashlib.sha256(raw).hexdigest() for file, raw in SMALL.items()}


@given(st.lists(st.lists(st.text("abN.<>'$", min_size=1, max_size=5), min_size=1, max_size=6), min_size=1, max_size=9))
@SEVERAL
def test_forms_differ_by_one_blank_a_line(lines):
    raw = "".join(f" {' '.join(words)} \n" for words in lines).encode()
    authors, stripped = (characters._ptb_form(raw, form).decode() for form in ("authors", "stripped"))
    assert stripped == "".join(" ".join(words) + "\n" for words in lines)
    assert len(authors) == len(stripped) + len(lines) == len(raw) - len(lines)
    assert authors == stripped.replace("\n", " \n")


def test_an_unknown_form_lists_the_forms():
    with pytest.raises(UserError, match=r"form must be one of authors, stripped, got 'raw'"):
        load_characters(form="raw")


# ---- the stand-in


def test_when_the_manual_stands_in(tmp_path):
    check_stand_in(load_characters, "PTB", "auto, ptb, manual", tmp_path)


def test_auto_is_ptb_where_it_is_there(small, monkeypatch):
    assert load_characters(data_dir=small, say=pytest.fail).name == "PTB, authors' form"
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    assert load_characters(say=pytest.fail).name == "PTB, authors' form"


@pytest.mark.parametrize("split", SPLITS)
def test_no_stand_in_for_a_damaged_file(small, monkeypatch, split):
    """Not even if the other two files are missing."""
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    for other in set(SPLITS) - {split}:
        (small / f"ptb/ptb.{other}.txt").unlink()
    (small / f"ptb/ptb.{split}.txt").write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"ptb\.{split}\.txt .*: delete it and run again"):
        load_characters(offline=True, say=pytest.fail)


def test_the_manual_is_not_changed():
    data = load_characters("manual", form="stripped")
    texts, sha256 = read_manual()
    assert [text(data, split).encode() for split in SPLITS] == texts and data.sha256 == sha256


# ---- the real files: MINIZONE_DATA=folder pytest tests/data/test_characters.py


def test_ptb_has_the_authors_sizes():
    data = load_characters("ptb", real_data("ptb"), offline=True)
    assert [getattr(data, split).size for split in SPLITS] == [5_059_550, 396_412, 446_184]
    # The authors' alphabet, in their order (by frequency), from a comment in their code.
    assert set(data.vocabulary) == set(" etanoisrhludcmfpkgybw<>\nvN.'xj$-qz&0193#285\\764/*")
    assert data.vocabulary_size == 50
    assert data.sha256 == {Path(file).name: row.sha256 for file, row in KNOWN_FILES.items() if "ptb/" in file}
    assert text(data, "valid").startswith("consumers may want to move their telephones a little closer to the tv ")


def test_ptb_forms_are_the_raw_lines():
    folder = real_data("ptb")
    authors = load_characters("ptb", folder, offline=True)
    stripped = load_characters("ptb", folder, form="stripped", offline=True)
    assert [getattr(stripped, split).size for split in SPLITS] == [5_017_482, 393_042, 442_423]
    for split in SPLITS:
        raw = read_verified(f"ptb/ptb.{split}.txt", folder, offline=True).decode().splitlines()
        assert all(line[0] == line[-1] == " " and "  " not in line for line in raw)
        assert text(stripped, split).splitlines() == [line.strip() for line in raw]
        assert text(authors, split).splitlines() == [line.lstrip() for line in raw]


def test_files_may_be_packed(small):
    plain = load_characters("ptb", small)
    for relative in SMALL:
        path = small / relative
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_characters("ptb", small, offline=True)
    assert packed.sha256 == plain.sha256
    assert [text(packed, split) for split in SPLITS] == [text(plain, split) for split in SPLITS]
