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
from minizone.data.common import SPLITS, cut, load_or_stand_in
from minizone.data.download import read_all
from minizone.errors import UserError

MNIST_FILES = tuple(
    f"mnist/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")
)
HELD_OUT = 10_000  # the last of MNIST's 60,000 training images, which are for validation, as with the authors
DIGITS_FILE = Path(__file__).with_name("digits.npz")
DIGITS_SIZES = (1257, 270)  # train, valid; the other 270 of 1,797 are test, so 70 / 15 / 15 in a hundred
ORDERS = ("true", "authors", "none")


@dataclass(frozen=True, eq=False)
class Images:
    """One split: N images and what they show.

    `images[rows]` is the same for some of them, `rows` being a slice or an array of indices.

    Attributes
    ----------
    pixels : (N, height, width) array
        uint8 as in the files; float32 once pooled, where a mean is seldom whole. In units of the files either way.
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

    They are kept as they are in the files, a byte a pixel: MNIST takes 55 MB, and would take 220 MB as float32. A
    minibatch is converted when it is needed, by `scaled`.

    Attributes
    ----------
    name : str
        What it is, as plots and tables must call it.
    train, valid, test : Images
    maximum : int
        The value of a white pixel: 255 for MNIST, 16 for the 8x8 digits.
    sha256 : dict
        File name -> sha256 (hex) of the uncompressed file, or of the pixels and labels where no file is behind them.
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
        """Return the pixels row by row, in [0, 1]: float32, (N, steps). `images` is a split or a part of one."""
        return images.pixels.reshape(len(images), self.steps) / np.float32(self.maximum)

    def first(self, n_train: int = 0, n_eval: int = 0) -> ImageDataset:
        """Return fewer of the same images, with a name that says so.

        Keeps `n_train` images of `train`, and `n_eval` each of `valid` and `test`; 0 keeps all, and a negative number
        raises `UserError`.
        """
        return replace(self, **cut(self, n_train, n_eval, "images"))

    def pooled(self, k: int) -> ImageDataset:
        """Return smaller images, each pixel the mean of `k` by `k` (in float32), with a name that says so.

        Raises
        ------
        UserError
            `k` is not a positive number that divides height and width.
        """
        height, width = self.shape
        if k < 1 or height % k or width % k:
            raise UserError(
                f"images of {height}x{width} cannot be pooled in blocks of {k}x{k}: it must divide both sides"
            )
        if k == 1:
            return self
        name = f"{self.name}, pooled to {height // k}x{width // k}"
        train, valid, test = (_pool(getattr(self, split), k) for split in SPLITS)
        return replace(self, name=name, train=train, valid=valid, test=test)


def load_images(
    dataset: str = "auto",
    data_dir: str | Path | None = None,
    *,
    offline: bool = False,
    say: Callable[[str], None] = print,
) -> ImageDataset:
    """Load images of handwritten digits, to be read pixel by pixel.

    Parameters
    ----------
    dataset : {"auto", "mnist", "digits"}
        "mnist": MNIST or an error: 50,000 / 10,000 / 10,000 images of 28x28, validation being the last 10,000 of the
        training file, as with the paper's authors. "digits": the 1,797 8x8 digits of UCI, the stand-in:
        1,257 / 270 / 270 images in an order that is always the same. "auto": MNIST if it is in the data
        folder or can be downloaded, else the digits, with one line through `say`; but no stand-in where a `data_dir`
        was asked for, and none for an MNIST file that is there and broken.
    data_dir : str, Path or None
        See `data_folder`.
    offline : bool
        Download nothing.
    say : callable
        Receives the line about the stand-in.

    Raises
    ------
    UserError
        An unknown `dataset`; MNIST is wanted and missing, or damaged.
    """
    loaders = {"mnist": lambda: _load_mnist(data_dir, offline), "digits": _load_digits}
    return load_or_stand_in("MNIST", loaders, dataset, data_dir, offline, say)


def permutation(n: int, kind: str = "true", seed: int = 0) -> np.ndarray:
    """Return the order in which `n` pixels are read: int64 indices, (n,).

    Parameters
    ----------
    kind : {"true", "authors", "none"}
        "true": a permutation. "authors": what the authors ran under that name, n draws *with* replacement, of which
        those of 784 pixels see 501 and never the other 283: another task, and the numbers on it are not comparable.
        "none": row by row.
    seed : int
        Of the true permutation. The authors' draw is always their own.

    Raises
    ------
    UserError
        An unknown `kind`.
    """
    if kind not in ORDERS:
        raise UserError(f"permutation must be one of {', '.join(ORDERS)}, got {kind!r}")
    if kind == "authors":
        # The only generator in this package that is not a keyed stream, because it has to give their numbers.
        return np.random.RandomState(1).randint(0, n, n).astype(np.int64)
    return stream(seed, "permutation").permutation(n) if kind == "true" else np.arange(n)


def _load_mnist(data_dir: str | Path | None, offline: bool) -> ImageDataset:
    raw, sha256 = read_all(MNIST_FILES, data_dir, offline=offline)
    pixels, labels, test_pixels, test_labels = (
        _read_idx(content, file, 3 if "images" in file else 1) for content, file in zip(raw, MNIST_FILES, strict=True)
    )
    both, test = Images(pixels, labels), Images(test_pixels, test_labels)
    return ImageDataset("MNIST", both[:-HELD_OUT], both[-HELD_OUT:], test, 255, sha256)


def _read_idx(raw: bytes, name: str, dimensions: int) -> np.ndarray:
    """Return the array in a file of MNIST's format: unsigned bytes, of so many dimensions.

    The format: two zeros, 8 for unsigned bytes, the number of dimensions; each of these, in four bytes, the highest
    first; the elements, the last dimension fastest. (http://yann.lecun.com/exdb/mnist, at its end.)
    """
    header = 4 + 4 * dimensions
    magic = bytes([0, 0, 8, dimensions])
    if raw[:4] != magic or len(raw) < header:
        raise UserError(
            f"{name} has no idx header of {dimensions} dimension(s), which is {header} bytes that begin with "
            f"{magic.hex(' ')}: it holds {len(raw):,}, beginning with {raw[:4].hex(' ') or 'nothing'}"
        )
    shape = tuple(int.from_bytes(raw[at : at + 4], "big") for at in range(4, header, 4))
    if len(raw) != header + math.prod(shape):  # in Python's integers, and before anything of that size is made
        raise UserError(
            f"{name} holds {len(raw):,} bytes, and its header announces {' x '.join(f'{n:,}' for n in shape)} and "
            f"{header} for itself, {header + math.prod(shape):,} bytes in all"
        )
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)  # (N, height, width) or (N,), read-only


def _load_digits() -> ImageDataset:
    """Load the 8x8 digits of UCI, shuffled: the file has them writer by writer."""
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
