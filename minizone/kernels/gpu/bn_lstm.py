"""The elementwise part of a batch-normalized LSTM step as one kernel for each direction.

One warp computes one hidden unit, and its lanes share the examples. Means over a minibatch are sums over the lanes;
everything else stays within a lane.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel
from minizone.kernels.gpu.zoneout import FUNCTIONS
from minizone.kernels.step import Gradients, Masks, Normalization

LANES = 32  # threads of a warp

_PREAMBLE = """
#define LANES @LANES@
#define MASK(name) (name##_unit < 0 ? name##_value : name[unit * name##_unit + n * name##_example])
#define EXAMPLES for (int n = lane; n < B; n += LANES)

template <typename T> __device__ T over_lanes(T sum) {
    for (int k = LANES / 2; k > 0; k /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, k);
    return sum;
}

template <typename T> __device__  // one row s (B,); its statistics are inputs if given, else outputs
void normalize(T* s, T* mean, T* variance, T* inverse, T epsilon, bool given, int B, int lane) {
    T m = *mean, v = *variance;
    if (!given) {
        T sum = 0;
        EXAMPLES sum += s[n];
        m = over_lanes(sum) / B;
        sum = 0;
        EXAMPLES sum += (s[n] - m) * (s[n] - m);
        v = over_lanes(sum) / B;
    }
    const T scale = 1 / sqrt(v + epsilon);
    EXAMPLES s[n] = (s[n] - m) * scale;
    if (lane == 0) { *mean = m;  *variance = v;  *inverse = scale; }
}

