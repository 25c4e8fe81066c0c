"""Words: PTB's lines turned into indices, and what becomes of the manual."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import WordDataset, load_characters, load_words, words
from minizone.data.download import KNOWN_FILES
from minizone.errors import UserError
from tests.helpers import SEVERAL, SMALL, TRAIN, check_stand_in, known, real_data

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")


def text(dataset: WordDataset, split: str) -> list[str]:
    """Turn indices back into words."""
    return [dataset.words[index] for index in getattr(dataset, split)]


def test_words_of_the_small_files(small):
    data = load_words("ptb", small)
    assert data.name == "PTB"
    assert text(data, "train") == ["the", "cat", "<unk>", "N", "<eos>", "sat", "on", "<eos>", "a", "mat", "<eos>"]
    assert text(data, "valid") == ["the", "mat", "<eos>"]
    assert text(data, "test") == ["a", "cat", "sat", "<eos>", "on", "N", "<eos>"]
    assert data.words == ("<eos>", "<unk>", "N", "a", "cat", "mat", "on", "sat", "the")
    assert data.vocabulary_size == 9
    assert all(getattr(data, split).dtype == np.int32 and getattr(data, split).ndim == 1 for split in SPLITS)
    assert data.sha256 == {Path(file).name: hashlib.sha256(raw).hexdigest() for file, raw in SMALL.items()}


def test_frequent_words_come_first_then_the_alphabet(small, monkeypatch):
    raw = b" c b b \n a \xc3\xa9 B \n b a \n"
    (small / TRAIN).write_bytes(raw)
    monkeypatch.setitem(KNOWN_FILES, TRAIN, known(raw))
    for split in ("valid", "test"):
        (small / f"ptb/ptb.{split}.txt").write_bytes(b" b \n")
        monkeypatch.setitem(KNOWN_FILES, f"ptb/ptb.{split}.txt", known(b" b \n"))
    assert load_words("ptb", small).words == ("<eos>", "b", "a", "B", "c", "é")


@given(st.lists(st.text("abcd", min_size=1, max_size=2), min_size=1, max_size=50))
@SEVERAL
def test_encoding_can_be_undone(some):
    data = words._encode("any", [some, some[:3], some[-1:]], {})
    assert [text(data, split) for split in SPLITS] == [some, some[:3], some[-1:]]
    counts = [some.count(word) for word in data.words]
    assert counts == sorted(counts, reverse=True) and sum(counts) == len(some)
    assert list(np.bincount(data.train)) == counts


def test_first_cuts_and_says_so(small):
    whole = load_words("ptb", small)
    cut = whole.first(4, 2)
    assert [text(cut, split) for split in SPLITS] == [text(whole, "train")[:4], ["the", "mat"], ["a", "cat"]]
    assert cut.name == "PTB, first 4 words, evaluated on the first 2" and cut.words == whole.words
    assert whole.first(0, 3).name == "PTB, evaluated on the first 3" and whole.first(0, 3).train.size == 11
    assert whole.first().name == whole.first(11, 7).name == "PTB"
    with pytest.raises(UserError, match="the number of words to keep must not be negative, got -4 and 0"):
        whole.first(-4)


# ---- the stand-in


def test_when_the_manual_stands_in(tmp_path):
    check_stand_in(load_words, "PTB", "auto, ptb, manual", tmp_path)


def test_auto_takes_ptb_without_a_word(small, monkeypatch):
    assert load_words(data_dir=small, say=pytest.fail).name == "PTB"
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    assert load_words(say=pytest.fail).name == "PTB"


@pytest.mark.parametrize("split", SPLITS)
def test_no_stand_in_for_a_broken_file(small, monkeypatch, split):
    monkeypatch.setenv("MINIZONE_DATA", str(small))
    for other in set(SPLITS) - {split}:
        (small / f"ptb/ptb.{other}.txt").unlink()
    (small / f"ptb/ptb.{split}.txt").write_bytes(b" something else \n")
    with pytest.raises(UserError, match=rf"ptb\.{split}\.txt .*truncated or edited"):
        load_words(offline=True, say=pytest.fail)


def test_manual_is_cut_into_words_and_marks():
    assert words._manual_words('Use "x_1 >= 2.5"\n   or == ...\n\n+------+\n| A     |\n+======+\n\n') == [
        *("use", '"', "x_1", ">", "=", "2", ".", "5", '"', "or", "=", "=", ".", ".", ".", "<eos>"),
        *("+", "-", "+", "|", "a", "|", "+", "=", "+", "<eos>"),
    ]


def test_manual_is_the_one_of_characters():
    """The same paragraphs in the same splits, so that neither reads in training what the other keeps for validation."""
    data, characters = load_words("manual"), load_characters("manual")
    assert data.name == characters.name and data.sha256 == characters.sha256
    codes = np.array([ord(symbol) for symbol in characters.symbols], np.uint8)
    for split in SPLITS:
        raw = codes[getattr(characters, split)].tobytes().decode()
        expected, actual = words._manual_words(raw), text(data, split)
        assert actual == [e if a != "<unk>" else a for a, e in zip(actual, expected, strict=True)]
        assert actual.count("<eos>") == raw.count("\n\n") > 50


def test_rare_words_of_the_manual_are_unknown():
    data = load_words("manual")
    counts = Counter(text(data, "train"))
    assert set(counts) == set(data.words) and min(counts.values()) >= words.RARE
    assert "<eos>" in counts and "the" in counts and 0.01 < counts["<unk>"] / data.train.size < 0.05
    for split in ("valid", "test"):
        assert 0.03 < text(data, split).count("<unk>") / getattr(data, split).size < 0.10
    for word in set(data.words) - {"<eos>", "<unk>"}:
        assert word == word.lower() and (len(word) == 1 or word.replace("_", "a").isalnum())
    sizes = np.array([getattr(data, split).size for split in SPLITS])
    np.testing.assert_allclose(sizes / sizes.sum(), [0.9, 0.05, 0.05], atol=0.015)
    assert sizes.sum() > 60_000


def test_manual_is_deterministic():
    one, two = load_words("manual"), load_words("manual")
    assert one.words == two.words
    np.testing.assert_array_equal(one.train, two.train)


# ---- the real thing: MINIZONE_DATA=folder pytest tests/data/test_words.py


def test_ptb_has_the_sizes_that_everybody_has():
    data = load_words("ptb", real_data("ptb"), offline=True)
    assert [getattr(data, split).size for split in SPLITS] == [929_589, 73_760, 82_430]
    assert data.vocabulary_size == 10_000 and data.name == "PTB"
    assert data.words[:8] == ("the", "<unk>", "<eos>", "N", "of", "to", "a", "in")
    counts = np.bincount(data.train)  # (V,)
    assert list(counts[:4]) == [50_770, 45_020, 42_068, 32_481] and (np.diff(counts) <= 0).all() and counts[-1] == 1
    assert " ".join(text(data, "valid")[:20]) == (
        "consumers may want to move their telephones a little closer to the tv set <eos> <unk> <unk> watching abc 's"
    )


def test_ptb_words_are_the_raw_lines():
    folder = real_data("ptb")
    data = load_words("ptb", folder, offline=True)
    for split in SPLITS:
        lines = (folder / f"ptb/ptb.{split}.txt").read_text().splitlines()
        assert " ".join(text(data, split)) == " ".join(f"{line.strip()} <eos>" for line in lines)
