"""The gradient checker: it detects and locates gradients that are wrong on purpose, and accepts correct ones."""

from __future__ import annotations

import re

import numpy as np
import pytest

from minizone.autograd import ops
from minizone.autograd.gradcheck import GradientError, gradcheck
from minizone.autograd.tensor import Function

A, B = np.random.default_rng(0).standard_normal((2, 3, 3))
METHODS = pytest.mark.parametrize("method", ["complex", "difference"])


class Product(Function):
    """``a * b``, whose right gradients ``spoil`` may replace: ``spoil(ga, gb)`` is what backward returns."""

    def __init__(self, spoil):
        self.spoil = spoil

    def forward(self, a, b):
        self.a, self.b = a, b
        return a * b

    def backward(self, gy):
        return self.spoil(gy * self.b, gy * self.a)


class Rectifier(Function):
    """max(x, 0), which is not analytic, written with an absolute value."""

    def forward(self, x):
        self.x = x
        return 0.5 * (x + abs(x))

    def backward(self, gy):
        return gy * (self.x > 0)


class Both(Function):
    """exp(x) and sin(x), the gradient of the second output off by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def forward(self, x):
        self.x = x
        return np.exp(x), np.sin(x)

    def backward(self, g_exp, g_sin):
        return g_exp * np.exp(self.x) + self.factor * g_sin * np.cos(self.x)


def one_element(g: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    g = g.copy()
    g[index] = value
    return g


def product(spoil):
    return lambda a, b: Product(spoil)(a, b)


# ---- wrong gradients ------------------------------------------------------------------------------------------------

SPOILED = {
    "scaled": lambda ga, gb: (ga, 1.001 * gb),
    "scaled a little": lambda ga, gb: (ga, (1 + 1e-5) * gb),
    "of the wrong sign": lambda ga, gb: (ga, -gb),
    "zero": lambda ga, gb: (ga, 0 * gb),
    "shifted": lambda ga, gb: (ga, gb + 1e-3),
    "transposed": lambda ga, gb: (ga, gb.T),
    "of the other argument": lambda ga, gb: (ga, ga),
    "rolled": lambda ga, gb: (ga, np.roll(gb, 1)),
    "wrong in one element": lambda ga, gb: (ga, one_element(gb, (1, 2), 7.0)),
    "rounded to float16": lambda ga, gb: (ga, gb.astype(np.float16).astype(np.float64)),
}
NUMBERS = re.compile(r"backward gives (\S+), the (complex|difference) check (\S+) \(relative error \S+, allowed \S+\)")


@METHODS
@pytest.mark.parametrize("directions", [None, 3])
@pytest.mark.parametrize("name", SPOILED)
def test_a_wrong_gradient_is_caught(name, directions, method):
    with pytest.raises(GradientError, match="argument 1, ") as error:
        gradcheck(product(SPOILED[name]), A, B, method=method, directions=directions)
    assert NUMBERS.search(str(error.value))[2] == method


@METHODS
@pytest.mark.parametrize("factor", [1.001, -1.0, 3.0])
def test_the_message_gives_both_numbers(factor, method):
    with pytest.raises(GradientError) as error:
        gradcheck(product(lambda ga, gb: (ga, factor * gb)), A, B, method=method)
    backward, _, numeric = NUMBERS.search(str(error.value)).groups()
    assert float(backward) / float(numeric) == pytest.approx(factor, rel=1e-6)


@METHODS
def test_the_message_names_the_argument_and_the_element(method):
    f = product(lambda ga, gb: (one_element(ga, (2, 0), 7.0), gb))
    with pytest.raises(GradientError, match=r"^argument 0, element \(2, 0\): backward gives 7, the"):
        gradcheck(f, A, B, method=method)
    with pytest.raises(GradientError, match=r"^W_h, element \(2, 0\): backward gives 7, the"):
        gradcheck(f, A, B, method=method, names=["W_h", "h"])
    with pytest.raises(GradientError, match=r"^W_h, random direction \d: "):
        gradcheck(f, A, B, method=method, names=["W_h", "h"], directions=2)


def test_one_wrong_element_of_a_large_array_shows_in_every_direction():
    large = np.random.default_rng(1).standard_normal((200, 100))
    f = product(lambda ga, gb: (one_element(ga, (17, 31), 1.0), gb))
    for seed in range(5):
        with pytest.raises(GradientError, match="argument 0, random direction 0"):
            gradcheck(f, large, large, directions=1, seed=seed)
    assert gradcheck(product(lambda ga, gb: (ga, gb)), large, large, directions=3) < 1e-9


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_caught(value):
    with pytest.raises(GradientError, match="argument 1: the gradient from backward is not finite"):
        gradcheck(product(lambda ga, gb: (ga, one_element(gb, (0, 1), value))), A, B)


@METHODS
def test_a_derivative_that_is_not_finite_is_caught(method):
    """NaN compares as False with everything; `error > rtol` would let it pass."""
    bad = one_element(B, (1, 2), np.nan)
    with pytest.raises(GradientError, match=r"argument 0, element .* check nan"):
        gradcheck(lambda a: Product(lambda ga, gb: (np.nan_to_num(ga), gb))(a, bad), A, method=method)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda ga, gb: (ga, None),
        lambda ga, gb: (ga, gb.ravel()),
        lambda ga, gb: (ga, gb[:2]),
        lambda ga, gb: (ga, gb[:, :1]),
        lambda ga, gb: (ga, gb.sum()),
    ],
    ids=["None", "flattened", "two of three rows", "one of three columns", "a number"],
)
def test_a_gradient_that_is_missing_or_of_the_wrong_shape_is_caught(spoil):
    """As its documentation promises; an `AttributeError` from inside the tape would not say whose gradient it was."""
    with pytest.raises(GradientError, match="argument 1"):
        gradcheck(product(spoil), A, B)


def test_an_argument_that_backward_never_reaches_is_caught():
    with pytest.raises(GradientError, match="argument 1: backward computed no gradient"):
        gradcheck(lambda a, b: a * b.data, A, B)


def test_a_gradient_where_the_derivative_is_zero_is_caught():
    with pytest.raises(GradientError, match="argument 0, element"):
        gradcheck(product(lambda ga, gb: (ga + 1, gb)), A, np.zeros((3, 3)))


def test_every_output_is_checked():
    assert gradcheck(lambda x: Both(1.0)(x), A) < 1e-9
    with pytest.raises(GradientError):
        gradcheck(lambda x: Both(1.001)(x), A)


def test_an_error_that_cancels_in_the_sum_of_the_outputs_is_caught():
    """The outputs of a softmax add up to 1: with equal weights, any multiple of its gradient would pass as 0 = 0."""

    class Softmax(Function):
        def forward(self, x):
            self.y = np.exp(x) / np.exp(x).sum()
            return self.y

        def backward(self, gy):
            return 1.001 * (gy - (gy * self.y).sum()) * self.y

    with pytest.raises(GradientError):
        gradcheck(lambda x: Softmax()(x), A[0])


def test_the_tolerance_is_relative_to_the_largest_derivative():
    """An error of 1e-7 in a derivative of 1 counts the same as one of 0.1 in a derivative of a million."""
    f = product(lambda ga, gb: ((1 + 1e-7) * ga, gb))
    for size in (1e-6, 1.0, 1e6):
        with pytest.raises(GradientError, match=r"relative error 1\.0e-07, allowed 1e-09"):
            gradcheck(f, A, size * B)
        with pytest.raises(GradientError, match=r"relative error 1\.0e-07, allowed 9e-08"):
            gradcheck(f, A, size * B, rtol=9e-8)
        assert gradcheck(f, A, size * B, rtol=1.1e-7) == pytest.approx(1e-7, rel=1e-3)


# ---- right gradients ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [None, 1, 5])
@pytest.mark.parametrize(("method", "error"), [("complex", 1e-14), ("difference", 1e-8)])
def test_a_right_gradient_is_accepted_with_a_small_error(method, error, directions):
    def f(a, b):
        return ops.exp(5 * Product(lambda ga, gb: (ga, gb))(a, b))

    assert 0 < gradcheck(f, A, B, method=method, directions=directions) < error


@METHODS
def test_the_error_returned_is_the_worst_of_all_arguments(method):
    f = product(lambda ga, gb: ((1 + 3e-7) * ga, (1 + 1e-7) * gb))
    assert gradcheck(f, A, B, rtol=1e-6, method=method) == pytest.approx(3e-7, rel=0.01)


def test_a_function_that_is_not_analytic_needs_differences():
    """|x + ih| is real and forgets the step, so half of the derivative is lost; away from the kink differences work."""
    x = np.array([-2.0, -1.0, 1.0, 2.0])
    with pytest.raises(GradientError):
        gradcheck(lambda x: Rectifier()(x), x)
    assert gradcheck(lambda x: Rectifier()(x), x, method="difference") < 1e-8


def test_differences_are_a_millionth_as_sharp():
    f = product(lambda ga, gb: ((1 + 3e-8) * ga, gb))
    assert gradcheck(f, A, B, method="difference") < 1e-6
    with pytest.raises(GradientError):
        gradcheck(f, A, B)


@METHODS
def test_integers_and_booleans_pass_through(method):
    """As plain arrays of their own dtype; nothing asks for their gradient, nothing moves them."""
    seen = []

    def f(tokens, x, mask):
        seen.append((tokens, mask))
        return x[tokens] * mask

    tokens, mask = np.array([2, 0, 2], np.int16), np.array([[True, False, True]])
    assert gradcheck(f, tokens, A, mask, method=method) < 1e-8
    for got_tokens, got_mask in seen:
        assert type(got_tokens) is type(got_mask) is np.ndarray
        assert (got_tokens.dtype, got_mask.dtype) == (np.int16, np.bool_)
        assert (got_tokens == tokens).all()
        assert (got_mask == mask).all()


def test_numbers_lists_and_float32_are_computed_in_float64():
    dtypes = []

    def f(*tensors):
        dtypes.append([t.dtype for t in tensors])
        x, y, z = tensors
        return ops.tanh(x * y) + z

    assert gradcheck(f, 0.5, [1.0, 2.0], np.ones(2, np.float32)) < 1e-9
    assert dtypes[0] == [np.float64] * 3
    assert [row.count(np.complex128) for row in dtypes[1:]] == [1] * (1 + 2 + 2)


def test_the_arrays_are_not_changed():
    x, y = A.copy(), B.copy()
    gradcheck(lambda x, y: ops.exp(x) * y, x, y, method="difference")
    assert (x == A).all()
    assert (y == B).all()


@METHODS
def test_nothing_is_recorded_while_an_argument_is_moved(method):
    """A graph for each element of each argument would be built for nothing."""
    recorded = []

    def f(x):
        y = ops.tanh(x)
        recorded.append(y.requires_grad)
        return y

    gradcheck(f, A[0], method=method)
    assert recorded == [True] + [False] * (3 if method == "complex" else 6)


@METHODS
@pytest.mark.parametrize(
    "f",
    [lambda x: 0 * x, lambda x: x - x, lambda x: x**0, lambda x: (x * x) * np.zeros((3, 3)), lambda x: (x[:0]).sum()],
    ids=["0 * x", "x - x", "x ** 0", "zeros * x * x", "the empty sum"],
)
def test_a_gradient_of_zero_is_accepted(f, method):
    assert gradcheck(f, A, method=method) == 0.0


@METHODS
@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: (x + A) - (x + A).mean(axis=1, keepdims=True), B[:, :1]),
        (lambda x: ops.sigmoid(x) + ops.sigmoid(-x), A),
    ],
    ids=["a bias before centering", "sigmoid(x) + sigmoid(-x)"],
)
def test_a_gradient_that_is_zero_up_to_rounding_is_accepted(f, x, method):
    """Both numbers are rounding errors then, of the size 1e-16 (1e-10 for differences): their ratio says nothing."""
    gradcheck(f, x, method=method)


@METHODS
def test_an_empty_argument_is_accepted(method):
    assert gradcheck(lambda x, y: x.sum() + y, np.zeros((0, 3)), A, method=method) < 1e-8


# ---- arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["Complex", "central", "", None])
def test_the_method_must_be_known(method):
    with pytest.raises(ValueError, match=f'gradcheck: method must be "complex" or "difference", got {method!r}'):
        gradcheck(ops.tanh, A, method=method)


@pytest.mark.parametrize("directions", [0, -1])
def test_a_check_along_no_direction_is_refused(directions):
    """It would look at nothing and accept everything."""
    with pytest.raises(ValueError, match="directions"):
        gradcheck(product(SPOILED["scaled"]), A, B, directions=directions)


def test_a_tolerance_of_zero_is_not_the_default():
    with pytest.raises(GradientError, match="allowed 0e"):
        gradcheck(product(lambda ga, gb: ((1 + 1e-12) * ga, gb)), A, B, rtol=0.0)


def test_a_gradient_error_is_a_failed_assertion():
    assert issubclass(GradientError, AssertionError)
