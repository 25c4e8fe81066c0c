# %% [markdown]
# # 3. Checking gradients
#
# **Claim.** A gradient written by hand is wrong until it is checked, and a check can be exact. A finite difference has
# nine or ten correct digits at best, and its step must be tuned. A step into the complex plane has fifteen digits and
# needs no tuning.
#
# Paper: it reports no such check; this one is of the LSTM of section 3.2. With T = 784 as in section 4.3 and H = 100 as
# in the authors' code: `python chapters/03_gradcheck.py --preset paper --device gpu`

# %%
from functools import partial

import shared  # finds minizone
import matplotlib.pyplot as plt
import numpy as np
from shared import DeviceName, Preset, check, save

from minizone import Device, Function, GradientError, Tensor, Zoneout, gradcheck, lstm, no_grad
from minizone.autograd import ops
from minizone.backend import stream, to_device, to_host

# %% [markdown]
# ## Finite differences have two errors
#
# Let $f$ be a function of one number $x$, for example the loss along a line through the weights. The derivative can be
# estimated from two values of $f$ that lie a step $h$ apart. Each value of $f$ has a rounding error of about
# $\epsilon |f|$, where $\epsilon$ is $2^{-53}$ in float64 and $2^{-24}$ in float32.
#
# $$\frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(x) + \dots \pm \frac{\epsilon |f|}{h} \qquad
# \frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots \pm \frac{\epsilon |f|}{h}$$
#
# A large $h$ has a large truncation error, the terms with $f''$ and $f'''$. A small $h$ has a large rounding error. The
# forward difference is best near $h = \sqrt\epsilon$, the central difference near $h = \epsilon^{1/3}$.
#
# ## The complex step has one
#
# If $f$ is analytic, its Taylor series holds for complex numbers too. Take the step along the imaginary axis. Since
# $i^2 = -1$,
#
# $$f(x + ih) = f(x) + ih f'(x) - \frac{h^2}{2} f''(x) - \dots \qquad \text{so} \qquad
# \frac{\operatorname{Im} f(x + ih)}{h} = f'(x) - \frac{h^2}{6} f'''(x) + \dots$$
#
# Nothing is subtracted: the value and the derivative are the two parts of one complex number. There is no rounding
# error that grows as $h$ shrinks. So $h$ may be $10^{-20}$, and its square vanishes.


# %%
def forward_difference(f, h):
    return (f(h) - f(0)) / h


def central_difference(f, h):
    return (f(h) - f(-h)) / (2 * h)


def complex_step(f, h):
    return f(1j * h).imag / h


METHODS = {
    "forward difference": forward_difference,
    "central difference": central_difference,
    "complex step": complex_step,
}


def example(s):
    """exp(x) sin(x) at x = 1 + s."""
    return np.exp(1 + s) * np.sin(1 + s)


true = np.exp(1) * (np.sin(1) + np.cos(1))
check("exp(x) sin(x): the complex step has 14 digits", abs(complex_step(example, 1e-20) / true - 1) < 1e-14)
check("with the same h a central difference has none", central_difference(example, 1e-20) == 0)

# %% [markdown]
# ## The check of minizone
#
# `gradcheck(f, *arrays)` multiplies the outputs of $f$ by fixed random weights and adds them up to one number. It runs
# `backward` once. Then it moves each element of each array by $10^{-20} i$, one at a time, and compares the derivative
# with the gradient. The masks of zoneout are arguments (chapter 1), so every call computes the same function.
#
# Here it checks an LSTM with zoneout of both states. T is the number of time steps, D of inputs, B of examples, H of
# hidden units.

