"""A user's own text: how it is split and cut, what becomes <unk>, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from minizone.data import TextDataset, load_own_characters, load_own_words, load_words
from minizone.data.own_text import cut_words
from minizone.errors import UserError
from tests.helpers import real_data

SPLITS = ("train", "valid", "test")


def write(folder, *texts: bytes) -> list[str]:
    paths = [folder / f"{name}.txt" for name in ("my text", "valid", "test")][: len(texts)]
    for path, raw in zip(paths, texts, strict=True):
        path.write_bytes(raw)
    return [str(path) for path in paths]


def decoded(data: TextDataset, split: str) -> list[str]:
    return [data.vocabulary[index] for index in getattr(data, split)]


# ---- characters


def test_a_text_is_split_in_one_line_that_says_so(tmp_path):
    said: list[str] = []
    text = "".join(chr(97 + k % 7) for k in range(100))
    data = load_own_characters(write(tmp_path, text.encode()), said.append)
    assert ["".join(decoded(data, split)) for split in SPLITS] == [text[:90], text[90:95], text[95:]]
    assert data.name == "my text.txt" and data.own and data.unit == "characters"
    assert data.sha256 == {"my text.txt": hashlib.sha256(text.encode()).hexdigest()}
    assert said == [
        "my text.txt: 90 / 5 / 5 characters to train / validate / test on; split 90/5/5 by position (or give"
        " --valid-text and --test-text); a vocabulary of 7"
    ]


def test_three_files_are_three_splits_and_their_other_characters_are_unknown(tmp_path):
    said: list[str] = []
    data = load_own_characters(write(tmp_path, b"abcabc", b"axb", "cäyc".encode()), said.append)
    assert data.vocabulary == ("a", "b", "c", "<unk>")
    assert decoded(data, "valid") == ["a", "<unk>", "b"] and decoded(data, "test") == ["c", "<unk>", "<unk>", "c"]
    assert list(data.sha256) == ["train: my text.txt", "valid: valid.txt", "test: test.txt"]
    assert said == [
        "my text.txt: 6 / 3 / 4 characters to train / validate / test on; a vocabulary of 4; 0 / 1 / 2 are <unk>"
    ]


@pytest.mark.parametrize(
    ("kinds", "dtype"), [(255, np.uint8), (256, np.uint16), (5000, np.uint16), (66_000, np.uint32)]
)
def test_many_kinds_of_characters_have_the_smallest_dtype_that_also_has_room_for_unknown(kinds, dtype, tmp_path):
    text = "".join(chr(0x10000 + k) for k in range(kinds)) + "x\U000fffffx"
    train = text[:kinds]
    data = load_own_characters(write(tmp_path, train.encode(), text[-9:].encode(), text[-9:].encode()), lambda _: None)
    assert {getattr(data, split).dtype for split in SPLITS} == {np.dtype(dtype)}
    assert "".join(decoded(data, "train")) == train and data.vocabulary_size == kinds + 1
    assert decoded(data, "valid") == [*train[-6:], "<unk>", "<unk>", "<unk>"]


def test_the_mark_of_windows_and_its_line_endings_are_removed_and_that_is_said(tmp_path):
    said: list[str] = []
    windows = b"\xef\xbb\xbf" + b"one\r\ntwo\rthree\r\n" * 5
    data = load_own_characters(write(tmp_path, windows), said.append)
    assert "".join("".join(decoded(data, split)) for split in SPLITS) == "one\ntwo\rthree\n" * 5
    assert data.sha256 == {"my text.txt": hashlib.sha256(windows).hexdigest()}, "of the file as it is"
    assert "; the byte order mark (BOM) of my text.txt was removed" in said[0]
    assert "; the CRLF line endings of my text.txt became LF" in said[0] and len(said) == 1


BAD = [
    (b"", "my text.txt is empty"),
    (b"\xef\xbb\xbf", "my text.txt is empty"),
    (b"some words", "my text.txt is too short: 9 / 0 / 1 characters to train"),
    (b"\x1f\x8b\x08packed", r"my text.txt is not a text in UTF-8 \(byte 0x8b at offset 1\)"),
    (
        "naïve".encode("latin-1"),
        r"not a text in UTF-8 \(byte 0xef at offset 2\): decompress it if it is compressed, or convert",
    ),
    ("text".encode("utf-16"), r"not a text in UTF-8 \(byte 0xff at offset 0\)"),
    (b"abc\0" * 100, "my text.txt is not a text: it has a zero byte at offset 3"),
]


@pytest.mark.parametrize(("raw", "sentence"), BAD, ids=[sentence for _, sentence in BAD])
def test_what_is_no_text_is_one_sentence(raw, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        load_own_characters(write(tmp_path, raw), pytest.fail)


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="nowhere cannot be read: No such file"):
        load_own_characters([str(tmp_path / "nowhere")], pytest.fail)
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load_own_words([str(tmp_path)], say=pytest.fail)
    with pytest.raises(UserError, match=r"the text .*test.txt is empty"):
        load_own_characters(write(tmp_path, b"some words", b"some", b""), pytest.fail)


# ---- words

CUT = [
    ('He said: "I don\'t know."\n', ["He", "said", ":", '"', "I", "don't", "know", ".", '"', "<eos>"]),
    ("a well-known co- -- pi", ["a", "well-known", "co", "-", "-", "-", "pi"]),
    ("3.14, 1,000.\n\n", ["3.14", ",", "1,000", ".", "<eos>", "<eos>"]),
    ("the <unk> N 's <eos>", ["the", "<unk>", "N", "'", "s", "<eos>"]),
    ("x_1[0] += f(y)", ["x_1", "[", "0", "]", "+", "=", "f", "(", "y", ")"]),
    ("l’été à Noël", ["l’été", "à", "Noël"]),  # noqa: RUF001
    ("e\u0301te\u0301 हिन्दी में", ["e\u0301te\u0301", "हिन्दी", "में"]),
    ("我用Python 3。カタ", ["我", "用", "Python", "3", "。", "カ", "タ"]),
]


@pytest.mark.parametrize(("text", "words"), CUT)
def test_how_words_are_cut(text, words):
    assert cut_words(text) == words


def test_a_tokenized_text_is_cut_at_its_blanks_only():
    assert cut_words(" mr. <unk> 's @-@\n\n", True) == ["mr.", "<unk>", "'s", "@-@", "<eos>", "<eos>"]


def test_words_that_are_not_among_the_most_frequent_of_the_training_text_are_unknown(tmp_path):
    said: list[str] = []
    files = write(tmp_path, b"a b a c b a d c", b"a d c", b"b e\n")
    data = load_own_words(files, 5, say=said.append)
    assert data.vocabulary == ("a", "b", "c", "<unk>", "<eos>") and data.unit == "words" and data.own
    assert decoded(data, "train") == ["a", "b", "a", "c", "b", "a", "<unk>", "c"]
    assert decoded(data, "valid") == ["a", "<unk>", "c"] and decoded(data, "test") == ["b", "<unk>", "<eos>"]
    assert said == [
        "my text.txt: 8 / 3 / 3 words to train / validate / test on; a vocabulary of 5; 1 / 1 / 1 are <unk>"
    ]
    whole = load_own_words(files, 7, say=said.append)
    assert whole.vocabulary == ("a", "b", "c", "d", "<eos>", "<unk>"), "there is room for every word"


# ---- the real files: MINIZONE_DATA=folder pytest tests/data/test_own_text.py


def test_ptb_as_an_own_text_that_is_tokenized_is_ptb():
    folder = real_data("ptb") / "ptb"
    ptb = load_words("ptb", folder.parent, offline=True)
    own = load_own_words([str(folder / f"ptb.{split}.txt") for split in SPLITS], tokenized=True, say=lambda _: None)
    assert own.vocabulary == ptb.vocabulary and own.name == "ptb.train.txt"
    for split in SPLITS:
        np.testing.assert_array_equal(getattr(own, split), getattr(ptb, split))
