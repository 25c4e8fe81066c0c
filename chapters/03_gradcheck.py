# %% [markdown]
# # 3. Checking gradients
#
# **Claim.** A gradient written by hand is wrong until it is checked, and a check can be exact. A finite difference has
# nine or ten digits at best and must be tuned; a step into the complex plane has fifteen and needs no tuning.
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
# ## Two errors that pull apart
#
# Let $f$ be a function of one number $x$, say a loss along a line through the weights. A difference over a step $h$
# keeps the rounding errors of its terms, about $\epsilon |f|$: $\epsilon = 2^{-53}$ in float64, $2^{-24}$ in float32.
#
# $$\frac{f(x+h) - f(x)}{h} = f'(x) + \frac{h}{2} f''(x) + \dots \pm \frac{\epsilon |f|}{h} \qquad
# \frac{f(x+h) - f(x-h)}{2h} = f'(x) + \frac{h^2}{6} f'''(x) + \dots \pm \frac{\epsilon |f|}{h}$$
#
# A large $h$ suffers from truncation, where $h$ is above the line, a small one from rounding, where it is below. The
# forward difference is best near $h = \sqrt\epsilon$, the central one near $\epsilon^{1/3}$. Now step sideways. If $f$
# is analytic, its Taylor series holds for complex numbers too, and $i^2 = -1$:
#
# $$f(x + ih) = f(x) + ih f'(x) - \frac{h^2}{2} f''(x) - \dots \qquad \text{so} \qquad
# \frac{\operatorname{Im} f(x + ih)}{h} = f'(x) - \frac{h^2}{6} f'''(x) + \dots$$
#
# Nothing is subtracted: value and derivative are two parts of one number. So $h$ may be $10^{-20}$, its square gone.


# %%
def example(s):
    return np.exp(1 + s) * np.sin(1 + s)


methods = {
    "forward difference": lambda f, h: (f(h) - f(0)) / h,
    "central difference": lambda f, h: (f(h) - f(-h)) / (2 * h),
    "complex step": lambda f, h: f(1j * h).imag / h,
}
true = np.exp(1) * (np.sin(1) + np.cos(1))
check("exp(x) sin(x): the complex step has 14 digits", abs(methods["complex step"](example, 1e-20) / true - 1) < 1e-14)
check("... at this h a difference has none", methods["central difference"](example, 1e-20) == 0)

# %% [markdown]
# ## The check of minizone
#
# `gradcheck(f, *arrays)` multiplies the outputs of $f$ by fixed random weights and adds them up to one number. It runs
# `backward` once; then it moves every element of every array by $10^{-20} i$ and compares. The masks of zoneout come
# from outside (chapter 1), or no two calls would see the same function. Here is an LSTM with zoneout of both states.

# %%
rng, T, D, B, H = np.random.default_rng(0), 4, 2, 3, 3
shapes = {"x": (T, D, B), "h0": (H, B), "c0": (H, B), "W_x": (4 * H, D), "W_h": (4 * H, H), "b": (4 * H,)}
arrays = [rng.standard_normal(shape) for shape in shapes.values()]
keep_h, keep_c = Zoneout(cells=0.5, states=0.3).masks(T, H, B, rng)
zoned = partial(lstm, keep_h=keep_h, keep_c=keep_c)
sideways, difference = (gradcheck(zoned, *arrays, method=m, names=list(shapes)) for m in ("complex", "difference"))
print(f"LSTM, largest relative error: {sideways:.0e} by complex step, {difference:.0e} by central differences")
check("the LSTM's gradients agree with the complex step to 12 digits", sideways < 1e-12)

# %% [markdown]
# ## Wrong on purpose
#
# A check that has never failed proves nothing. `Slip` is zoneout with a plausible mistake: its backward lacks a factor.
# The message names argument and element, and gives both numbers. Any method finds such a thing. `Coarse` is finer, a
# tanh that somebody rounded to float32 on the way back: below what a difference can see, plain to the complex step.


# %%
class Slip(Function):
    def forward(self, old, new, keep):
        self.keep = keep
        return keep * old + (1 - keep) * new

    def backward(self, gy):
        return gy * self.keep, gy, None  # of new it should be gy * (1 - self.keep)


class Coarse(ops.Tanh):
    def backward(self, gy):
        return gy * np.float32(1 - self.y * self.y)


class Modulus(Function):
    def forward(self, x):
        self.x = x
        return np.abs(x)

    def backward(self, gy):
        return gy * np.sign(self.x)


def verdict(f, *arrays, **options) -> str:
    try:
        gradcheck(f, *arrays, **options)
        return "right"
    except GradientError as error:
        print(error)
        return "wrong"


old, new, keep = *rng.standard_normal((2, H, B)), keep_h[0]  # (H, B)
check("the slip is caught", verdict(lambda old, new: Slip()(old, new, keep), old, new, names=["old", "new"]) == "wrong")
found = [verdict(lambda x: Coarse()(x), new, method=method) for method in ("difference", "complex")]
check("rounded to float32: {} by differences, {} by complex step".format(*found), found == ["right", "wrong"])

