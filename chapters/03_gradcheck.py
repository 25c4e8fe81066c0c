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
# Let $f$ be a function of one number $x$, for example the loss along a line through the weights. Two values of $f$, a
# step $\delta$ apart, give an estimate of the derivative. There are two common ways. The forward difference is
#
# $$\frac{f(x+\delta) - f(x)}{\delta} = f'(x) + \frac{\delta}{2} f''(x) + \dots$$
#
# and the central difference is
#
# $$\frac{f(x+\delta) - f(x-\delta)}{2\delta} = f'(x) + \frac{\delta^2}{6} f'''(x) + \dots$$
#
# The terms after $f'$ are the *truncation error*. It is large if the step is large.
#
# There is also a *rounding error*. A computer rounds each value of $f$, with an error of about $\epsilon |f|$, where
# $\epsilon$ is $2^{-53}$ in float64 and $2^{-24}$ in float32. Dividing by the step makes it
#
# $$\frac{\epsilon |f|}{\delta}$$
#
# which is large if the step is small. The best step is where the two errors are about equal. If $f$ and its derivatives
# are all of about the same size, this is near $\delta = \sqrt\epsilon$ for the forward difference, where $\delta$
# equals $\epsilon / \delta$. For the central difference it is near $\delta = \epsilon^{1/3}$.
#
# ## The complex step has one
#
# A function is called *analytic* if its Taylor series holds for complex numbers too. Sums, products, exp, tanh and all
# that is made of them are analytic. For such a function take the step along the imaginary axis. Since $i^2 = -1$,
#
# $$f(x + i\delta) = f(x) + i\delta f'(x) - \frac{\delta^2}{2} f''(x) - i\frac{\delta^3}{6} f'''(x) + \dots$$
#
# The imaginary part, divided by the step, is
#
# $$\frac{\operatorname{Im} f(x + i\delta)}{\delta} = f'(x) - \frac{\delta^2}{6} f'''(x) + \dots$$
#
# Nothing is subtracted here. The value and the derivative are the two parts of one complex number. So no rounding error
# grows when the step shrinks. The step may be $10^{-20}$, and the term with its square vanishes.
#
# In the code `f` is a function of the distance from $x$, so `f(0)` is $f(x)$.


# %%
def forward_difference(f, delta):
    return (f(delta) - f(0)) / delta


def central_difference(f, delta):
    return (f(delta) - f(-delta)) / (2 * delta)


def complex_step(f, delta):
    return f(1j * delta).imag / delta


METHODS = {
    "forward difference": forward_difference,
    "central difference": central_difference,
    "complex step": complex_step,
}

# %% [markdown]
# An example whose derivative is known:


# %%
def example(s):
    """exp(x) sin(x) at x = 1 + s."""
    return np.exp(1 + s) * np.sin(1 + s)


true = np.exp(1) * (np.sin(1) + np.cos(1))
check("exp(x) sin(x): the complex step has 14 digits", abs(complex_step(example, 1e-20) / true - 1) < 1e-14)
check("with the same step a central difference has none", central_difference(example, 1e-20) == 0)

# %% [markdown]
# ## The check of minizone
#
# `gradcheck(f, *arrays)` multiplies the outputs of $f$ by fixed random weights and adds them up to one number. It runs
# `backward` once. Then it moves each element of each array by $10^{-20} i$, one at a time, and compares the derivative
# with the gradient. The masks of zoneout are arguments (chapter 1), so every call computes the same function.
#
# Here it checks an LSTM, the network of chapter 4. For now the LSTM is only a function of six arrays: a sequence of
# inputs `x`, the first values `h0` and `c0` of its two states, two matrices of weights and a bias. T is the number of
# time steps, D of input features, B of examples and H of hidden units. Both states have zoneout: `cells` and `states`
# are the probabilities that an element of c and of h keeps its old value.

