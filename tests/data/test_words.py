"""Penn Treebank as words, and the manual cut into words."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from minizone.data import TextDataset, load_words, words
from minizone.data.manual import manual_name, read_manual
from minizone.errors import UserError
from tests.helpers import SMALL, check_stand_in, real_data

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")


def text(data: TextDataset, split: str) -> list[str]:
    """Turn indices back into words."""
    return [data.vocabulary[index] for index in getattr(data, split)]


def test_words_of_the_small_files(small):
    data = load_words("ptb", small)
    assert data.name == "PTB"
    assert text(data, "train") == ["the", "cat", "<unk>", "N", "<eos>", "sat", "on", "<eos>", "a", "mat", "<eos>"]
    assert text(data, "valid") == ["the", "mat", "<eos>"]
    assert text(data, "test") == ["a", "cat", "sat", "<eos>", "on", "N", "<eos>"]
    assert data.vocabulary == ("<eos>", "<unk>", "N", "a", "cat", "mat", "on", "sat", "the")
    assert data.sha256 == {Path(file).name: hashlib.sha256(raw).hexdigest() for file, raw in SMALL.items()}


# ---- the stand-in


def test_when_the_manual_stands_in(tmp_path):
    check_stand_in(load_words, "PTB", "auto, ptb, manual", tmp_path)


def test_auto_is_ptb_where_it_is_there(small, monkeypatch):
    assert load_words(data_dir=small, say=pytest.fail).name == "PTB"
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    assert load_words(say=pytest.fail).name == "PTB"


def test_no_stand_in_for_a_damaged_file(small, monkeypatch):
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    (small / "ptb/ptb.train.txt").write_bytes(b" something else \n")
    with pytest.raises(UserError, match=r"ptb\.train\.txt .*: delete it and run again"):
        load_words(offline=True, say=pytest.fail)


def test_manual_is_cut_into_words_and_marks():
    assert words._manual_words('Use "x_1 >= 2.5"\n   or == ...\n\n+------+\n| A     |\n+======+\n\n') == [
        *("use", '"', "x_1", ">", "=", "2", ".", "5", '"', "or", "=", "=", ".", ".", ".", "<eos>"),
        *("+", "-", "+", "|", "a", "|", "+", "=", "+", "<eos>"),
    ]


def test_manual_has_the_splits_that_characters_have():
    data = load_words("manual")
    texts, sha256 = read_manual()
    assert data.name == f"{manual_name()} (stand-in)" and data.sha256 == sha256
    for split, raw in zip(SPLITS, texts, strict=True):
        expected, actual = words._manual_words(raw.decode()), text(data, split)
        assert actual == [e if a != "<unk>" else a for a, e in zip(actual, expected, strict=True)]
        assert actual.count("<eos>") == raw.count(b"\n\n") > 50


def test_rare_words_of_the_manual_are_unknown():
    data = load_words("manual")
    counts = Counter(text(data, "train"))
    assert set(counts) == set(data.vocabulary) and min(counts.values()) >= words.RARE
    assert "<eos>" in counts and "the" in counts and 0.01 < counts["<unk>"] / data.train.size < 0.05
    for split in ("valid", "test"):
        assert 0.03 < text(data, split).count("<unk>") / getattr(data, split).size < 0.10


# ---- the real files: MINIZONE_DATA=folder pytest tests/data/test_words.py


def test_ptb_has_the_sizes_of_the_literature():
    data = load_words("ptb", real_data("ptb"), offline=True)
    assert [getattr(data, split).size for split in SPLITS] == [929_589, 73_760, 82_430]
    assert data.vocabulary_size == 10_000 and data.name == "PTB"
    assert data.vocabulary[:8] == ("the", "<unk>", "<eos>", "N", "of", "to", "a", "in")
    counts = np.bincount(data.train)  # (V,)
    assert list(counts[:4]) == [50_770, 45_020, 42_068, 32_481] and (np.diff(counts) <= 0).all() and counts[-1] == 1


def test_ptb_words_are_the_raw_lines():
    folder = real_data("ptb")
    data = load_words("ptb", folder, offline=True)
    for split in SPLITS:
        lines = (folder / f"ptb/ptb.{split}.txt").read_text().splitlines()
        assert " ".join(text(data, split)) == " ".join(f"{line.strip()} <eos>" for line in lines)
