"""Every flag of every task with every value a person may mistype: it runs, or it is one sentence and nothing is made.

How many were tried is printed at the end of a run of the tests.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from minizone.errors import UserError
from minizone.experiments import char_ptb, pmnist, text8, word_ptb
from tests.helpers.fuzz import judged, little_memory

pytestmark = [
    pytest.mark.usefixtures("nobody_elses_files"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits its memory"),
]
TEXT = "--dataset manual --hidden-size 3 --seq-len 5 --train-symbols 40 --eval-symbols 20"
IMAGES = "--dataset digits --hidden-size 3 --train-examples 4 --eval-examples 4"
TASKS = {  # small flags, and of how many values one is tried: most flags of the third ones are those of others
    "char-ptb": (TEXT, 1),
    "pmnist": (IMAGES, 1),
    "seq2seq": ("--hidden-size 3 --updates-per-epoch 1 --valid-examples 4", 1),
    "semantic": ("", 1),
    "word-ptb": (TEXT, 3),
    "text8": (TEXT, 3),
    "gradients": (IMAGES, 3),
}
NUMBERS = ["-1", "0", "1", "0.5", "-0.5", "1.5", "nan", "inf", "-inf", "1e38", "1e39", "1e308", "-1e308", "1e400",
           "1e-30", "1e-320", "-0.0", "1e6", "1000001", "123456789", "9" * 12, "9" * 19, "9" * 30, "9" * 5000,
           f"-{'9' * 30}"]  # fmt: skip
WORDS = ["", " ", "x", "None", "True", "-", "--", "0x10", "1_0", "1,5", "0.5,", ",", "\u0663", "\udcff", "a\nb",
         "0.1,0.2", "nan,nan", "y" * 5000, "/dev/null", "/dev/full", "/proc/nowhere", "{file}", "{file}/below",
         "{folder}", "$_\\frac"]  # fmt: skip


@pytest.fixture
def small_data(monkeypatch):
    """The stand-ins, read once."""
    loaded: dict[Any, Any] = {}

    def once(load: Any) -> Any:
        def cached(dataset: str, *args: Any, **options: Any) -> Any:
            key = (load, dataset, options.get("form"))
            if dataset not in ("manual", "digits") or args[0] is not None:
                return load(dataset, *args, **options)
            if key not in loaded:
                loaded[key] = load(dataset, *args, **options)
            return loaded[key]

        return cached

    for module, name in ((char_ptb, "load_characters"), (word_ptb, "load_words"), (text8, "load_text8")):
        monkeypatch.setattr(module, name, once(getattr(module, name)))
    monkeypatch.setattr(pmnist, "load_images", once(pmnist.load_images))


def mistyped(settings: Any, folder: Path) -> list[str]:
    """Each flag of the settings without a value, with each number and with each word."""
    made = []
    values = [value.replace("{file}", str(folder / "file")).replace("{folder}", str(folder)) for value in WORDS]
    for field in fields(settings):
        name = field.name.replace("_", "-")
        made += [f"--{name}", f"--no-{name}", *(f"--{name}={value}" for value in NUMBERS + values)]
    return made


@pytest.fixture
def gradients_end_early(program, monkeypatch):
    """The four runs of gradients are those of pmnist: here none of them is trained, and that is the end."""

    def no_parameters(path: Path) -> None:
        raise UserError("nothing was trained in this test")

    monkeypatch.setattr(program.gradients, "fit", lambda *arguments: None)
    monkeypatch.setattr(program.gradients, "load_arrays", no_parameters)


@pytest.mark.usefixtures("small_data", "gradients_end_early")
@pytest.mark.parametrize("task", TASKS)
def test_every_flag_with_every_value(task, program, capsys, tmp_path, monkeypatch, record_property):
    work, given = tmp_path / "work", tmp_path / "given"
    given.mkdir()
    (given / "file").write_bytes(b"not a data file")
    small, every = TASKS[task]
    base = [task, "--epochs", "1", "--batch-size", "2", "--max-minutes", "1e-9", "--offline", *shlex.split(small)]
    statuses = []
    with little_memory():
        for flag in mistyped(program.TASKS[task].presets["quick"], given)[::every]:
            work.mkdir()
            monkeypatch.chdir(work)
            status, _ = judged(program, capsys, [*base, flag])
            assert status == 0 or not list(work.iterdir()), f"{flag[:100]} left {list(work.rglob('*'))}"
            statuses.append(status)
            shutil.rmtree(work)
    assert (given / "file").read_bytes() == b"not a data file"
    record_property("mistyped flags tried", len(statuses))
    assert set(statuses) == ({2} if task == "gradients" else {0, 2})