# %%
T, D, B, H = 4, 2, 3, 3
rng = np.random.default_rng(0)
shapes = {"x": (T, D, B), "h0": (H, B), "c0": (H, B), "W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
names = list(shapes)
arrays = [rng.standard_normal(shape) for shape in shapes.values()]
keep_h, keep_c = Zoneout(cells=0.5, states=0.3).masks(T, H, B, rng)  # (T, H, B) each
lstm_with_masks = partial(lstm, keep_h=keep_h, keep_c=keep_c)

# %%
error_complex = gradcheck(lstm_with_masks, *arrays, method="complex", names=names)
error_difference = gradcheck(lstm_with_masks, *arrays, method="difference", names=names)
print(f"LSTM, largest relative error: {error_complex:.0e} by complex step, {error_difference:.0e} by differences")
check("the LSTM's gradients agree with the complex step to 12 digits", error_complex < 1e-12)

# %% [markdown]
# ## Gradients that are wrong on purpose
#
# Does the check find a mistake? We test that with two gradients that are wrong on purpose. The function `verdict`
# prints the message of the check, if there is one.


# %%
def verdict(f, *arrays, **options) -> str:
    """What gradcheck says: "right" or "wrong"."""
    try:
        gradcheck(f, *arrays, **options)
    except GradientError as error:
        print(error)
        return "wrong"
    return "right"


# %% [markdown]
# `Slip` is zoneout with a plausible mistake: a factor is missing in its backward. Both methods find it. The message
# names the argument and the element and gives both numbers.


# %%
class Slip(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy, None  # the second one should be gy * (1 - self.keep)


old, new = rng.standard_normal((2, H, B))  # (H, B) each
keep = keep_h[0]  # (H, B)


def slip(old, new):
    return Slip()(old, new, keep)


# %%
check("the missing factor is found", verdict(slip, old, new, names=["old", "new"]) == "wrong")
by_difference = verdict(slip, old, new, names=["old", "new"], method="difference")
check("the missing factor is found by differences too", by_difference == "wrong")

# %% [markdown]
# `Coarse` has a smaller fault. It is a tanh whose backward rounds to float32. A difference is too inaccurate to show
# that. The complex step shows it.


# %%
class Coarse(ops.Tanh):
    def backward(self, gy):
        return gy * np.float32(1 - self.y * self.y)


def coarse(x):
    return Coarse()(x)


check("rounding to float32 looks right by differences", verdict(coarse, new, method="difference") == "right")
check("rounding to float32 is wrong by complex step", verdict(coarse, new, method="complex") == "wrong")

# %% [markdown]
# ## The complex step needs an analytic function
#
# The absolute value is not analytic. For a complex number $x + i\delta$ it is $\sqrt{x^2 + \delta^2}$, which has no
# imaginary part. So the complex step reports an error where the gradient is *right*. Norms and complex conjugates have
# the same problem. Such functions need `method="difference"`.


# %%
class Modulus(Function):
    def forward(self, x):
        self.x = x
        return np.abs(x)

    def backward(self, gy):
        return gy * np.sign(self.x)


def modulus(x):
    return Modulus()(x)


# %% [markdown]
# For this reason nothing in `minizone/autograd/ops.py` takes an absolute value. Comparisons there use the real parts.
# For example, `relu` is 0 where `x.real <= 0`.

# %%
check("a right gradient of abs looks wrong by complex step", verdict(modulus, new, method="complex") == "wrong")
check("a right gradient of abs is right by differences", verdict(modulus, new, method="difference") == "right")
check("a relu that compares real parts passes the complex step", gradcheck(ops.relu, new) < 1e-12)

# %% [markdown]
# ## The loss of an LSTM
#
# `main` compares the three methods on a larger function: the loss of an LSTM with zoneout, as a function of its weights
# $W_h$ (4H, H). At every step the LSTM gives each of V = 10 classes a probability. The loss is the cross-entropy, the
# mean of minus the logarithm of the probability that it gives to the right class.


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
    keep_h, keep_c = Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng)  # (T, H, B) each
    keep_h = to_device(keep_h.astype(dtype), device)
    keep_c = to_device(keep_c.astype(dtype), device)
    targets = to_device(rng.integers(V, size=(T, B)), device)

    def loss(W):
        states, _ = lstm(x, h, c, W_x, W, b, keep_h=keep_h, keep_c=keep_c)
        return ops.softmax_cross_entropy(ops.matmul(W_y, states), targets)

    return loss, W_h


# %% [markdown]
# The loss has many variables, and the methods differentiate functions of one. So we draw a few random directions $R_n$
# (4H, H) and look at the loss along each line $W_h + s R_n$, where $s$ is a number. The true slope at $s = 0$ is the
# sum of the elements of the gradient times those of $R_n$. The gradient comes from the backward pass in float64.


# %%
def root_mean_square_error(method, loss, W_h, directions, slopes, delta) -> float:
    """The error of the slope over some directions (n, 4H, H) from W_h, by one method with one step."""
    squares = []
    for direction, slope in zip(directions, slopes, strict=True):

        def along(s, direction=direction):
            with no_grad():
                return loss(Tensor(W_h + s * direction)).data.item()

        squares.append((method(along, delta) - slope) ** 2)
    return float(np.mean(squares) ** 0.5)


# %% [markdown]
# The checks on the results, and the figure:


# %%
def best_difference(errors) -> float:
    """The smallest error of both differences, over all steps."""
    return min(errors["forward difference"].min(), errors["central difference"].min())


def compare(curves) -> None:
    double, single = curves["float64"], curves["float32"]
    up_to_1e_8 = double["complex step"][16:]  # STEPS[16] is 1e-8
    at_1e_20 = double["complex step"][-1]
    check("the complex step is right to 12 digits for all steps of 1e-8 and smaller", up_to_1e_8.max() < 1e-12)
    check("the best difference has a 100 times larger error", best_difference(double) > 100 * at_1e_20)
    check("in float32 its error is larger too", best_difference(single) > 3 * single["complex step"][-1])


def draw(curves) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 4.2), width_ratios=[1.6, 1], sharey=True)
    styles = {"forward difference": "C0-", "central difference": "C1-", "complex step": "C3--"}
    for axis, (dtype, errors) in zip(axes, curves.items(), strict=True):
        for name, error in errors.items():
            axis.loglog(STEPS, np.maximum(error, 1e-17), styles[name], label=name)
        axis.set(title=f"derivative of an LSTM's loss, {dtype}", xlabel="step $\\delta$")
        axis.set_xticks([1e-20, 1e-15, 1e-10, 1e-5, 1])
    axes[0].set(ylabel="error relative to the gradient", ylim=(1e-17, 1e3))
    axes[0].text(1e-12, 1e-5, "rounding\n$\\sim\\epsilon/\\delta$", ha="right")
    axes[0].text(1e-5, 1e-3, "truncation\n$\\sim\\delta$", ha="right")
    axes[0].text(1e-4, 1e-11, "truncation\n$\\sim\\delta^2$")
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=3)
    save(figure, "03_gradcheck")


