"""Worker threads: jobs run in order, with the caller's settings and without BLAS's threads; exceptions; forks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minizone.kernels.cpu.threads import follower

ROOT = Path(__file__).resolve().parents[2]


def blas_threads() -> list[int]:
    """Of NumPy's BLAS."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return [pool["num_threads"] for pool in pools if "numpy" in pool["filepath"] or len(pools) == 1]


@pytest.mark.parametrize("worth", [True, False])
def test_a_follower_does_what_it_is_told_in_turn_and_is_done_at_the_end(worth):
    done = []

    def slow(k: int) -> None:
        time.sleep(0.002 * (5 - k))
        done.append((k, threading.current_thread().name))

    with follower(worth) as later:
        for k in range(5):
            later(slow, k)
    assert [k for k, _ in done] == [0, 1, 2, 3, 4]
    assert all(name.startswith("follower") == worth for _, name in done)


@pytest.mark.parametrize("worth", [True, False])
def test_an_exception_of_a_follower_arrives(worth):
    with pytest.raises(ZeroDivisionError), follower(worth) as later:
        later(lambda: 1 / 0)
    with follower(worth) as later:  # and the next one works
        later(lambda: None)


def test_a_follower_has_the_callers_floating_point_settings():
    with np.errstate(divide="raise"), pytest.raises(FloatingPointError), follower(True) as later:
        later(lambda: np.ones(1) / np.zeros(1))


def test_blas_has_one_thread_inside_and_what_it_had_before_outside():
    with threadpool_limits(2, user_api="blas"):  # also where the environment says 1
        check_blas_threads()


def check_blas_threads() -> None:
    before = blas_threads()
    assert before and set(before) == {2}
    with follower(True):
        assert set(blas_threads()) == {1}
    assert blas_threads() == before
    with follower(False):
        assert blas_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_makes_threads_of_its_own():
    code = """
import os, sys
from minizone.kernels.cpu.threads import follower
def use():
    done = []
    with follower(True) as later:
        later(done.append, 1)
    return done
use()
child = os.fork()
if child == 0:
    os._exit(0 if use() == [1] else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, timeout=60)
    assert done.returncode == 0
