"""Images: MNIST's files and what can be wrong with them, pooling, orders of the pixels, the 8x8 digits."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minizone.data import Images, images, load_images, permutation
from minizone.data.download import KNOWN_FILES, MissingFile
from minizone.errors import UserError
from tests.helpers import SEVERAL, check_stand_in, known, real_data, rng

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
    with pytest.raises(UserError, match=rf"^images of 4x8 cannot be pooled in blocks of {k}x{k}: it must divide both"):
        load_images("mnist", small_mnist).pooled(k)


# ---- what can be wrong with a file


BAD_HEADERS = {
    "labels for images": (idx(np.zeros(40, np.uint8)), r"no idx header of 3 dim.* 00 00 08 03: .* with 00 00 08 01"),
    "floats": (b"\0\0\x0d" + idx(ARRAYS[TRAIN_PIXELS])[3:], r"no idx header of 3 .* beginning with 00 00 0d 03"),
    "gzip in disguise": (gzip.compress(idx(ARRAYS[TRAIN_PIXELS])), r"no idx header of 3 .* beginning with 1f 8b"),
    "nothing": (b"", r"no idx header of 3 .*: it holds 0, beginning with nothing"),
    "half a header": (idx(ARRAYS[TRAIN_PIXELS])[:15], r"no idx header of 3 .* is 16 bytes .*: it holds 15,"),
    "one byte less": (idx(ARRAYS[TRAIN_PIXELS])[:-1], r"holds 271 bytes, and .* 8 x 4 x 8 and 16 for itself, 272 "),
    "one byte more": (idx(ARRAYS[TRAIN_PIXELS]) + b"\0", r"holds 273 bytes, and .* 8 x 4 x 8 and 16 for itself, 272 "),
    "a billion images": (
        b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (10**9, 28, 28)) + bytes(784),
        r"holds 800 bytes, and its header announces 1,000,000,000 x 28 x 28 and 16 for itself, 784,000,000,016 bytes",
    ),
    "more than 64 bits": (b"\0\0\x08\x03" + b"\xff" * 12, r"holds 16 bytes, and .* 4,294,967,295 x 4,294,967,295 x "),
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_wrong_idx_file_is_a_sentence(small_mnist, monkeypatch, kind):
    """Of the right sha256, so that it is the reader of the format that must notice, and without making such arrays."""
    raw, message = BAD_HEADERS[kind]
    put(small_mnist, TRAIN_PIXELS, raw, monkeypatch)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=f"train-images-idx3-ubyte .*{message}") as error:
            load_images("mnist", small_mnist)
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("relative", ARRAYS)
def test_no_stand_in_for_a_broken_file(small_mnist, monkeypatch, relative):
    """Not even where the other three are missing, in whatever order they are looked at."""
    monkeypatch.setenv("MINIZONE_DATA", str(small_mnist))
    for other in set(ARRAYS) - {relative}:
        (small_mnist / other).unlink()
    (small_mnist / relative).write_bytes(idx(ARRAYS[relative])[:-1])
    with pytest.raises(UserError, match=rf"{Path(relative).name} holds .*truncated or edited"):
        load_images(offline=True, say=pytest.fail)


# ---- the stand-in


def test_when_the_digits_stand_in(tmp_path):
    check_stand_in(load_images, "MNIST", "auto, mnist, digits", tmp_path)


def test_auto_takes_mnist_without_a_word(small_mnist, monkeypatch):
    assert load_images(data_dir=small_mnist, say=pytest.fail).name == "MNIST"
    monkeypatch.setenv("MINIZONE_DATA", str(small_mnist))
    assert load_images(say=pytest.fail).name == "MNIST"
    (small_mnist / TEST_LABELS).unlink()
    with pytest.raises(MissingFile, match="t10k-labels"):
        load_images("mnist", offline=True)


def test_digits_are_all_there_in_three_splits():
    data = load_images("digits")
    assert data.name == "8x8 digits (stand-in)" and (data.maximum, data.shape, data.steps) == (16, (8, 8), 64)
    parts = [getattr(data, split) for split in SPLITS]
    assert [len(part) for part in parts] == [1257, 270, 270]
    assert all(part.pixels.dtype == part.labels.dtype == np.uint8 for part in parts)
    assert data.scaled(data.train).max() == 1 and data.pooled(2).name == "8x8 digits (stand-in), pooled to 4x4"
    with np.load(images.DIGITS_FILE) as file:
        original = Images(file["pixels"], file["labels"])
    assert rows(original) == sorted(row for part in parts for row in rows(part))


def rows(images: Images) -> list[tuple[int, ...]]:
    """The pixels and the label of each image, sorted, so that data sets can be compared whatever their order."""
    return sorted((*pixels.ravel(), label) for pixels, label in zip(images.pixels, images.labels, strict=True))


def test_digits_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    expected = datasets.load_digits()
    with np.load(images.DIGITS_FILE) as file:
        np.testing.assert_array_equal(file["pixels"], expected.images)
        np.testing.assert_array_equal(file["labels"], expected.target)


def test_digits_come_in_the_same_mixed_order_every_time():
    one, two = load_images("digits"), load_images("digits", "ignored")
    np.testing.assert_array_equal(one.train.pixels, two.train.pixels)
    # On every machine and in every version: numbers measured on one split must not be compared with another's.
    assert list(one.train.labels[:10]) == [9, 7, 0, 4, 6, 8, 1, 6, 1, 2]
    assert one.sha256 == {"digits.npz": "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"}
    for split in SPLITS:
        labels = getattr(one, split).labels
        shares = np.bincount(labels, minlength=10) / len(labels)
        np.testing.assert_allclose(shares, 0.1, atol=0.055)  # three standard deviations of a draw of 270


# ---- the order of the pixels


@given(st.integers(1, 900), st.integers(0, 2**32))
@SEVERAL
def test_true_permutation_has_every_pixel_once(n, seed):
    order = permutation(n, seed=seed)
    assert order.dtype == np.int64 and sorted(order) == list(range(n))
    np.testing.assert_array_equal(order, permutation(n, "true", seed))


def test_true_permutation_is_one_a_seed():
    orders = [tuple(permutation(784, seed=seed)) for seed in range(20)]
    assert len(set(orders)) == 20 and orders[0] != tuple(range(784))
    assert orders[0][:10] == (382, 548, 194, 165, 117, 483, 524, 177, 82, 480)


def test_authors_permutation_is_a_draw_with_replacement():
    order = permutation(784, "authors")
    assert order.dtype == np.int64 and order.shape == (784,)
    assert list(order[:10]) == [37, 235, 72, 767, 715, 645, 144, 129, 583, 749]
    assert len(set(order)) == 501
    np.testing.assert_array_equal(order, permutation(784, "authors", seed=7))


def test_no_permutation_and_no_global_generator():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    for kind in images.ORDERS:
        assert permutation(49, kind).shape == (49,)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.testing.assert_array_equal(permutation(49, "none"), range(49))
    with pytest.raises(UserError, match="permutation must be one of true, authors, none, got 'random'"):
        permutation(49, "random")


# ---- the real thing: MINIZONE_DATA=folder pytest tests/data/test_images.py


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