# %%
SIZES = {"small": (10, 8, 2, 3), "quick": (50, 32, 4, 5), "paper": (784, 100, 10, 5)}  # T, H, B, directions
STEPS = [10 ** (-k / 2) for k in range(41)]  # from 1 down to 1e-20


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """Three ways to differentiate the loss of an LSTM against its backward pass, for many steps."""
    T, H, B, n = SIZES[preset]
    where = Device(device)
    directions = stream(0, "lines").standard_normal((n, 4 * H, H))

    loss, W_h = problem(T, H, B, "float64", where)
    W = Tensor(W_h)
    loss(W).backward()
    gradient = to_host(W.grad)  # (4H, H)
    slopes = (directions * gradient).sum(axis=(1, 2))  # (n,)

    curves = {}  # for each type: the relative errors of each method, a number for each step
    for dtype in ("float64", "float32"):
        loss, W_h = problem(T, H, B, dtype, where)
        on_device = to_device(directions.astype(dtype), where)
        curves[dtype] = {}
        for name, method in METHODS.items():
            errors = [root_mean_square_error(method, loss, W_h, on_device, slopes, delta) for delta in STEPS]
            curves[dtype][name] = np.array(errors) / np.linalg.norm(gradient)
            print(f"{dtype}, {name}: the smallest error is {curves[dtype][name].min():.0e}")

    compare(curves)
    draw(curves)
    found = {}
    for dtype, errors in curves.items():
        found[dtype] = {name: error.tolist() for name, error in errors.items()}
    return {"steps": STEPS, "errors": found}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## In the figure
#
# From right to left, the steps get smaller. At first all errors fall: the truncation error shrinks. Then the
# differences turn. Their rounding error grows until no digit is left. The complex step does not turn. Its error falls
# to the rounding error of a single value of the loss and stays there, for all smaller steps.
#
# On the far left the error of the differences is 1. There $x + \delta$ is rounded to x, so the estimate is 0. On the
# far right the complex step has the truncation error of the central difference, so its dashed line covers that curve.
#
# In float32 the picture is the same with fewer digits. There even the best difference has only 2 or 3 digits.

# %% [markdown]
# ## What to take away
#
# - Check every gradient that you write by hand, and check the check with a gradient that is wrong on purpose.
# - The complex step is exact to rounding and needs no tuning. It needs an analytic function.
# - For other functions use central differences in float64, with a step near $\epsilon^{1/3}$, and expect 9 digits.
#
# ## Exercises
#
# 1. Add a fourth method, $(8 f(\delta) - 8 f(-\delta) - f(2\delta) + f(-2\delta)) / (12 \delta)$. How many digits does
#    it have, and at which step?
# 2. Let `lstm_with_masks` draw its masks itself, from `rng`. What does the check say, and why?
# 3. Repair `Slip`, then multiply what it returns for `new` by `1 + 1e-8`. Which `rtol` of `gradcheck` lets it pass?