template <typename T> __device__  // s_hat (B,) becomes dLoss/ds; d (B,) is dLoss/d(gamma * s_hat + beta)
void normalize_back(const T* d, T* s_hat, T scale, T* d_gamma, T* d_beta, bool given, int B, int lane) {
    T sum = 0, products = 0;
    EXAMPLES { sum += d[n];  products += d[n] * s_hat[n]; }
    sum = over_lanes(sum);
    products = over_lanes(products);
    const T mean = given ? T(0) : sum / B, slope = given ? T(0) : products / B;
    EXAMPLES s_hat[n] = scale * (d[n] - mean - s_hat[n] * slope);
    if (lane == 0) { *d_gamma = products;  *d_beta = sum; }
}
"""


def _mask_params(name: str) -> str:
    return f"raw T {name}, T {name}_value, int32 {name}_unit, int32 {name}_example"


def _mask(mask: Any, absent: float, any_array: Array) -> tuple[Any, ...]:
    """A mask that broadcasts to (H, B) as array, number (without an array), stride of units, stride of examples."""
    if mask is None or not hasattr(mask, "ndim"):
        return any_array, absent if mask is None else mask, -1, 0
    units, examples = (1, 1, *mask.shape)[-2:]
    return mask, 0.0, examples if units > 1 else 0, int(examples > 1)


_MASKS = ", ".join(map(_mask_params, ("keep_h", "keep_c", "input_mask")))

_FORWARD = (
    "bn_lstm_forward",
    "int32 H, int32 B, bool given, T epsilon, raw T gamma, raw T b, raw T gamma_c, raw T beta_c, raw T h, raw T c, "
    + _MASKS,
    "raw T s_hat, raw T mean, raw T variance, raw T inverse, raw T a, raw T new_h, raw T new_c, "
    "raw T c_hat, raw T tanh_c",
    """
    const int unit = i / LANES, lane = i % LANES, first = unit * B;
    for (int row = unit; row < 8 * H; row += H)
        normalize(&s_hat[row * B], &mean[row], &variance[row], &inverse[row], epsilon, given, B, lane);
    EXAMPLES {
        const int at = first + n;
        for (int k = 0; k < 4; ++k) {
            const int row = k * H + unit, below = row + 4 * H;
            const T sum = gamma[row] * s_hat[row * B + n] + gamma[below] * s_hat[below * B + n] + b[row];
            a[row * B + n] = k == 2 ? tanh(sum) : sigmoid(sum);
        }
        const T update = a[at] * a[2 * H * B + at];
        const T candidate = a[H * B + at] * c[at] + MASK(input_mask) * update;
        new_c[at] = zone_out(T(MASK(keep_c)), T(c[at]), candidate);
        c_hat[at] = candidate;
    }
    const int cell = 8 * H + unit;
    normalize(&c_hat[first], &mean[cell], &variance[cell], &inverse[cell], epsilon, given, B, lane);
    EXAMPLES {
        const int at = first + n;
        tanh_c[at] = tanh(gamma_c[unit] * c_hat[at] + beta_c[unit]);
        new_h[at] = zone_out(T(MASK(keep_h)), T(h[at]), T(a[3 * H * B + at] * tanh_c[at]));
    }
    """,
)

_BACKWARD = (
    "bn_lstm_backward",
    "int32 H, int32 B, bool given, raw T gamma, raw T gamma_c, raw T inverse, raw T c, "
    f"{_MASKS}, raw T dh_out, raw T dc_out, bool has_h, bool has_c",
    "raw T a, raw T s_hat, raw T c_hat, raw T tanh_c, raw T dh, raw T dc, raw T dh_before, raw T dc_before, "
    "raw T d_gamma, raw T d_beta, raw T d_normalized",
    """
    const int unit = i / LANES, lane = i % LANES, first = unit * B;
    EXAMPLES {
        const int at = first + n;
        const T keep = MASK(keep_h), out = a[3 * H * B + at], exposed = tanh_c[at];
        if (has_h) dh[at] += dh_out[at];
        dh_before[at] = keep * dh[at];
        dh[at] -= dh_before[at];  // now dLoss/dh~, h~ = out * tanh(BN(c~))
        d_normalized[at] = dh[at] * out * (1 - exposed * exposed);
        a[3 * H * B + at] = dh[at] * exposed * out * (1 - out);
    }
    const int cell = 8 * H + unit;
    const T scale = gamma_c[unit] * inverse[cell];
    T *dy = &d_normalized[first], *d_beta_c = &d_beta[4 * H + unit];
    normalize_back(dy, &c_hat[first], scale, &d_gamma[cell], d_beta_c, given, B, lane);
    EXAMPLES {
        const int at = first + n, f_at = H * B + at, g_at = 2 * H * B + at;
        const T keep = MASK(keep_c), in = a[at], forget = a[f_at], g = a[g_at];
        if (has_c) dc[at] += dc_out[at];
        dc_before[at] = keep * dc[at];
        dc[at] += c_hat[at] - dc_before[at];  // now dLoss/dc~, c~ = forget * c + input_mask * in * g
        dc_before[at] += dc[at] * forget;
        const T d_update = dc[at] * MASK(input_mask);
        a[at] = d_update * g * in * (1 - in);
        a[f_at] = dc[at] * c[at] * forget * (1 - forget);
        a[g_at] = d_update * in * (1 - g * g);
    }
    for (int row = unit; row < 4 * H; row += H) {
        const int below = row + 4 * H;
        const T scale_x = gamma[row] * inverse[row], scale_h = gamma[below] * inverse[below];
        normalize_back(&a[row * B], &s_hat[row * B], scale_x, &d_gamma[row], &d_beta[row], given, B, lane);
        normalize_back(&a[row * B], &s_hat[below * B], scale_h, &d_gamma[below], &d_beta[row], given, B, lane);
    }
    """,
)


@cache
def _kernel(parts: tuple[str, str, str, str], lanes: int) -> Kernel:
    return Kernel(*parts, FUNCTIONS + _PREAMBLE.replace("@LANES@", str(lanes)))


def bn_lstm_forward(
    norm: Normalization, s_hat: Array, h: Array, c: Array, masks: Masks,
    a: Array, new_h: Array, new_c: Array, c_hat: Array, tanh_c: Array, scratch: Array,
) -> None:  # fmt: skip
    """As `minizone.kernels.cpu.bn_lstm_forward`."""
    H, B = h.shape
    if B == 0:  # no examples: nothing to compute
        return
    _kernel(_FORWARD, LANES)(
        H, B, norm.given, norm.epsilon, norm.gamma, norm.b, norm.gamma_c, norm.beta_c, h, c,
        *_mask(masks.keep_h, 0, h), *_mask(masks.keep_c, 0, h), *_mask(masks.input_mask, 1, h),
        s_hat, norm.mean, norm.variance, norm.inverse, a, new_h, new_c, c_hat, tanh_c, size=H * LANES,
    )  # fmt: skip


def bn_lstm_backward(
    norm: Normalization, a: Array, s_hat: Array, c_hat: Array, tanh_c: Array, c: Array, masks: Masks, d: Gradients,
    d_gamma: Array, d_beta: Array, scratch: Array,
) -> None:  # fmt: skip
    """As `minizone.kernels.cpu.bn_lstm_backward`."""
    H, B = c.shape
    if B == 0:
        d_gamma[...] = 0
        d_beta[...] = 0
        return
    h_out = c if d.h_out is None else d.h_out  # any array, since the kernel does not read it
    c_out = c if d.c_out is None else d.c_out
    _kernel(_BACKWARD, LANES)(
        H, B, norm.given, norm.gamma, norm.gamma_c, norm.inverse, c,
        *_mask(masks.keep_h, 0, c), *_mask(masks.keep_c, 0, c), *_mask(masks.input_mask, 1, c),
        h_out, c_out, d.h_out is not None, d.c_out is not None,
        a, s_hat, c_hat, tanh_c, d.h, d.c, d.h_before, d.c_before, d_gamma, d_beta, scratch[:H], size=H * LANES,
    )  # fmt: skip
