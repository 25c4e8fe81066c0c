"""Devices on a machine without a GPU, random streams, and Bernoulli masks whose probability is exact."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from minizone import backend
from minizone.backend import Device, array_module, bernoulli, normal, stream, synchronize, to_device, to_host
from minizone.errors import UserError
from tests import standin

SIGMAS = 5  # allowed deviation of a frequency; a correct generator exceeds it once in 1.7 million tests
GENERATORS = [np.random.MT19937, np.random.PCG64, np.random.Philox, np.random.SFC64]


# ---- devices


@pytest.fixture
def cupy(monkeypatch) -> standin.Cupy:
    """A stand-in for CuPy where `minizone.backend` has CuPy."""
    stand_in = standin.make()
    monkeypatch.setattr(backend, "cupy", stand_in)
    return stand_in


def without_a_device(error: str | None = None) -> standin.Cupy:
    """A CuPy that counts no device, or cannot count them."""

    def count() -> int:
        if error:
            raise cupy.cuda.runtime.CUDARuntimeError(error)
        return 0

    cupy = standin.make()
    cupy.cuda.runtime.getDeviceCount = count
    return cupy


def test_arrays_belong_to_numpy_unless_one_of_them_is_an_array_of_cupy(cupy, monkeypatch):
    host = np.zeros(2)
    assert array_module(host, cupy.asarray(host)) is cupy
    for with_or_without in (cupy, None):
        monkeypatch.setattr(backend, "cupy", with_or_without)
        assert array_module(host, np.float32(1), 2.0, None) is array_module() is np


def test_the_cpu_is_always_there(monkeypatch):
    for cupy in (None, without_a_device(), without_a_device("no driver")):
        monkeypatch.setattr(backend, "cupy", cupy)
        assert Device().name == "cpu"
        assert Device("cpu").xp is np
        synchronize(Device("cpu"))


@pytest.mark.parametrize("name", ["tpu", "GPU", ""])
def test_there_are_two_devices(name):
    with pytest.raises(UserError, match=f"^device must be cpu or gpu, got {name!r}$"):
        Device(name)


@pytest.mark.parametrize(
    ("cupy", "reason"),
    [
        (None, "needs CuPy.*requirements-gpu.txt"),
        (without_a_device(), "there is no CUDA device in this machine"),
        (without_a_device("cudaErrorNoDevice: no device"), r"no usable CUDA device \(cudaErrorNoDevice: no device\)"),
    ],
    ids=["no CuPy", "no device", "no driver"],
)
def test_a_missing_gpu_is_one_sentence_that_says_what_to_do(cupy, reason, monkeypatch):
    monkeypatch.setattr(backend, "cupy", cupy)
    with pytest.raises(UserError, match=reason) as error:
        Device("gpu")
    assert "--device cpu" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__suppress_context__ or error.value.__context__ is None


def test_arrays_go_to_the_gpu_and_back(cupy):
    gpu, array = Device("gpu"), np.arange(3.0)
    there = to_device(array, gpu)
    assert gpu.xp is cupy
    assert isinstance(there, standin.ndarray)
    assert to_device(there, gpu) is there
    assert_array_equal(to_host(there), array)
    assert_array_equal(to_device(there, Device("cpu")), array)


def test_only_a_gpu_is_waited_for(cupy):
    synchronize(Device("cpu"))
    assert cupy.counts.synchronizations == 0
    synchronize(Device("gpu"))
    assert cupy.counts.synchronizations == 1


def test_what_is_on_the_cpu_is_not_copied():
    array = np.ones((3, 4))[:, ::2]
    assert to_host(array) is array
    assert to_device(array, Device("cpu")) is array


# ---- streams

STREAMS = [
    (0, "masks"),
    (1, "masks"),
    (0, "noise"),
    (0, "mask"),
    (0, "masks", 1),
    (0, "masks", 2),
    (1, "masks", 1),
    (0, "masks", 1, 1),
    (0, "masks", 1, 2),
    (0, "masks", 2, 1),
    (0, "masks", 2**32 - 1, 1),
    (0, "masks", 1, 1, 1),
]


@pytest.mark.parametrize("key", STREAMS, ids=str)
def test_a_stream_is_a_function_of_its_key(key):
    once, again = stream(*key), stream(*key, device=Device("cpu"))
    np.random.default_rng(5).random()
    assert_array_equal(once.random(100), again.random(100))
    assert once.random() == again.random()


def test_a_stream_gives_the_same_numbers_in_every_process_and_version():
    """A resumed run draws the masks of the run that was interrupted."""
    assert stream(1, "masks", 2, 3).bit_generator.random_raw() == 9553651743877355625


def test_streams_are_independent():
    """Of 2 x 10,000 numbers, correlations over 5/100: two different keys, at the same place or one apart."""
    n = 10_000
    drawn = {key: stream(*key).standard_normal(n) for key in STREAMS}
    for one, other in itertools.combinations(STREAMS, 2):
        for lag in (-1, 0, 1):
            correlation = np.roll(drawn[one], lag) @ drawn[other] / n
            assert abs(correlation) < SIGMAS / np.sqrt(n), (one, other, lag)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "masks"), (0, "masks", 0)),
        ((0, "masks", 3), (0, "masks", 3, 0)),
        ((0, "masks", 2**32 + 5), (0, "masks", 5, 1)),
        ((0, "masks", 0), (0, "masks", 2**32)),
    ],
    ids=str,
)
def test_streams_with_zeros_and_large_numbers_in_their_keys_differ(one, other):
    """A `SeedSequence` writes its numbers as 32-bit words one after the other, and fills up with zeros."""
    assert stream(*one).random() != stream(*other).random()


def test_a_stream_on_the_gpu_is_a_function_of_its_key_too(cupy):
    drawn = [tuple(stream(*key, device=Device("gpu")).random((4,)).get()) for key in [*STREAMS, *STREAMS]]
    assert drawn[: len(STREAMS)] == drawn[len(STREAMS) :]
    assert len(set(drawn)) == len(STREAMS)


# ---- masks


def assert_frequency(ones: int, n: int, p: float) -> None:
    """The number of ones is within 5 standard deviations of the binomial distribution."""
    assert abs(ones - n * p) <= SIGMAS * np.sqrt(n * p * (1 - p)), f"{ones} ones in {n}, expected {n * p:.1f}"


@pytest.mark.parametrize("bits", GENERATORS, ids=lambda g: g.__name__)
@pytest.mark.parametrize("p", [0.05, 1 / 3, 0.5, 0.95])
def test_ones_are_as_frequent_as_asked_in_each_quarter_of_a_word(p, bits):
    n = 2**18
    mask = bernoulli(np.random.Generator(bits(1)), p, (n, 4))  # a row for each 64-bit word
    assert_frequency(int(mask.sum()), 4 * n, p)
    for lane in range(4):
        assert_frequency(int(mask[:, lane].sum()), n, p)


@pytest.mark.parametrize("p", [0.5 / 65536, 1.25 / 65536, 2.75 / 65536, 1 - 0.5 / 65536])
def test_a_probability_between_two_multiples_of_a_65536th_is_exact(p):
    """16 bits alone would make it one of its neighbours: 11 or more standard deviations away, in 16 million draws."""
    n = 2**24
    rare = bernoulli(stream(0, "test"), p, (n,), np.bool_)
    assert_frequency(int(np.count_nonzero(rare)), n, p)


@pytest.mark.parametrize("bits", GENERATORS, ids=lambda g: g.__name__)
def test_neighbours_are_uncorrelated(bits):
    """Up to a distance of 9 elements, across the four that share a word and into the next words."""
    n = 2**20
    signs = 2 * bernoulli(np.random.Generator(bits(2)), 0.5, (n,)) - 1
    for lag in range(1, 10):
        assert abs(signs[lag:] @ signs[:-lag]) < SIGMAS * np.sqrt(n), lag


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.bool_])
def test_probabilities_0_and_1_are_certain(dtype):
    """Among a million draws each of the 65536 values of 16 bits occurs, the lowest and the highest included."""
    assert not bernoulli(stream(0, "test"), 0.0, (2**20,), dtype).any()
    assert bernoulli(stream(0, "test"), 1.0, (2**20,), dtype).all()


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3,), (4,), (5,), (7, 3), (2, 3, 5), (0,), (3, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.bool_])
def test_a_mask_has_the_shape_and_dtype_asked_for(shape, dtype):
    mask = bernoulli(stream(0, "test"), 0.5, shape, dtype)
    assert mask.shape == shape
    assert mask.dtype == dtype
    assert np.isin(mask, [0, 1]).all()


def test_a_mask_is_float32_by_default():
    assert bernoulli(stream(0, "test"), 0.5, (3,)).dtype == np.float32
    assert normal(stream(0, "test"), (3,)).dtype == np.float32


def test_a_mask_is_a_function_of_the_stream_and_the_next_one_is_another():
    rng, same = stream(0, "test"), stream(0, "test")
    first, second = bernoulli(rng, 0.3, (50, 50)), bernoulli(rng, 0.3, (50, 50))
    assert_array_equal(first, bernoulli(same, 0.3, (50, 50)))
    assert_array_equal(second, bernoulli(same, 0.3, (50, 50)))
    assert_frequency(int((first * second).sum()), 2500, 0.3**2)  # independent of one another


def test_elements_are_independent_of_their_place_in_the_shape():
    """A fresh number for each element: no row, column or plane is a copy of another."""
    mask = bernoulli(stream(0, "test"), 0.5, (6, 64, 64)).reshape(6, 64, 64)
    for axis in range(3):
        planes = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1)
        assert len(np.unique(planes, axis=0)) == len(planes)


@pytest.mark.parametrize("p", [0.0, 0.25, 1.0])
def test_a_mask_on_the_gpu(cupy, p):
    mask = to_host(bernoulli(stream(0, "test", device=Device("gpu")), p, (1000, 4)))
    assert (mask.shape, mask.dtype) == ((1000, 4), np.float32)
    assert_frequency(int(mask.sum()), 4000, p)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_normal_numbers_have_mean_0_variance_1_and_the_dtype_asked_for(dtype):
    n = 10_000
    x = normal(stream(0, "test"), (n // 4, 4), dtype)
    assert x.shape == (n // 4, 4)
    assert x.dtype == dtype
    wide = x.astype(np.float64)
    assert abs(wide.mean()) < SIGMAS / np.sqrt(n)
    assert abs((wide**2).mean() - 1) < SIGMAS * np.sqrt(2 / n)
    assert abs((wide**4).mean() - 3) < SIGMAS * np.sqrt(96 / n)


def test_normal_numbers_in_float64_have_all_their_digits():
    x = normal(stream(0, "test"), (100,), np.float64)
    assert (x != x.astype(np.float32)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="asks for what glibc does")
def test_freed_memory_is_kept_when_asked():
    """64 MB, touched and freed ten times: about 16,384 page faults each, unless the pages are kept (or huge)."""
    script = (
        "import resource, sys, numpy as np\n"
        "from minizone.backend import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "np.ones(2**24, np.float32)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(10): np.ones(2**24, np.float32)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    faults = {
        how: int(subprocess.run([sys.executable, "-c", script, how], capture_output=True, env=environment).stdout)
        for how in ("keep", "return")
    }
    assert faults["keep"] < 1000 < faults["return"]
