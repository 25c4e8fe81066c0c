"""The stand-in for CuPy refuses what a GPU, or CuPy, would refuse, and counts what they would do."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import minizone
from minizone import backend
from tests import standin
from tests.standin import cuda as standin_cuda
from tests.standin import signatures as cupy_signatures
from tests.standin.signatures import TABLE

HOST = np.arange(6.0, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def xp():
    return standin.make()


@pytest.fixture
def x(xp):
    return xp.asarray(HOST)


# ---- refusals of arrays and functions

NUMPY = np.ones((2, 3), np.float32)
REFUSED = {
    "a ufunc of NumPy": (lambda xp, x: np.tanh(x), TypeError, r"np\.tanh was called with an array of the device"),
    "a function of NumPy": (lambda xp, x: np.sum(x), TypeError, r"np\.sum was called with an array of the device"),
    "np.asarray": (lambda xp, x: np.asarray(x), TypeError, "np.asarray was called with an array of the device"),
    "an operand of NumPy": (lambda xp, x: x + NUMPY, TypeError, "Unsupported type numpy.ndarray"),
    "an operand of NumPy, first": (lambda xp, x: NUMPY + x, TypeError, "np.add was called"),
    "a number of NumPy in NumPy": (lambda xp, x: np.exp(np.float32(1), x), TypeError, "np.exp was called"),
    "an operand of NumPy, in place": (lambda xp, x: x.__iadd__(NUMPY), TypeError, "Unsupported type numpy.ndarray"),
    "an operand of NumPy, compared": (lambda xp, x: x == NUMPY, TypeError, "Unsupported type numpy.ndarray"),
    "a list as an operand": (lambda xp, x: xp.add(x, [1, 2, 3]), TypeError, "Unsupported type builtins.list"),
    "None as an operand": (lambda xp, x: x * None, TypeError, "Unsupported type builtins.NoneType"),
    "an argument of NumPy": (lambda xp, x: xp.concatenate([x, NUMPY]), TypeError, "Unsupported type numpy.ndarray"),
    "a list as an argument": (lambda xp, x: xp.sum([1, 2]), TypeError, "Unsupported type builtins.list"),
    "an output of NumPy": (
        lambda xp, x: xp.tanh(x, out=NUMPY),
        TypeError,
        "Output arguments type must be cupy.ndarray",
    ),
    "an output of NumPy, of a function": (
        lambda xp, x: xp.sum(x, out=NUMPY),
        TypeError,
        "Output arguments type must be",
    ),
    "an output of another shape": (lambda xp, x: xp.tanh(x, out=xp.empty(3, "f")), ValueError, "mismatch"),
    "an output of another kind": (lambda xp, x: xp.tanh(x, out=xp.empty((2, 3), int)), TypeError, "Cannot cast"),
    "an index of NumPy": (lambda xp, x: x[np.array([0])], TypeError, "Unsupported type numpy.ndarray"),
    "an index of NumPy, assigned to": (lambda xp, x: x.__setitem__(np.array([0]), 0), TypeError, "Unsupported type"),
    "indices of numbers": (lambda xp, x: x[x], IndexError, "must be of integer or boolean type"),
    "assigning an array of NumPy": (
        lambda xp, x: x.__setitem__(0, np.ones(3)),
        TypeError,
        "Unsupported type numpy.ndarray",
    ),
    "assigning a list": (lambda xp, x: x.__setitem__(0, [1, 2, 3]), TypeError, "Unsupported type builtins.list"),
    "an index twice": (lambda xp, x: x.__setitem__(xp.asarray([0, 2]), x), RuntimeError, "names an element twice"),
    "a copy onto itself": (lambda xp, x: x.__setitem__((0, slice(1, 3)), x[0, :2]), RuntimeError, "overlap"),
    "an integer index too large": (lambda xp, x: x[2], IndexError, "out of bounds"),
    "where": (
        lambda xp, x: xp.add(x, x, where=x > 0),
        TypeError,
        r"cupy\.add\(\) got an unexpected keyword argument 'where'",
    ),
    "mode": (
        lambda xp, x: xp.take(x, 0, mode="clip"),
        TypeError,
        r"cupy\.take\(\) got an unexpected keyword argument 'mode'",
    ),
    "initial": (lambda xp, x: x.max(initial=0), TypeError, "unexpected keyword argument 'initial'"),
    "arguments too many": (lambda xp, x: xp.diagonal(x, 0, 0, 1, 2), TypeError, "takes 4 positional arguments but 5"),
    "an unknown function": (lambda xp, x: xp.add_at, AttributeError, "^module 'cupy' has no attribute 'add_at'$"),
    "what NumPy alone has": (lambda xp, x: xp.errstate, AttributeError, "^module 'cupy' has no attribute 'errstate'$"),
    "what the stand-in lacks": (lambda xp, x: xp.fft, NotImplementedError, "the stand-in has no cupy.fft"),
    "an unknown attribute": (
        lambda xp, x: x.itemset,
        AttributeError,
        "'cupy.ndarray' object has no attribute 'itemset'",
    ),
    "an unknown function of linalg": (lambda xp, x: xp.linalg.nothing, AttributeError, "has no attribute 'nothing'"),
    "an unknown distribution": (
        lambda xp, x: xp.random.default_rng(0).normal(),
        AttributeError,
        "no attribute 'normal'",
    ),
    "an unknown keyword of a draw": (lambda xp, x: xp.random.default_rng(0).random(shape=3), TypeError, "'shape'"),
    "an unknown method of a ufunc": (lambda xp, x: xp.add.identity, AttributeError, "no attribute 'identity'"),
    "maximum.reduce": (
        lambda xp, x: xp.maximum.reduce(x),
        NotImplementedError,
        r"`cupy_maximum\.reduce` is not supported yet",
    ),
    "multiply.reduceat": (lambda xp, x: xp.multiply.reduceat(x, [0]), NotImplementedError, "not supported"),
    "multiply.at": (lambda xp, x: xp.multiply.at(x, xp.asarray([0]), x), NotImplementedError, "not supported"),
    "add.at of int64": (
        lambda xp, x: xp.add.at(xp.zeros(3, int), xp.asarray([0]), 1),
        TypeError,
        "does not support int64",
    ),
    "strings": (lambda xp, x: xp.asarray(["a"]), ValueError, "Unsupported dtype"),
    "an array as a hash": (lambda xp, x: hash(x), TypeError, "unhashable"),
    "an array as a range": (lambda xp, x: range(xp.asarray(3)), TypeError, "cannot be interpreted as an integer"),
    "a pickle": (lambda xp, x: pickle.dumps(x), NotImplementedError, "does not pickle arrays"),
    "memory of another": (lambda xp, x: standin.make().tanh(x), TypeError, "Unsupported type"),
    "capture of the null stream": (
        lambda xp, x: xp.cuda.Stream.null.begin_capture(),
        RuntimeError,
        "default .legacy. stream",
    ),
    "a second device": (lambda xp, x: xp.cuda.Device(1), RuntimeError, "invalid device ordinal"),
    "a graph from nothing": (lambda xp, x: xp.cuda.Graph(), NotImplementedError, "made by a stream"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cupy_refuses_is_refused(what, xp, x):
    call, error, message = REFUSED[what]
    with pytest.raises(error, match=message):
        call(xp, x)
    assert_array_equal(x.get(), HOST)


def test_arrays_are_not_those_of_numpy(xp, x):
    assert not isinstance(x, np.ndarray)
    assert isinstance(x, xp.ndarray) and isinstance(xp.ndarray((2, 3), "f"), xp.ndarray)
    assert xp.get_array_module(NUMPY, x) is xp and xp.get_array_module(NUMPY, 1.0) is np


def test_a_tensor_is_asked_first(xp, x, monkeypatch):
    monkeypatch.setattr(backend, "cupy", xp)
    assert isinstance(x * minizone.Tensor(x), minizone.Tensor)


@pytest.mark.parametrize(
    "compute",
    [
        lambda xp, x: x + 1,
        lambda xp, x: 2.0 / (x + 1),
        lambda xp, x: np.float32(2) * x,
        lambda xp, x: np.float64(2) * x,
        lambda xp, x: -x @ x.T,
        lambda xp, x: x.sum(axis=0),
        lambda xp, x: x.mean(),
        lambda xp, x: x[1],
        lambda xp, x: x[1, 2],
        lambda xp, x: x.max(axis=-1, keepdims=True),
        lambda xp, x: xp.tanh(x, dtype="d"),
        lambda xp, x: xp.stack([x, x]).reshape(-1),
        lambda xp, x: xp.where(x > 2, x, 0),
        lambda xp, x: xp.linalg.norm(x),
        lambda xp, x: xp.add.reduceat(x, xp.asarray([0, 1]), axis=1),
        lambda xp, x: x.astype(np.float64).transpose(1, 0),
        lambda xp, x: (x * 1j).imag + x.imag,
        lambda xp, x: xp.ogrid[0:2, 0:3][1] * x,
        lambda xp, x: x[:, xp.asarray([2, 0])],
        lambda xp, x: x[x > 2],
        lambda xp, x: xp.unique(x),
        lambda xp, x: xp.full((2, 2), 3),
        lambda xp, x: next(iter(x)),
        lambda xp, x: copy.deepcopy(x),
    ],
)  # fmt: skip
def test_the_numbers_and_types_are_those_of_numpy(compute, xp, x):
    expected = compute(np, HOST)
    actual = compute(xp, x)
    assert isinstance(actual, xp.ndarray)
    assert (actual.shape, actual.dtype) == (np.shape(expected), np.asarray(expected).dtype)
    assert_array_equal(actual.get(), expected)


def test_indices_out_of_range_wrap_around(xp, x):
    far = xp.asarray([3, -4])
    assert_array_equal(x[0, far].get(), HOST[0, [0, 2]])
    assert_array_equal(x[..., far].get(), HOST[:, [0, 2]])
    assert_array_equal(xp.take(x, far, axis=1).get(), HOST[:, [0, 2]])
    assert_array_equal(x.take(7).get(), 1)
    xp.add.at(x, (slice(None), far), 10)
    x[:, far] -= 10
    assert_array_equal(x.get(), HOST)


def test_results_are_contiguous_where_those_of_numpy_follow_their_operands(xp, x):
    assert not (HOST.T + 1).flags.c_contiguous
    for y in (x.T + 1, xp.tanh(x.T), xp.stack([x.T, x.T]), x.T[:, xp.asarray([1, 0])], xp.asarray(HOST.T).copy()):
        assert y.flags.c_contiguous
    assert xp.asarray(HOST.T).flags.f_contiguous and xp.zeros_like(x.T).flags.f_contiguous


def test_new_memory_is_full_of_rubbish(xp, x):
    assert np.isnan(xp.empty(3).get()).all() and np.isnan(xp.empty_like(x).get()).all()
    assert (xp.empty((2, 2), int).get() == -1).all() and xp.empty(2, bool).get().all()


def test_random_numbers_are_a_function_of_the_seed(xp):
    draw = [xp.random.Generator(xp.random.Philox4x3210(seed)).random((4,), dtype=np.float32) for seed in (1, 1, 2)]
    assert draw[0].dtype == np.float32 and draw[0].shape == (4,)
    assert_array_equal(draw[0].get(), draw[1].get())
    assert (draw[0] != draw[2]).any()
    out = xp.empty(3)
    assert xp.random.default_rng(0).standard_normal(out=out) is out
    assert xp.random.default_rng(0).integers(0, 5, size=3, dtype=np.int32).dtype == np.int32


# ---- counts

ONE_LAUNCH, COPY = {"launches": 1, "allocations": 1}, {"launches": 2, "allocations": 1}
FETCH = {"to_host": 1, "synchronizations": 1}
COUNTED = {
    "views": (
        lambda xp, x: (x.T, x[0], x[1:, 0], x.reshape(3, 2), x[0, 0], xp.broadcast_to(x, (4, 2, 3)), repr(x)),
        {},
    ),
    "what is there already": (lambda xp, x: (xp.asarray(x), xp.ascontiguousarray(x), x.astype("f", copy=False)), {}),
    "new memory": (lambda xp, x: xp.empty(3), {"allocations": 1}),
    "a ufunc": (lambda xp, x: x + 1, ONE_LAUNCH),
    "a ufunc with out": (lambda xp, x: xp.tanh(x, out=x), {"launches": 1}),
    "in place": (lambda xp, x: x.__imul__(2), {"launches": 1}),
    "an output that overlaps": (lambda xp, x: xp.add(x[0], 1, out=x[0]), COPY),
    "a function": (lambda xp, x: x.sum(axis=0), ONE_LAUNCH),
    "a function with out": (lambda xp, x: xp.sum(x, axis=0, out=x[0]), {"launches": 1}),
    "a copy": (lambda xp, x: x.T.reshape(-1), ONE_LAUNCH),
    "a sort in place": (lambda xp, x: x.sort(), {"launches": 1}),
    "a product": (lambda xp, x: x @ x.T, {**ONE_LAUNCH, "gemms": 1}),
    "an assignment": (lambda xp, x: x.__setitem__(0, x[1]), {"launches": 1}),
    "a fill": (lambda xp, x: x.fill(0), {"launches": 1}),
    "an assignment to itself": (lambda xp, x: x.__setitem__(0, x[0]), {}),
    "indices": (lambda xp, x: x[x.i], ONE_LAUNCH),
    "take": (lambda xp, x: xp.take(x, 1, axis=0), ONE_LAUNCH),
    "a list of indices": (lambda xp, x: x[[1, 0]], {"launches": 1, "allocations": 2, "to_device": 1}),
    "to the device": (lambda xp, x: xp.asarray(NUMPY), {"to_device": 1, "allocations": 1}),
    "a number to the device": (lambda xp, x: xp.array(1.5), {"to_device": 1, "allocations": 1}),
    "into an array of the device": (lambda xp, x: x.set(NUMPY), {"to_device": 1}),
    "float": (lambda xp, x: float(x[0, 0]), FETCH),
    "int": (lambda xp, x: int(x[0, 0]), FETCH),
    "bool": (lambda xp, x: bool(x[0, 0]), FETCH),
    "item": (lambda xp, x: x[0, 0].item(), FETCH),
    "tolist": (lambda xp, x: x.tolist(), FETCH),
    "get": (lambda xp, x: x.get(), FETCH),
    "asnumpy": (lambda xp, x: xp.asnumpy(x), FETCH),
    "a formatted number": (lambda xp, x: f"{x[0, 0]:.2f}", FETCH),
    "asnumpy of NumPy": (lambda xp, x: xp.asnumpy(NUMPY), {}),
    "unique": (lambda xp, x: xp.unique(x), {**ONE_LAUNCH, "synchronizations": 1}),
    "flatnonzero": (lambda xp, x: xp.flatnonzero(x), {**ONE_LAUNCH, "synchronizations": 1}),
    "nonzero": (lambda xp, x: x[0].nonzero(), {**ONE_LAUNCH, "synchronizations": 1}),
    "a mask as an index": (lambda xp, x: x[x.mask], {**ONE_LAUNCH, "synchronizations": 1}),
    "an assignment behind a mask": (lambda xp, x: x.__setitem__(x.mask, 0), {"launches": 1, "synchronizations": 1}),
    "waiting": (lambda xp, x: xp.cuda.get_current_stream().synchronize(), {"synchronizations": 1}),
    "waiting for the device": (lambda xp, x: xp.cuda.Device().synchronize(), {"synchronizations": 1}),
    "nothing at all": (lambda xp, x: xp.tanh(x[:0], out=x[:0]), {}),
}


@pytest.mark.parametrize("what", COUNTED)
def test_counts(what, xp):
    class Prepared(xp.ndarray):
        """With indices and a mask, which are there before anything is counted."""

        i, mask = xp.asarray([1, 0]), xp.asarray(HOST > 2)

    x = Prepared._of(HOST.copy(), xp.asarray(HOST).holder)
    call, expected = COUNTED[what]
    with xp.counting() as counts:
        call(xp, x)
    assert {name: n for name, n in vars(counts).items() if n} == expected


# ---- memory


def test_memory_is_counted_until_the_last_view_is_gone(xp):
    pool = xp.get_default_memory_pool()
    x = xp.empty(1000)
    view = x[::2]
    assert pool.used_bytes() == 8192 and view.base is x and view.data.ptr == x.data.ptr
    del x
    assert pool.used_bytes() == 8192
    del view
    assert (pool.used_bytes(), pool.total_bytes(), pool.free_bytes()) == (0, 8192, 8192)
    assert xp.cuda.Device().mem_info == (standin_cuda.TOTAL_MEMORY - 8192, standin_cuda.TOTAL_MEMORY)
    pool.free_all_blocks()
    assert pool.total_bytes() == 0


def test_memory_can_be_made_to_run_out(xp):
    xp.too_large = 100
    xp.empty(10)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError, match="Out of memory allocating 8,000 bytes"):
        xp.zeros(1000)
    xp.zeros(1000)


# ---- the table of what CuPy has


def test_the_table_is_right_for_the_cupy_that_is_installed():
    """A newer CuPy may have more, but nothing less."""
    pytest.importorskip("cupy")
    now = cupy_signatures.signatures()
    for name, parameters in TABLE.items():
        if name != "__version__":
            assert name in now, name
            assert not parameters or now[name] is None or set(parameters.split()) <= set(now[name].split()), name


INTERNAL = """
    counts counting too_large holders streams pool cublas stream_stack refuse launch synchronize fetch to_device new
    arrays unwrap operand wrap ndarray.holder ndarray.raw cuda.Event.ptr cuda.Event.time
    cuda.Stream.ptr cuda.Stream.operations cuda.Stream.broken
"""


@pytest.mark.parametrize(
    "namespace",
    ["", "ndarray", "random", "cuda", "cuda.runtime", "cuda.memory"]
    + [f"cuda.{name}" for name in ("Stream", "Event", "Device", "Graph", "MemoryPool")],
)
def test_the_stand_in_has_nothing_that_cupy_has_not(namespace, xp):
    owner = xp
    for part in filter(None, namespace.split(".")):
        owner = getattr(owner, part)
    names = [*dir(owner), *(vars(owner()) if namespace in ("cuda.Stream", "cuda.Event") else [])]
    for name in names:
        full = f"{namespace}.{name}".lstrip(".")
        if name.startswith("_") or full in INTERNAL.split():
            continue
        assert full in TABLE
        thing = getattr(owner, name, None)
        if inspect.isfunction(thing) and TABLE[full] is not None:
            mine = inspect.signature(thing).parameters
            assert list(mine) == re.sub(r"[*/] |[*]{1,2}", "", TABLE[full]).split(), full
