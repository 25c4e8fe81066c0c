"""Threads of our own beside those of the matrix products; NumPy lets go of the interpreter while it computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

from minizone.backend import cores


def in_threads(function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
    """``[function(x) for x in arguments]``, in parallel."""
    if len(arguments) == 1:
        return [function(arguments[0])]
    running = [_pool().submit(copy_context().run, function, x) for x in arguments]  # with the caller's np.errstate
    return [each.result() for each in running]


@contextmanager
def follower(worth: bool) -> Iterator[Callable[..., Any]]:
    """A context that gives a function: ``later(f, *arguments)`` calls f in one thread behind the caller's, in turn.

    The end of the context waits for all calls. Inside it, each matrix product stays in the thread that asks for it.
    Where it is not ``worth`` it, ``later`` calls at once.
    """
    if not worth:
        yield lambda f, *arguments: f(*arguments)
        return
    jobs: list[Future[None]] = []
    with one_blas_thread():
        yield lambda f, *arguments: jobs.append(_follower().submit(copy_context().run, f, *arguments))
        for job in jobs:
            job.result()


def one_blas_thread() -> AbstractContextManager[Any]:
    """A context in which a matrix product runs in the thread that asks for it, and the other cores are left to us."""
    return _blas().limit(limits=1, user_api="blas")


def _forget_threads() -> None:
    """A forked process has none of its parent's threads: it makes its own."""
    _pool.cache_clear()
    _follower.cache_clear()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), thread_name_prefix="part")


@cache
def _follower() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="follower")


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
