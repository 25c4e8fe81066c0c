"""Images for models that read one pixel at a time: MNIST, and its stand-in, the 8x8 digits of UCI.

The digits are a file of the package, `digits.npz`: 1,797 images of the data set "Optical Recognition of Handwritten
Digits" by E. Alpaydin and C. Kaynak (UCI Machine Learning Repository, https://doi.org/10.24432/C50P49), published under
CC BY 4.0. `digits.md`, beside the file, says how it was made.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from minizone.backend import stream
from minizone.data.common import load_or_stand_in, name_of_part
from minizone.data.download import read_all
from minizone.errors import UserError

MNIST_FILES = (
    "mnist/train-images-idx3-ubyte",
    "mnist/train-labels-idx1-ubyte",
    "mnist/t10k-images-idx3-ubyte",
    "mnist/t10k-labels-idx1-ubyte",
)
HELD_OUT = 10_000  # the last of MNIST's 60,000 training images are the validation images, as in the authors' code
DIGITS_FILE = Path(__file__).with_name("digits.npz")
DIGITS_SIZES = (1257, 270)  # train and valid; the other 270 are test: 70 / 15 / 15 percent
ORDERS = ("true", "authors", "none")


@dataclass(frozen=True, eq=False)
class Images:
    """N images and their labels: a split, or a part of one.

    `images[rows]` is a part, where `rows` is a slice or an array of indices.

    Attributes
    ----------
    pixels : (N, height, width) array
        uint8, as in the files, or float32 after pooling. Both have the range of the files, such as 0 to 255.
    labels : uint8 array, (N,)
        The digit, 0 to 9.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | np.ndarray) -> Images:
        return Images(self.pixels[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images of digits in three splits.

    Pixels are stored as bytes, as in the files: MNIST takes 55 MB, and would take 220 MB as float32. `scaled` converts
    a minibatch when it is needed.

    Attributes
    ----------
    name : str
        Name in plots and tables.
    train, valid, test : Images
    maximum : int
        The value of a white pixel: 255 for MNIST, 16 for the 8x8 digits.
    sha256 : dict
        File name -> sha256 (hex) of the uncompressed file, or of the pixels and labels in `digits.npz`.
    classes : int
        V, the number of distinct labels.
    """

    name: str
    train: Images
    valid: Images
    test: Images
    maximum: int
    sha256: dict[str, str]
    classes: int = 10

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of an image, in pixels."""
        _, height, width = self.train.pixels.shape
        return height, width

    @property
    def steps(self) -> int:
        """T, the number of pixels of an image."""
        return math.prod(self.shape)

    def scaled(self, images: Images) -> np.ndarray:
        """Return the pixels of a split or of a part of it, row by row and scaled to [0, 1]: float32, (N, steps)."""
        return images.pixels.reshape(len(images), self.steps) / np.float32(self.maximum)

    def first(self, n_train: int = 0, n_eval: int = 0) -> ImageDataset:
        """Return the first images of each split, with a name that says so.

        Keeps `n_train` images of `train`, and `n_eval` each of `valid` and `test`. 0 keeps all; a negative number
        raises `UserError`.
        """
        return replace(
            self,
            name=name_of_part(self, n_train, n_eval, "images"),
            train=self.train[: n_train or None],
            valid=self.valid[: n_eval or None],
            test=self.test[: n_eval or None],
        )

    def pooled(self, k: int) -> ImageDataset:
        """Return smaller images, with a name that says so. Each pixel is the mean of `k` by `k` pixels, in float32.

        Raises
        ------
        UserError
            `k` is not a positive number that divides height and width.
        """
        height, width = self.shape
        if k < 1 or height % k or width % k:
            raise UserError(
                f"images of {height}x{width} cannot be pooled in blocks of {k}x{k}: the block must divide both sides"
            )
        if k == 1:
            return self
        return replace(
            self,
            name=f"{self.name}, pooled to {height // k}x{width // k}",
            train=_pool(self.train, k),
            valid=_pool(self.valid, k),
            test=_pool(self.test, k),
        )


def load_images(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> ImageDataset:
    """Load images of handwritten digits to be read pixel by pixel.

    Parameters
    ----------
    dataset : {"auto", "mnist", "digits"}
        "mnist": MNIST, 50,000 / 10,000 / 10,000 images of 28x28. The validation images are the last 10,000 of the
        training file, as in the authors' code. "digits": the stand-in, 1,257 / 270 / 270 images of 8x8 from UCI, always
        in the same order. "auto": MNIST, or else the digits; see `load_or_stand_in`.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives one line of text when "auto" loads the digits.

    Raises
    ------
    UserError
        `dataset` is unknown, or MNIST is needed and missing or damaged.
    """
    loaders = {"mnist": lambda: _load_mnist(data_dir, offline), "digits": _load_digits}
    return load_or_stand_in("MNIST", loaders, dataset, data_dir, offline, say)


def permutation(n: int, kind: str = "true", seed: int = 0) -> np.ndarray:
    """Return the order in which the `n` pixels of an image are read: int64 indices, (n,).

    Parameters
    ----------
    kind : {"true", "authors", "none"}
        "true": a random permutation. "authors": what the authors' code calls a permutation, n draws *with*
        replacement. Of 784 pixels it reads 501 and never the other 283. This is a different task, and the numbers
        are not comparable. "none": row by row.
    seed : int
        Seed of the true permutation. The authors' order does not depend on it.

    Raises
    ------
    UserError
        `kind` is unknown.
    """
    if kind not in ORDERS:
        raise UserError(f"permutation must be one of {', '.join(ORDERS)}, got {kind!r}")
    if kind == "true":
        return stream(seed, "permutation").permutation(n)
    if kind == "authors":
        # The only generator in this package that is not a keyed stream: it must give the authors' numbers.
        return np.random.RandomState(1).randint(0, n, n).astype(np.int64)
    return np.arange(n)


def _load_mnist(data_dir: str | Path | None, offline: bool) -> ImageDataset:
    files, sha256 = read_all(MNIST_FILES, data_dir, offline=offline)
    pixels, labels, test_pixels, test_labels = (_read_idx(raw) for raw in files)
    images = Images(pixels, labels)
    return ImageDataset(
        name="MNIST",
        train=images[:-HELD_OUT],
        valid=images[-HELD_OUT:],
        test=Images(test_pixels, test_labels),
        maximum=255,
        sha256=sha256,
    )


def _read_idx(raw: bytes) -> np.ndarray:
    """Return the array in a file of MNIST's format, http://yann.lecun.com/exdb/mnist: (N, height, width) or (N,).

    The file has two zeros; 8, which means unsigned bytes; the number of dimensions; the size of each dimension, as a
    big-endian 32-bit integer; and the elements.
    """
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">u4", count=dimensions, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _load_digits() -> ImageDataset:
    """Load the 8x8 digits of UCI and shuffle them, because the file is sorted by writer."""
    with np.load(DIGITS_FILE, allow_pickle=False) as arrays:
        digits = Images(arrays["pixels"], arrays["labels"])  # (1797, 8, 8) from 0 to 16, and (1797,)
    sha256 = hashlib.sha256(digits.pixels.tobytes() + digits.labels.tobytes()).hexdigest()
    shuffled = digits[stream(0, "digits").permutation(len(digits))]
    n_train, n_valid = DIGITS_SIZES
    train, rest = shuffled[:n_train], shuffled[n_train:]
    return ImageDataset(
        name="8x8 digits (stand-in)",
        train=train,
        valid=rest[:n_valid],
        test=rest[n_valid:],
        maximum=16,
        sha256={DIGITS_FILE.name: sha256},
    )


def _pool(images: Images, k: int) -> Images:
    N, height, width = images.pixels.shape
    blocks = images.pixels.reshape(N, height // k, k, width // k, k)
    return Images(blocks.mean(axis=(2, 4), dtype=np.float32), images.labels)
