"""MNIST: its splits, its pixels in [0, 1], smaller images, and when the 8x8 digits replace it."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minizone.data import images, load_images
from minizone.data.download import KNOWN_FILES, MissingFile
from minizone.errors import UserError
from tests.helpers import check_stand_in, known, real_data, rng

pytestmark = pytest.mark.usefixtures("nobody_elses_files")
SPLITS = ("train", "valid", "test")
TRAIN_PIXELS, TRAIN_LABELS, TEST_PIXELS, TEST_LABELS = images.MNIST_FILES


def idx(array: np.ndarray) -> bytes:
    """The bytes of an array in MNIST's format."""
    return b"".join([b"\0\0\x08", bytes([array.ndim]), *(n.to_bytes(4, "big") for n in array.shape), array.tobytes()])


ARRAYS = {  # eight training images, of which three will be for validation, and two of test, 4 by 8
    TRAIN_PIXELS: rng(1).integers(0, 256, (8, 4, 8), np.uint8),
    TRAIN_LABELS: rng(2).integers(0, 10, 8, np.uint8),
    TEST_PIXELS: rng(3).integers(0, 256, (2, 4, 8), np.uint8),
    TEST_LABELS: rng(4).integers(0, 10, 2, np.uint8),
}


def put(folder: Path, relative: str, raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a file, and make it the one that the table expects."""
    (folder / "mnist").mkdir(parents=True, exist_ok=True)
    (folder / relative).write_bytes(raw)
    monkeypatch.setitem(KNOWN_FILES, relative, replace(known(raw), is_text=False))


@pytest.fixture
def small_mnist(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(images, "HELD_OUT", 3)
    for relative, array in ARRAYS.items():
        put(tmp_path / "data", relative, idx(array), monkeypatch)
    return tmp_path / "data"


def test_last_training_images_are_for_validation(small_mnist):
    data = load_images("mnist", small_mnist)
    assert data.name == "MNIST" and (data.maximum, data.classes, data.shape, data.steps) == (255, 10, (4, 8), 32)
    pixels, labels = ARRAYS[TRAIN_PIXELS], ARRAYS[TRAIN_LABELS]
    expected = {"train": (pixels[:5], labels[:5]), "valid": (pixels[5:], labels[5:])}
    expected["test"] = ARRAYS[TEST_PIXELS], ARRAYS[TEST_LABELS]
    for split, (pixels, labels) in expected.items():
        part = getattr(data, split)
        assert part.pixels.dtype == part.labels.dtype == np.uint8 and len(part) == len(labels)
        np.testing.assert_array_equal(part.pixels, pixels)
        np.testing.assert_array_equal(part.labels, labels)
    assert data.sha256 == {Path(file).name: hashlib.sha256(idx(array)).hexdigest() for file, array in ARRAYS.items()}


def test_files_may_be_packed(small_mnist):
    plain = load_images("mnist", small_mnist)
    for relative in ARRAYS:
        path = small_mnist / relative
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_images("mnist", small_mnist, offline=True)
    assert packed.sha256 == plain.sha256
    np.testing.assert_array_equal(packed.valid.pixels, plain.valid.pixels)


def test_scaled_reads_row_by_row(small_mnist):
    data = load_images("mnist", small_mnist)
    x = data.scaled(data.train)
    assert x.dtype == np.float32 and x.shape == (5, 32)
    for n, row, column in np.ndindex(5, 4, 8):
        assert x[n, row * 8 + column] == np.float32(data.train.pixels[n, row, column] / 255)
    np.testing.assert_array_equal(data.scaled(data.train[1:3]), x[1:3])
    minibatch = data.train[np.array([4, 0])]
    np.testing.assert_array_equal(data.scaled(minibatch), x[[4, 0]])
    np.testing.assert_array_equal(minibatch.labels, data.train.labels[[4, 0]])


def test_white_is_one(small_mnist, monkeypatch):
    put(small_mnist, TEST_PIXELS, idx(np.full((2, 4, 8), 255, np.uint8)), monkeypatch)
    data = load_images("mnist", small_mnist)
    assert (data.scaled(data.test) == 1).all() and (data.pooled(4).scaled(data.pooled(4).test) == 1).all()


# ---- fewer, and smaller


def test_first_cuts_and_says_so(small_mnist):
    whole = load_images("mnist", small_mnist)
    cut = whole.first(4, 1)
    assert [len(getattr(cut, split)) for split in SPLITS] == [4, 1, 1]
    assert [len(getattr(cut, split).pixels) for split in SPLITS] == [4, 1, 1]
    assert cut.name == "MNIST, first 4 images, evaluated on the first 1"
    assert whole.first(4).name == "MNIST, first 4 images" and len(whole.first(4).valid) == 3
    np.testing.assert_array_equal(cut.train.labels, whole.train.labels[:4])
    assert whole.first().name == whole.first(5, 3).name == "MNIST"
    with pytest.raises(UserError, match="the number of images to keep must not be negative, got 0 and -2"):
        whole.first(0, -2)


@pytest.mark.parametrize("k", [2, 4])
def test_pooled_is_the_mean_of_blocks(small_mnist, k):
    whole = load_images("mnist", small_mnist)
    data = whole.pooled(k)
    assert data.name == f"MNIST, pooled to {4 // k}x{8 // k}" and data.shape == (4 // k, 8 // k)
    assert data.steps == 32 // k**2 and data.sha256 == whole.sha256
    for split in SPLITS:
        part, of = getattr(data, split), getattr(whole, split)
        assert part.pixels.dtype == np.float32 and part.labels is of.labels
        for n, row, column in np.ndindex(part.pixels.shape):
            block = of.pixels[n, row * k : (row + 1) * k, column * k : (column + 1) * k]
            assert part.pixels[n, row, column] == np.float32(int(block.sum()) / k**2)
        x = data.scaled(part)
        assert x.dtype == np.float32 and 0 <= x.min() <= x.max() <= 1
        np.testing.assert_allclose(x.mean(), whole.scaled(of).mean(), rtol=1e-6)


def test_pooled_by_one_is_the_same_and_twice_by_two_is_by_four(small_mnist):
    data = load_images("mnist", small_mnist)
    assert data.pooled(1) is data
    twice = data.pooled(2).pooled(2)
    np.testing.assert_array_equal(twice.train.pixels, data.pooled(4).train.pixels)
    assert data.pooled(2).first(1).name == "MNIST, pooled to 2x4, first 1 images"


@pytest.mark.parametrize("k", [3, 8, 5, 0, -2])  # 8 divides the width only
def test_pooling_must_divide_both_sides(small_mnist, k):
    with pytest.raises(UserError, match=rf"^images of 4x8 cannot be pooled in blocks of {k}x{k}: the block must"):
        load_images("mnist", small_mnist).pooled(k)


# ---- the stand-in


@pytest.mark.parametrize("relative", ARRAYS)
def test_no_stand_in_for_a_damaged_file(small_mnist, monkeypatch, relative):
    """Not even if the other three files are missing."""
    monkeypatch.setenv("MINIZONE_DATA", str(small_mnist))
    for other in set(ARRAYS) - {relative}:
        (small_mnist / other).unlink()
    (small_mnist / relative).write_bytes(idx(ARRAYS[relative])[:-1])
    with pytest.raises(UserError, match=rf"{Path(relative).name} has only .*: delete it and run again"):
        load_images(offline=True, say=pytest.fail)


def test_when_the_digits_stand_in(tmp_path):
    check_stand_in(load_images, "MNIST", "auto, mnist, digits", tmp_path)


def test_auto_takes_mnist_without_a_word(small_mnist, monkeypatch):
    assert load_images(data_dir=small_mnist, say=pytest.fail).name == "MNIST"
    monkeypatch.setenv("MINIZONE_DATA", str(small_mnist))
    assert load_images(say=pytest.fail).name == "MNIST"
    (small_mnist / TEST_LABELS).unlink()
    with pytest.raises(MissingFile, match="t10k-labels"):
        load_images("mnist", offline=True)


# ---- the real files: MINIZONE_DATA=folder pytest tests/data/test_images.py


def test_mnist_is_the_authors_split():
    data = load_images("mnist", real_data("mnist"), offline=True)
    assert [len(getattr(data, split)) for split in SPLITS] == [50_000, 10_000, 10_000]
    assert data.name == "MNIST" and data.shape == (28, 28) and data.steps == 784
    assert list(data.train.labels[:10]) == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert list(data.valid.labels[:5]) == [3, 8, 6, 9, 6] and list(data.test.labels[:5]) == [7, 2, 1, 0, 4]
    pixels = np.concatenate([data.train.pixels, data.valid.pixels])
    np.testing.assert_allclose([pixels.mean() / 255, pixels.std() / 255], [0.1307, 0.3081], atol=5e-5)  # well known
    assert data.sha256 == {Path(file).name: KNOWN_FILES[file].sha256 for file in images.MNIST_FILES}
    assert data.pooled(4).first(100, 50).name == "MNIST, pooled to 7x7, first 100 images, evaluated on the first 50"


def test_mnist_stays_bytes():
    folder = real_data("mnist")
    tracemalloc.start()
    try:
        data = load_images("mnist", folder, offline=True)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept < 1.05 * 70_000 * (data.steps + 1)
