"""The 8x8 digits in the package: all of them, unchanged, and always split in the same way."""

from __future__ import annotations

import numpy as np
import pytest

from minizone.data import Images, images, load_images

SPLITS = ("train", "valid", "test")


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
