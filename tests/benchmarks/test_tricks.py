"""An LSTM without one of the tricks computes the same numbers, so the same problem is timed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    "without_thread_behind_the_loop",
    "without_joined_product",
    "without_16_bit_masks",
    "without_wide_inputs_at_once",
    "without_large_matrix_once",
    "without_kept_memory",
]
PROGRAM = """
import numpy as np
import minizone

T, B, D, H = 4, 3, 2, 5
rng = np.random.default_rng(0)
x, h0, c0, dh = (rng.standard_normal(size) for size in ((T, D, B), (H, B), (H, B), (T, H, B)))
W_x, W_h, b = (minizone.Tensor(rng.standard_normal(size)) for size in ((4 * H, D), (4 * H, H), 4 * H))
keep_h, keep_c, input_mask = (rng.integers(0, 2, (T, H, B)).astype(float) for _ in range(3))
h, _ = minizone.lstm(x, h0, c0, W_x, W_h, b, keep_h=keep_h, keep_c=keep_c, input_mask=input_mask)
h.backward(dh)
found = {"h": h.data, "dW_x": W_x.grad, "dW_h": W_h.grad, "db": b.grad}
"""


def test_every_trick_is_tested(benchmarks):
    import tricks

    assert {trick.take_out.__name__ for trick in tricks.TRICKS} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_without_the_trick_the_numbers_are_the_same(tmp_path, benchmarks, name):
    expected: dict = {}
    exec(PROGRAM, expected)
    path = tmp_path / "found.npz"
    taken_out = f"import sys; sys.path[:0] = {[str(ROOT), str(benchmarks)]}; import tricks; tricks.{name}()"
    save = f"np.savez({str(path)!r}, **found)"
    subprocess.run([sys.executable, "-c", f"{taken_out}\n{PROGRAM}\n{save}"], check=True, timeout=120)
    with np.load(path) as found:
        assert set(found) == {"h", "dW_x", "dW_h", "db"}
        for array in found:
            np.testing.assert_allclose(found[array], expected["found"][array], rtol=1e-10, atol=1e-12)


def test_a_constant_that_has_another_name_now_is_an_error(benchmarks):
    import tricks

    with pytest.raises(AttributeError):
        tricks.change(tricks, "NO_SUCH_CONSTANT", 1)