# %%
T, D, B, H = 4, 2, 3, 3
rng = np.random.default_rng(0)
shapes = {"x": (T, D, B), "h0": (H, B), "c0": (H, B), "W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
names = list(shapes)
arrays = [rng.standard_normal(shape) for shape in shapes.values()]
keep_h, keep_c = Zoneout(cells=0.5, states=0.3).masks(T, H, B, rng)  # (T, H, B) each
lstm_with_masks = partial(lstm, keep_h=keep_h, keep_c=keep_c)

error_complex = gradcheck(lstm_with_masks, *arrays, method="complex", names=names)
error_difference = gradcheck(lstm_with_masks, *arrays, method="difference", names=names)
print(f"LSTM, largest relative error: {error_complex:.0e} by complex step, {error_difference:.0e} by differences")
check("the LSTM's gradients agree with the complex step to 12 digits", error_complex < 1e-12)

# %% [markdown]
# ## Gradients that are wrong on purpose
#
# A check that has never failed proves nothing. `Slip` is zoneout with a plausible mistake: a factor is missing in its
# backward. Both methods find it. The message names the argument and the element and gives both numbers.
#
# `Coarse` has a smaller fault. It is a tanh whose backward rounds to float32. A difference is too inaccurate to see
# that. The complex step sees it.


# %%
class Slip(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy, None  # the second one should be gy * (1 - self.keep)


class Coarse(ops.Tanh):
    def backward(self, gy):
        return gy * np.float32(1 - self.y * self.y)


def verdict(f, *arrays, **options) -> str:
    """What gradcheck says: "right" or "wrong"."""
    try:
        gradcheck(f, *arrays, **options)
    except GradientError as error:
        print(error)
        return "wrong"
    return "right"


# %%
old, new = rng.standard_normal((2, H, B))  # (H, B) each
keep = keep_h[0]  # (H, B)


def slip(old, new):
    return Slip()(old, new, keep)


def coarse(x):
    return Coarse()(x)


check("the missing factor is found", verdict(slip, old, new, names=["old", "new"]) == "wrong")
check("rounding to float32 looks right by differences", verdict(coarse, new, method="difference") == "right")
check("rounding to float32 is wrong by complex step", verdict(coarse, new, method="complex") == "wrong")

# %% [markdown]
# ## The complex step needs an analytic function
#
# `abs` is not analytic. For $x + ih$ it is $\sqrt{x^2 + h^2}$, which has no imaginary part. So the complex step calls a
# *right* gradient wrong. The same is true of norms and conjugates. Therefore nothing in `minizone/autograd/ops.py`
# takes a modulus or a conjugate. A comparison there uses the real parts: `relu` is 0 where `x.real <= 0`, and a softmax
# subtracts the largest *real* score. Functions that are not analytic need `method="difference"`.


# %%
class Modulus(Function):
    def forward(self, x):
        self.x = x
        return np.abs(x)

    def backward(self, gy):
        return gy * np.sign(self.x)


def modulus(x):
    return Modulus()(x)


check("a right gradient of abs looks wrong by complex step", verdict(modulus, new, method="complex") == "wrong")
check("a right gradient of abs is right by differences", verdict(modulus, new, method="difference") == "right")
check("a relu that compares real parts passes the complex step", gradcheck(ops.relu, new) < 1e-12)

# %% [markdown]
# ## The loss of an LSTM
#
# `main` compares the three methods on a larger function: the cross-entropy of an LSTM with zoneout, along a few random
# lines through $W_h$. Its true slope along a line is the sum of the gradient times the direction of the line.


# %%
def problem(T, H, B, dtype, device):
    """loss(W_h), the cross-entropy of an LSTM with zoneout and V = 10 classes, and W_h (4H, H)."""
    V = 10
    rng = stream(0, "problem")

    def random_array(*shape):
        values = rng.standard_normal(shape) / shape[-1] ** 0.5
        return to_device(values.astype(dtype), device)

    x, h, c = random_array(T, 1, B), random_array(H, B), random_array(H, B)
    W_x, W_h, b = random_array(4 * H, 1), random_array(4 * H, H), random_array(4 * H)
    W_y = random_array(V, H)
    masks = Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng)  # keep_h, keep_c, each (T, H, B)
    keep_h, keep_c = (to_device(mask.astype(dtype), device) for mask in masks)
    targets = to_device(rng.integers(V, size=(T, B)), device)

    def loss(W):
        states, _ = lstm(x, h, c, W_x, W, b, keep_h=keep_h, keep_c=keep_c)
        return ops.softmax_cross_entropy(ops.matmul(W_y, states), targets)

    return loss, W_h


# %%
def root_mean_square_error(method, loss, W_h, lines, slopes, h) -> float:
    """The error of the slope over some lines (n, 4H, H) through W_h, by one method with step h."""
    squares = []
    for line, slope in zip(lines, slopes, strict=True):

        def along(s, line=line):
            with no_grad():
                return loss(Tensor(W_h + s * line)).data.item()

        squares.append((method(along, h) - slope) ** 2)
    return float(np.mean(squares) ** 0.5)


# %%
SIZES = {"small": (10, 8, 2, 3), "quick": (50, 32, 4, 5), "paper": (784, 100, 10, 5)}  # T, H, B, lines
STEPS = [10 ** (-k / 2) for k in range(41)]  # h from 1 down to 1e-20


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """Three ways to differentiate the loss of an LSTM against its backward pass, for many steps h."""
    T, H, B, n = SIZES[preset]
    where = Device(device)
    lines = stream(0, "lines").standard_normal((n, 4 * H, H))

    loss, W_h = problem(T, H, B, "float64", where)
    W = Tensor(W_h)
    loss(W).backward()
    gradient = to_host(W.grad)  # (4H, H)
    slopes = (lines * gradient).sum(axis=(1, 2))  # (n,)

    curves = {}  # for each type: the relative errors of each method, a number for each step h
    for dtype in ("float64", "float32"):
        loss, W_h = problem(T, H, B, dtype, where)
        on_device = to_device(lines.astype(dtype), where)
        curves[dtype] = {}
        for name, method in METHODS.items():
            errors = [root_mean_square_error(method, loss, W_h, on_device, slopes, h) for h in STEPS]
            curves[dtype][name] = np.array(errors) / np.linalg.norm(gradient)
            print(f"{dtype}, {name}: the smallest error is {curves[dtype][name].min():.0e}")

    compare(curves)
    draw(curves)
    return {
        "steps": STEPS,
        "errors": {dtype: {name: e.tolist() for name, e in c.items()} for dtype, c in curves.items()},
    }


# %%
def best_difference(errors) -> float:
    """The smallest error of both differences, over all steps."""
    return min(errors["forward difference"].min(), errors["central difference"].min())


def compare(curves) -> None:
    double, single = curves["float64"], curves["float32"]
    up_to_1e_8 = double["complex step"][16:]  # STEPS[16] is 1e-8
    check("the complex step is right to 12 digits for all h up to 1e-8", up_to_1e_8.max() < 1e-12)
    check(
        "the best difference has a 100 times larger error", best_difference(double) > 100 * double["complex step"][-1]
    )
    check("in float32 its error is larger too", best_difference(single) > 3 * single["complex step"][-1])


def draw(curves) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), width_ratios=[1.6, 1], sharey=True)
    colors = {"forward difference": "C0", "central difference": "C1", "complex step": "C3"}
    for axis, (dtype, errors) in zip(axes, curves.items(), strict=True):
        for name, error in errors.items():
            axis.loglog(STEPS, np.maximum(error, 1e-17), colors[name], label=name)
        axis.set(title=f"derivative of an LSTM's loss, {dtype}", xlabel="step $h$")
    axes[0].set(ylabel="error of the derivative, relative to the gradient", ylim=(1e-17, 1e2))
    axes[0].text(3e-17, 1e-5, "rounding $\\epsilon / h$")
    axes[0].text(1e-9, 1e-3, "truncation $h$")
    axes[0].text(1e-3, 1e-9, "$h^2$")
    axes[0].legend(loc=(0.05, 0.2))
    save(figure, "03_gradcheck")


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Add a fourth method, $(8 f(h) - 8 f(-h) - f(2h) + f(-2h)) / 12 h$. How many digits does it have, and at which $h$?
# 2. Let `lstm_with_masks` draw its masks itself, from `rng`. What does the check say, and why?
# 3. Repair `Slip`, then multiply what it returns for `new` by `1 + 1e-8`. Which `rtol` of `gradcheck` lets it pass?
