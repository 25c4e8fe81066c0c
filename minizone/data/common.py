"""Code shared by the data sets of texts and images: three splits, parts of them, and stand-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from pathlib import Path
from typing import Protocol, TypeVar

from minizone.data.download import MissingFile, data_folder
from minizone.errors import UserError

SPLITS = ("train", "valid", "test")


class Dataset(Protocol):
    """A name for plots and tables, and three splits."""

    @property
    def name(self) -> str: ...
    @property
    def train(self) -> Sized: ...
    @property
    def valid(self) -> Sized: ...
    @property
    def test(self) -> Sized: ...


AnyDataset = TypeVar("AnyDataset", bound=Dataset)


def name_of_part(data: Dataset, n_train: int, n_eval: int, unit: str) -> str:
    """Return the name of the first `n_train` of `data.train` and the first `n_eval` of `data.valid` and `data.test`.

    0 means all. `unit` is what is counted: characters, words, images. A negative number raises `UserError`.
    """
    if min(n_train, n_eval) < 0:
        raise UserError(f"the number of {unit} to keep must not be negative, got {n_train} and {n_eval}")
    name = data.name
    if 0 < n_train < len(data.train):
        name += f", first {n_train:,} {unit}"
    if 0 < n_eval < max(len(data.valid), len(data.test)):
        name += f", evaluated on the first {n_eval:,}"
    return name


def load_or_stand_in(
    title: str,
    loaders: Mapping[str, Callable[[], AnyDataset]],
    dataset: str,
    data_dir: str | Path | None,
    offline: bool,
    say: Callable[[str], None],
) -> AnyDataset:
    """Load the data set called `dataset`.

    Parameters
    ----------
    title : str
        Name of the real data set in messages.
    loaders : dict
        Name -> loader, first of the real data set, then of its stand-in.
    dataset : str
        One of these names; or "auto", which loads the real data set, or the stand-in if files of the real one are
        missing and `data_dir` is None. A file that is damaged is an error in any case.
    data_dir, offline
        See `fetch`.
    say : callable
        Receives one line of text when "auto" loads the stand-in.
    """
    choices = ("auto", *loaders)
    if dataset not in choices:
        raise UserError(f"dataset must be one of {', '.join(choices)}, got {dataset!r}")
    if dataset != "auto":
        return loaders[dataset]()
    real, stand_in = loaders
    try:
        return loaders[real]()
    except MissingFile:
        if data_dir is not None:
            raise
    data = loaders[stand_in]()
    because = " (--offline)" if offline else ""
    say(
        f"{title} is not in {data_folder()} and cannot be downloaded{because}: this run uses the {data.name} instead,"
        f" and its numbers are not {title}'s. Give --data-dir with a folder that has {title}, or --dataset {real} to"
        " see what went wrong."
    )
    return data
