"""Characters: text turned into indices, PTB's two forms, and the stand-in for a PTB that is not there."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import characters
from minizone.data.characters import TextDataset, load_characters
from minizone.data.download import KNOWN_FILES, MissingFile, read_verified
from minizone.errors import UserError
from tests.helpers import SMALL, TRAIN

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")


def text(dataset: TextDataset, split: str) -> str:
    """Turn indices back into characters, the plain way."""
    codes = np.array([ord(symbol) for symbol in dataset.symbols], np.uint8)
    return codes[getattr(dataset, split)].tobytes().decode("latin-1")


def test_forms_of_the_small_files(small):
    authors = load_characters("ptb", small)
    stripped = load_characters("ptb", small, form="stripped")
    assert authors.name == "PTB, authors' form" and stripped.name == "PTB, stripped form"
    assert text(authors, "train") == "the cat <unk> N \nsat on \na mat \n"
    assert text(stripped, "train") == "the cat <unk> N\nsat on\na mat\n"
    assert text(stripped, "test") == "a cat sat\non N\n"
    assert authors.symbols == "".join(sorted(set("".join(text(authors, split) for split in SPLITS))))
    assert authors.vocabulary_size == len(authors.symbols)
    assert authors.train.dtype == np.uint8 and authors.train.ndim == 1
    assert authors.sha256 == {Path(file).name: hashlib.sha256(raw).hexdigest() for file, raw in SMALL.items()}


@given(st.lists(st.lists(st.text("abN.<>'$", min_size=1, max_size=5), min_size=1, max_size=6), min_size=1, max_size=9))
def test_forms_differ_by_one_blank_a_line(lines):
    raw = "".join(f" {' '.join(words)} \n" for words in lines).encode()
    authors, stripped = (characters._ptb_form(raw, form).decode() for form in ("authors", "stripped"))
    assert stripped == "".join(" ".join(words) + "\n" for words in lines)
    assert len(authors) == len(stripped) + len(lines) == len(raw) - len(lines)
    assert authors == stripped.replace("\n", " \n")


@given(st.lists(st.binary(min_size=1), min_size=3, max_size=3))
def test_encoding_is_a_bijection_on_any_bytes(splits):
    dataset = characters._encode("any", splits, {})
    for split, raw in zip(SPLITS, splits, strict=True):
        assert text(dataset, split) == raw.decode("latin-1")
    assert list(dataset.symbols) == sorted({chr(byte) for raw in splits for byte in raw})


def test_encoding_is_frugal():
    """A text of N bytes takes little more than N bytes to encode: text8 has 100 MB."""
    raw = np.random.default_rng(0).integers(97, 123, 5_000_000, np.uint8).tobytes()
    tracemalloc.start()
    try:
        characters._encode("long", [raw, b"a", b"b"], {})
        assert tracemalloc.get_traced_memory()[1] < 2 * len(raw)
    finally:
        tracemalloc.stop()


def test_first_cuts_and_says_so(small):
    whole = load_characters("ptb", small)
    cut = whole.first(7, 5)
    assert (cut.train.size, cut.valid.size, cut.test.size) == (7, 5, 5)
    assert cut.name == "PTB, authors' form, first 7 characters, evaluated on the first 5"
    assert cut.symbols == whole.symbols and text(cut, "train") == "the cat"
    assert whole.first(7).name == "PTB, authors' form, first 7 characters"
    assert whole.first(7).valid.size == whole.valid.size
    for uncut in (whole.first(), whole.first(whole.train.size, 10**9)):
        assert uncut.name == whole.name and uncut.test.size == whole.test.size
    with pytest.raises(UserError, match="must not be negative, got -1 and 0"):
        whole.first(-1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dataset": "PTB"}, r"dataset must be one of auto, ptb, manual, got 'PTB'"),
        ({"form": "raw"}, r"form must be one of authors, stripped, got 'raw'"),
    ],
)
def test_unknown_choice_lists_the_choices(wrong, message):
    with pytest.raises(UserError, match=message):
        load_characters(**wrong)


# ---- the stand-in, and when it stands in


def test_auto_says_in_one_line_that_it_falls_back():
    said: list[str] = []
    dataset = load_characters(offline=True, say=said.append)
    assert "manual (stand-in)" in dataset.name and "PTB" not in dataset.name
    assert len(said) == 1 and "\n" not in said[0]
    for part in (dataset.name, "not PTB's", os.environ["MINIZONE_DATA"], "--data-dir", "--dataset ptb"):
        assert part in said[0]


def test_auto_takes_ptb_without_a_word(small, monkeypatch):
    assert load_characters(data_dir=small, say=pytest.fail).name == "PTB, authors' form"
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    assert load_characters(say=pytest.fail).name == "PTB, authors' form"


def test_no_stand_in_where_ptb_was_asked_for(tmp_path):
    for options in ({"dataset": "ptb"}, {"data_dir": tmp_path}, {"data_dir": str(tmp_path / "typo")}):
        with pytest.raises(MissingFile):
            load_characters(offline=True, say=pytest.fail, **options)


@pytest.mark.parametrize("split", SPLITS)
def test_no_stand_in_for_a_broken_file(small, monkeypatch, split):
    """Not even where the other two are missing, in whatever order they are looked at."""
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    for other in set(SPLITS) - {split}:
        (small / f"ptb/ptb.{other}.txt").unlink()
    (small / f"ptb/ptb.{split}.txt").write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"ptb\.{split}\.txt .*truncated or edited"):
        load_characters(offline=True, say=pytest.fail)


def test_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"needs pydoc_data\.topics"):
        load_characters("manual")


def test_manual_is_deterministic_and_named_after_its_python():
    one, two = load_characters("manual"), load_characters("manual", "ignored", form="stripped")
    assert one.sha256 == two.sha256
    assert one.name == "Python {}.{}.{} manual (stand-in)".format(*sys.version_info[:3])
    whole = "".join(text(one, split) for split in SPLITS)
    assert one.sha256 == {"pydoc_data.topics": hashlib.sha256(whole.encode()).hexdigest()}
    assert whole.isascii() and one.symbols == "".join(sorted(set(whole)))
    sizes = np.array([getattr(one, split).size for split in SPLITS])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.9, 0.05, 0.05], atol=0.015)


def test_manual_validates_on_text_it_does_not_train_on():
    dataset = load_characters("manual")
    paragraphs = {split: [" ".join(p.split()) for p in text(dataset, split).split("\n\n")] for split in SPLITS}
    seen = [p for split in SPLITS for p in paragraphs[split] if p]
    assert len(seen) == len(set(seen))
    # Nor in longer paragraphs with one word changed: hardly a run of 100 characters of them is in training.
    train = " ".join(paragraphs["train"])
    for split in ("valid", "test"):
        held_out = " ".join(paragraphs[split])
        runs = [held_out[i : i + 100] for i in range(0, len(held_out) - 100, 50)]
        assert np.mean([run in train for run in runs]) < 0.02


def trigram_bits(train: np.ndarray, held_out: np.ndarray, V: int) -> float:
    """Bits per character of `held_out` under a trigram model, with 0.02 added to the counts of `train`."""

    def code(x: np.ndarray) -> np.ndarray:
        return (x[:-2].astype(np.int64) * V + x[1:-1]) * V + x[2:]

    counts = np.bincount(code(train), minlength=V**3).reshape(V * V, V) + 0.02
    return float(-np.log2(counts / counts.sum(1, keepdims=True)).ravel()[code(held_out)].mean())


def test_manual_splits_are_equally_hard(monkeypatch):
    """The reason why `_deal` does not simply take the last tenth, which is what a single block would be."""

    def unfairness(blocks: int) -> float:
        monkeypatch.setattr(characters, "BLOCKS", blocks)
        dataset = load_characters("manual")
        bits = [trigram_bits(dataset.train, x, dataset.vocabulary_size) for x in (dataset.valid, dataset.test)]
        return abs(bits[0] / bits[1] - 1)

    assert unfairness(characters.BLOCKS) < 0.08 < unfairness(1)


# ---- the real thing: MINIZONE_DATA=folder pytest tests/data/test_characters.py


@pytest.fixture
def real_ptb() -> Path:
    folder = os.environ.get("MINIZONE_DATA", "")
    if not (Path(folder) / "ptb").is_dir() or not folder:
        pytest.skip("no $MINIZONE_DATA/ptb")
    return Path(folder)


def test_ptb_has_the_authors_sizes(real_ptb):
    dataset = load_characters("ptb", real_ptb, offline=True)
    assert [getattr(dataset, split).size for split in SPLITS] == [5_059_550, 396_412, 446_184]
    # The authors' alphabet, in their order (by frequency), from a comment in their code (PAPER.md B.3).
    assert set(dataset.symbols) == set(" etanoisrhludcmfpkgybw<>\nvN.'xj$-qz&0193#285\\764/*")
    assert dataset.vocabulary_size == 50
    assert dataset.sha256 == {Path(file).name: row.sha256 for file, row in KNOWN_FILES.items() if "ptb/" in file}
    assert text(dataset, "valid").startswith("consumers may want to move their telephones a little closer to the tv ")


def test_ptb_forms_are_the_raw_lines(real_ptb):
    authors = load_characters("ptb", real_ptb, offline=True)
    stripped = load_characters("ptb", real_ptb, form="stripped", offline=True)
    assert [getattr(stripped, split).size for split in SPLITS] == [5_017_482, 393_042, 442_423]
    for split in SPLITS:
        raw = read_verified(f"ptb/ptb.{split}.txt", real_ptb, offline=True).decode().splitlines()
        assert all(line[0] == line[-1] == " " and "  " not in line for line in raw)
        assert text(stripped, split).splitlines() == [line.strip() for line in raw]
        assert text(authors, split).splitlines() == [line.lstrip() for line in raw]


def test_ptb_may_be_packed(real_ptb, tmp_path):
    (tmp_path / "ptb").mkdir()
    for split in SPLITS:
        raw = read_verified(f"ptb/ptb.{split}.txt", real_ptb, offline=True)
        (tmp_path / f"ptb/ptb.{split}.txt.gz").write_bytes(gzip.compress(raw, 1))
    packed, plain = (load_characters("ptb", folder, offline=True) for folder in (tmp_path, real_ptb))
    assert packed.sha256 == plain.sha256
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(packed, split), getattr(plain, split))


def test_ptb_truncated_by_one_line(real_ptb, tmp_path):
    (tmp_path / "ptb").mkdir()
    raw = read_verified(TRAIN, real_ptb, offline=True)
    (tmp_path / TRAIN).write_bytes(raw[: raw.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(UserError, match=r"bytes, expected 5,101,618, and has sha256 .*truncated or edited"):
        load_characters(data_dir=tmp_path, offline=True)