# %% [markdown]
# ## What the complex step asks of a function
#
# That it be analytic. `abs` is not: for $x + ih$ it is $\sqrt{x^2 + h^2}$, which has no imaginary part, so a *right*
# gradient is called wrong. Norms and conjugates do the same. Therefore nothing in `minizone/autograd/ops.py` takes a
# modulus or
# a conjugate. Where numbers are compared, real parts decide, and the number itself goes through: `relu` is
# `x * (x.real > 0)`, a softmax subtracts the largest *real* score. What is left needs `method="difference"`.

# %%
found = [verdict(lambda x: Modulus()(x), new, method=method) for method in ("complex", "difference")]
check("right, but not analytic: {} by complex step, {} by differences".format(*found), found == ["wrong", "right"])
check("a relu that goes by the real part is fine", gradcheck(ops.relu, new) < 1e-12)


# %%
def problem(T, H, B, dtype, device):
    """loss(W_h), the cross-entropy of an LSTM with zoneout and V = 10 classes, and W_h (4H, H)."""
    rng, V = stream(0, "problem"), 10
    shapes = (T, 1, B), (H, B), (H, B), (4 * H, 1), (4 * H, H), (4 * H,), (V, H)
    arrays = [rng.standard_normal(shape) / shape[-1] ** 0.5 for shape in shapes]
    arrays += Zoneout(cells=0.5, states=0.05).masks(T, H, B, rng)
    x, h, c, W_x, W_h, b, W_y, keep_h, keep_c = (to_device(array.astype(dtype), device) for array in arrays)
    targets = to_device(rng.integers(V, size=(T, B)), device)

    def loss(W):
        states, _ = lstm(x, h, c, W_x, W, b, keep_h=keep_h, keep_c=keep_c)
        return ops.softmax_cross_entropy(ops.matmul(W_y, states), targets)

    return loss, W_h


def errors(loss, W_h, lines, slopes, h) -> list[float]:
    """Of each method with step h, the root mean square over some lines (4H, H) through W_h."""

    def along(line, s):
        with no_grad():
            return loss(Tensor(W_h + s * line)).data.item()

    each = [[m(partial(along, d), h) - s for d, s in zip(lines, slopes, strict=True)] for m in methods.values()]
    return [float(np.square(off).mean() ** 0.5) for off in each]


def main(preset: Preset = "quick", device: DeviceName = "cpu") -> dict[str, object]:
    """Three ways to differentiate the loss of an LSTM against its backward pass, for h from 1 down to 1e-20."""
    T, H, B, n = {"small": (10, 8, 2, 3), "quick": (50, 32, 4, 5), "paper": (784, 100, 10, 5)}[preset]
    where, steps, curves = Device(device), [10 ** (-k / 2) for k in range(41)], {}
    lines = stream(0, "lines").standard_normal((n, 4 * H, H))
    loss, W_h = problem(T, H, B, "float64", where)
    loss(W := Tensor(W_h)).backward()
    slopes = (lines * to_host(W.grad)).sum(axis=(1, 2))  # (n,)
    size = float(np.linalg.norm(to_host(W.grad)))
    for dtype in ("float64", "float32"):
        loss, W_h = problem(T, H, B, dtype, where)
        on_device = to_device(lines.astype(dtype), where)
        curves[dtype] = np.array([errors(loss, W_h, on_device, slopes, h) for h in steps]).T / size  # (3, 41)
        print(f"{dtype}, best: " + ", ".join(f"{e.min():.0e} {m}" for m, e in zip(methods, curves[dtype], strict=True)))
    forward, central, sideways = curves["float64"]
    check("the complex step is right to 12 digits for all h up to 1e-8", sideways[16:].max() < 1e-12)
    check("the best differences are worse by 100, at least", min(forward.min(), central.min()) > 100 * sideways[-1])
    check("in float32 too they are worse", curves["float32"][:2].min() > 3 * curves["float32"][2, -1])
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), width_ratios=[1.6, 1], sharey=True)
    for axis, (dtype, curve) in zip(axes, curves.items(), strict=True):
        for name, error, style in zip(methods, curve, ("C0-", "C1-", "C3-"), strict=True):
            axis.loglog(steps, np.maximum(error, 1e-17), style, label=name)
        axis.set(title=f"derivative of an LSTM's loss, {dtype}", xlabel="step $h$")
    axes[0].set(ylabel="error of the derivative, relative to the gradient", ylim=(1e-17, 1e2))
    for h, e, label in (3e-17, 1e-5, "rounding $\\epsilon / h$"), (1e-9, 1e-3, "truncation $h$"), (1e-3, 1e-9, "$h^2$"):
        axes[0].text(h, e, label)
    axes[0].legend(loc=(0.05, 0.2))
    save(figure, "03_gradcheck")
    return {"steps": steps, **{dtype: curve.tolist() for dtype, curve in curves.items()}}


# %%
if __name__ == "__main__":
    shared.run(main)

# %% [markdown]
# ## Exercises
#
# 1. Add a fourth method, $(8 f(h) - 8 f(-h) - f(2h) + f(-2h)) / 12 h$. How many digits, and at which $h$?
# 2. Let `zoned` draw its masks itself, from `rng`. What does the check say, and why is that no surprise?
# 3. Repair `Slip`, then multiply what it returns for `new` by `1 + 1e-8`. Which `rtol` of `gradcheck` lets it pass?
