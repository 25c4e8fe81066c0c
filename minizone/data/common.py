"""What all data sets have in common: three splits that can be cut short, and a stand-in where files are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from minizone.data.download import MissingFile, data_folder
from minizone.errors import UserError

SPLITS = ("train", "valid", "test")


def cut(data: Any, n_train: int, n_eval: int, unit: str) -> dict[str, Any]:
    """Return what changes when `n_train` of `train`, and `n_eval` each of `valid` and `test`, are kept: the name too.

    0 keeps all, and a negative number raises `UserError`. `unit` is what is counted: characters, words, images.
    """
    if min(n_train, n_eval) < 0:
        raise UserError(f"the number of {unit} to keep must not be negative, got {n_train} and {n_eval}")
    name = data.name
    if 0 < n_train < len(data.train):
        name += f", first {n_train:,} {unit}"
    if 0 < n_eval < max(len(data.valid), len(data.test)):
        name += f", evaluated on the first {n_eval:,}"
    sizes = zip(SPLITS, (n_train, n_eval, n_eval), strict=True)
    return {"name": name} | {split: getattr(data, split)[: n or None] for split, n in sizes}


def load_or_stand_in(
    title: str,
    loaders: Mapping[str, Callable[[], Any]],
    dataset: str,
    data_dir: str | Path | None,
    offline: bool,
    say: Callable[[str], None],
) -> Any:
    """Load the data set of that name, where "auto" is the first of `loaders` or, if its files are missing, the second.

    There is no stand-in where a `data_dir` was asked for, and none for a file that is there and broken. Where there is
    one, `say` receives one line about it, which calls what is missing by its `title`.
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
    forbidden = " (--offline)" if offline else ""
    say(
        f"{title} is neither in {data_folder(data_dir)} nor to be downloaded{forbidden}: this run uses the {data.name}"
        f" instead, and its numbers are not {title}'s (--data-dir takes a folder with {title}, --dataset {real} says"
        " what went wrong)"
    )
    return data
