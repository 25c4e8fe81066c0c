"""The conformance kit: what is right passes, what is wrong fails what names its bug, what breaks is a sentence.

How many were caught is printed at the end of a run of the tests.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from minizone.conformance import INVARIANTS, Function, Layer, conform, load, table
from minizone.conformance.invariants import NotOffered
from minizone.errors import UserError
from tests.conformance.museum import MUSEUM, Right

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "benchmarks" / "conformance"


def statuses(adapter):
    return {result.invariant.name: result.status for result in conform(adapter)}


def failed(adapter):
    return {name for name, status in statuses(adapter).items() if status == "FAIL"}


@pytest.mark.parametrize("adapter", [Function, Layer, Right])
def test_minizone_passes_every_invariant(adapter):
    results = conform(adapter)
    print(table(results))  # seen when it fails
    assert {result.status for result in results} == {"pass"}


@pytest.mark.parametrize("name, package", [("pytorch.py:PyTorch", "torch"), ("jax_scan.py:JAX", "jax")])
def test_the_lstms_of_chapter_18_pass_every_invariant(name, package):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    results = conform(load(f"{PEERS}/{name}"))
    print(table(results))
    assert {result.status for result in results} == {"pass"}


@pytest.mark.parametrize("exhibit", MUSEUM, ids=lambda exhibit: exhibit.__name__)
def test_each_wrong_zoneout_fails_what_names_its_bug_and_nothing_else(exhibit):
    assert exhibit.fails and failed(exhibit) == exhibit.fails


def test_every_wrong_zoneout_is_caught_and_every_invariant_catches_one(record_property):
    caught = {exhibit.__name__: failed(exhibit) for exhibit in MUSEUM}
    record_property("broken zoneouts caught", sum(map(bool, caught.values())))
    record_property("broken zoneouts in the museum", len(MUSEUM))
    assert len(MUSEUM) >= 12 and all(caught.values())
    assert set().union(*caught.values()) == {invariant.name for invariant in INVARIANTS}


class WithoutCells(Right):
    def __init__(self, W_x, W_h, b, z_h, z_c):
        if z_c:
            raise NotOffered("zones out h only")
        super().__init__(W_x, W_h, b, z_h, z_c)


class OneRate(Right):
    def __init__(self, W_x, W_h, b, z_h, z_c):
        if z_h != z_c:
            raise NotOffered("one probability for both")
        super().__init__(W_x, W_h, b, z_h, z_c)


class StepByStep:
    """Step by step with a generator that goes on, in float32, without a gradient."""

    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.inner, self.z = Right(*(a.astype(np.float32) for a in (W_x, W_h, b)), 0.0, 0.0), (z_h, z_c)

    def step(self, x, h, c, train, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        h, c = np.float32(h), np.float32(c)
        _, (new_h,), (new_c,) = self.inner.sequence(np.float32(x)[None], h, c, False, 0)
        keeps = [self.rng.random(h.shape) < z if train else z for z in self.z]
        h, c = (np.float32(k * old + (1 - k) * new) for k, old, new in zip(keeps, (h, c), (new_h, new_c), strict=True))
        return h, h, c


@pytest.mark.parametrize(
    "adapter, missing",
    [
        (WithoutCells, {"cells only", "candidate", "apart"}),
        (OneRate, {"cells only", "candidate"}),
        (StepByStep, {"gradient"}),
    ],
)
def test_what_an_implementation_cannot_do_is_not_a_failure(adapter, missing):
    found = statuses(adapter)
    assert {name for name, status in found.items() if status == "not offered"} == missing
    assert set(found.values()) == {"pass", "not offered"}


class NeverTheSameMasks(Right):
    count = 0

    def keeps(self, T, H, B, seed):
        type(self).count += 1
        return super().keeps(T, H, B, self.count)


def test_without_a_seed_all_but_the_gradient_is_tested():
    found = statuses(NeverTheSameMasks)
    assert found.pop("gradient") == "not offered" and set(found.values()) == {"pass"}


class NotANumber(Right):
    def mix(self, old, new, keep, z):
        return super().mix(old, new, keep, z) * np.nan


def test_what_is_not_a_number_fails():
    assert {"plain", "frozen", "either", "frequency", "expectation", "output", "gradient"} <= failed(NotANumber)


class Nothing(Right):
    def __init__(self, *arguments, **options):
        raise NotOffered("nothing")


class Raises(Right):
    def sequence(self, *arguments):
        raise RuntimeError("no such\nkernel")


class WrongShape(Right):
    def sequence(self, x, h, c, train, seed):
        return [a.swapaxes(1, 2) for a in super().sequence(x, h, c, train, seed)]


class WrongNumber(Right):
    def sequence(self, x, h, c, train, seed):
        return super().sequence(x, h, c, train, seed)[:2]


@pytest.mark.parametrize(
    "adapter, sentence",
    [
        (Nothing, "the adapter Nothing offers no zoneout, neither of h nor of c"),
        (Raises, "the adapter Raises raised RuntimeError in sequence: no such kernel"),
        (WrongShape, "the adapter WrongShape gave output of the shape"),
        (WrongNumber, "the adapter WrongNumber must return three arrays"),
    ],
)
def test_an_adapter_that_breaks_is_a_sentence(adapter, sentence):
    with pytest.raises(UserError, match=sentence):
        conform(adapter)


def conformance(*arguments, cwd=ROOT):
    command = [sys.executable, ROOT / "run.py", "conformance", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ}, timeout=120)


def test_the_command_prints_the_table_and_its_exit_status_says_whether_all_passed(tmp_path):
    right = conformance("minizone.conformance:Layer", "--save", tmp_path / "folder" / "layer.txt")
    assert right.returncode == 0 and right.stderr == "" and right.stdout.endswith("16 pass, 0 FAIL, 0 not offered\n")
    assert (tmp_path / "folder" / "layer.txt").read_text().endswith(right.stdout)
    wrong = conformance(ROOT / "tests" / "conformance" / "museum.py:OneMask")
    assert wrong.returncode == 1 and "15 pass, 1 FAIL" in wrong.stdout
    (row,) = (line for line in wrong.stdout.splitlines() if "FAIL  " in line)
    assert row.startswith("apart: ") and "correlation of the masks of h and c 1.000" in row and "state mask" in row


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("minizone.conformance", "expected MODULE:ADAPTER"),
        ("minizone.conformance:", "expected MODULE:ADAPTER"),
        ("minizone.conformance:Lstm", "there is no class 'Lstm' in minizone.conformance; its classes: "),
        ("no_such_module:A", "no_such_module is no file and no module"),
        ("no_such_file.py:A", "there is no file no_such_file.py"),
        ("here.py:A", "here.py needs no_such_package, which is not installed"),
        ("wrong.py:A", "wrong.py cannot be imported: SyntaxError"),
        ("raises.py:A", "the adapter A raised ValueError"),
    ],
)
def test_a_wrong_name_or_a_missing_package_is_one_sentence(tmp_path, monkeypatch, name, sentence):
    (tmp_path / "here.py").write_text("import no_such_package\n")
    (tmp_path / "wrong.py").write_text("class A(:\n")
    (tmp_path / "raises.py").write_text("def A(**options):\n    raise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        conform(load(name))


def test_the_command_ends_with_one_line_and_status_2():
    for arguments in (["no_such_module:A"], [], ["minizone.conformance:Layer", "--no-such-flag"]):
        done = conformance(*arguments)
        assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stderr
