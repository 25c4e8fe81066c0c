"""A thread in addition to those of the matrix products. NumPy releases the interpreter lock while it computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@contextmanager
def follower(worth: bool) -> Iterator[Callable[..., Any]]:
    """Yield a function: ``later(f, *arguments)`` calls f in a second thread, one call after the other.

    The context manager waits for all calls when it exits. Inside, every matrix product runs in the thread that calls
    it, so that the two threads have a core each. If a thread is not ``worth`` it, ``later`` calls f at once.
    """
    if not worth:
        yield lambda f, *arguments: f(*arguments)
        return
    jobs: list[Future[None]] = []
    with _blas().limit(limits=1, user_api="blas"):
        yield lambda f, *arguments: jobs.append(_executor().submit(copy_context().run, f, *arguments))
        for job in jobs:
            job.result()


@cache
def _executor() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="follower")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


if hasattr(os, "register_at_fork"):
    # A forked process does not have its parent's threads, so it must create its own.
    os.register_at_fork(after_in_child=_executor.cache_clear)
