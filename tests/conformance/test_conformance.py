"""The conformance kit on adapters with fewer options than minizone and on adapters that raise, and its command."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from minizone.conformance import NotOffered, conform, load
from minizone.conformance.broken import ReadableLSTM
from minizone.errors import UserError

PEERS = Path(__file__).resolve().parents[2] / "benchmarks" / "conformance"


def statuses(adapter):
    return {result.invariant.name: result.status for result in conform(adapter)}


@pytest.mark.parametrize("name, package", [("pytorch.py:PyTorch", "torch"), ("jax_scan.py:JAX", "jax")])
def test_lstms_of_chapter_18_pass_every_invariant(name, package):
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert set(statuses(load(f"{PEERS}/{name}")).values()) == {"pass"}


# ---- what an implementation cannot do


class WithoutCells(ReadableLSTM):
    def __init__(self, W_x, W_h, b, z_h, z_c):
        if z_c:
            raise NotOffered("zones out h only")
        super().__init__(W_x, W_h, b, z_h, z_c)


class OneRate(ReadableLSTM):
    def __init__(self, W_x, W_h, b, z_h, z_c):
        if z_h != z_c:
            raise NotOffered("one probability for both")
        super().__init__(W_x, W_h, b, z_h, z_c)


class StepByStep:
    """Step by step with a generator that goes on, in float32, without a gradient."""

    def __init__(self, W_x, W_h, b, z_h, z_c):
        self.plain = ReadableLSTM(np.float32(W_x), np.float32(W_h), np.float32(b), 0.0, 0.0)
        self.z_h, self.z_c = z_h, z_c

    def step(self, x, h, c, train, seed):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        h, c = np.float32(h), np.float32(c)
        _, new_h, new_c = self.plain.sequence(np.float32(x)[None], h, c, False, 0)
        keep_h = self.rng.random(h.shape) < self.z_h if train else self.z_h
        keep_c = self.rng.random(c.shape) < self.z_c if train else self.z_c
        h = np.float32(keep_h * h + (1 - keep_h) * new_h[0])
        c = np.float32(keep_c * c + (1 - keep_c) * new_c[0])
        return h, h, c


class NeverTheSameMasks(ReadableLSTM):
    count = 0

    def training_masks(self, T, H, B, seed):
        type(self).count += 1
        return super().training_masks(T, H, B, self.count)


@pytest.mark.parametrize(
    "adapter, missing",
    [
        (WithoutCells, {"cells only", "candidate", "apart"}),
        (OneRate, {"cells only", "candidate"}),
        (StepByStep, {"gradient"}),
        (NeverTheSameMasks, {"gradient"}),
    ],
)
def test_what_an_implementation_cannot_do_is_not_a_failure(adapter, missing):
    found = statuses(adapter)
    assert {name for name, status in found.items() if status == "not offered"} == missing
    assert set(found.values()) == {"pass", "not offered"}


# ---- what goes wrong is a failure, or one sentence


class NotANumber(ReadableLSTM):
    def zone_out(self, old, new, keep, z):
        return super().zone_out(old, new, keep, z) * np.nan


def test_what_is_not_a_number_fails():
    failed = {name for name, status in statuses(NotANumber).items() if status == "FAIL"}
    assert {"plain", "frozen", "either", "frequency", "expectation", "output", "gradient"} <= failed


@pytest.mark.parametrize("name", ["x", "h", "c", "W_x", "W_h", "b"])
def test_gradient_of_each_array_is_looked_at(name):
    class OneWrong(ReadableLSTM):
        def gradient(self, x, h, c, r, q, seed):
            gradients = super().gradient(x, h, c, r, q, seed)
            return gradients | {name: 1.01 * gradients[name]}

    (result,) = (result for result in conform(OneWrong) if result.status == "FAIL")
    assert result.invariant.name == "gradient" and f"(d{name})" in result.seen


class Nothing(ReadableLSTM):
    def __init__(self, *arguments, **options):
        raise NotOffered("nothing")


class Raises(ReadableLSTM):
    def sequence(self, *arguments):
        raise RuntimeError("no such\nkernel")


class WrongShape(ReadableLSTM):
    def sequence(self, x, h, c, train, seed):
        return [a.swapaxes(1, 2) for a in super().sequence(x, h, c, train, seed)]


class WrongNumber(ReadableLSTM):
    def sequence(self, x, h, c, train, seed):
        return super().sequence(x, h, c, train, seed)[:2]


@pytest.mark.parametrize(
    "adapter, sentence",
    [
        (Nothing, "the adapter Nothing offers no zoneout, neither of h nor of c"),
        (Raises, "the adapter Raises raised RuntimeError in sequence: no such kernel"),
        (WrongShape, "the adapter WrongShape returned output of shape"),
        (WrongNumber, "the adapter WrongNumber must return three arrays"),
    ],
)
def test_adapter_that_breaks_is_one_sentence(adapter, sentence):
    with pytest.raises(UserError, match=sentence):
        conform(adapter)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("minizone.conformance", "expected MODULE:ADAPTER"),
        ("minizone.conformance:", "expected MODULE:ADAPTER"),
        ("minizone.conformance:Lstm", "there is no class 'Lstm' in minizone.conformance; its classes: Function, Layer"),
        ("no_such_module:A", "no_such_module is not a file or a module"),
        ("no_such_file.py:A", "there is no file no_such_file.py"),
        ("here.py:A", "here.py needs no_such_package, which is not installed"),
        ("wrong.py:A", "wrong.py cannot be imported: SyntaxError"),
        ("raises.py:A", "the adapter A raised ValueError"),
    ],
)
def test_wrong_name_or_missing_package_is_one_sentence(tmp_path, monkeypatch, name, sentence):
    (tmp_path / "here.py").write_text("import no_such_package\n")
    (tmp_path / "wrong.py").write_text("class A(:\n")
    (tmp_path / "raises.py").write_text("def A(**options):\n    raise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=sentence):
        conform(load(name))


# ---- the command


def test_command_prints_the_table_and_its_exit_status_says_whether_all_passed(tmp_path, program, capsys):
    file = tmp_path / "folder" / "layer.txt"
    assert program.main(["conformance", "minizone.conformance:Layer", "--save", str(file)]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("16 pass, 0 FAIL, 0 not offered\n")
    assert file.read_text().endswith(printed)

    assert program.main(["conformance", "minizone.conformance.broken:CellMaskIsStateMask"]) == 1
    printed = capsys.readouterr().out
    assert "15 pass, 1 FAIL" in printed
    (row,) = (line for line in printed.splitlines() if "FAIL  " in line)
    assert row.startswith("apart: ") and "correlation of the masks of h and c 1.000" in row and "state mask" in row


@pytest.mark.parametrize("arguments", [["no_such_module:A"], [], ["minizone.conformance:Layer", "--no-such-flag"]])
def test_command_that_cannot_start_ends_with_one_line_and_status_2(arguments, program, capsys):
    assert program.main(["conformance", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and len(printed.err.splitlines()) == 1, printed.err
