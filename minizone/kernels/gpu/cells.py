"""The pointwise part of each cell on a GPU: the functions of `cpu`, each one fused kernel; `i` is a unit of an example.

The body of a kernel is the cell's equations for one unit; zoneout is ``keep * old + (new - keep * new)`` in it. Masks
broadcast to (H, B), or are None: then 0 stands for "nobody keeps", and 1 for "no input is dropped".
"""

from __future__ import annotations

from minizone.backend import Array
from minizone.kernels.gpu.cuda import Kernel, gemm


def small_blocks(W: Array, columns: int, pieces: int = 1) -> Array:
    """``W`` (M, K) in one piece, as what `product` wants."""
    return W[None, None]


def product(blocks: Array, h: Array, out: Array, scratch: Array) -> Array:
    """``W @ h`` into ``out`` (M, B), for the `small_blocks` of W."""
    gemm(blocks[0, 0], h, out)
    return out


def add_product(blocks: Array, h: Array, out: Array, mask: Array | None, room: Array, scratch: Array) -> None:
    """``out += mask * (W @ h)``, (M, B): one product, and with a mask one kernel more."""
    if mask is None:
        gemm(blocks[0, 0], h, out, 1.0)
    else:
        gemm(blocks[0, 0], h, room)
        _ADD_MASKED(room, mask, out)


_ADD_MASKED = Kernel("add_masked", "T x, T mask", "T out", "out += mask * x;")

_SIGMOID = """
template <typename T> __device__ T sigmoid_of_twice(T a) { return T(0.5) * tanh(a) + T(0.5); }
template <typename T> __device__ T zone_out(T keep, T old, T fresh) { return keep * old + (fresh - keep * fresh); }
"""  # pre-activations of sigmoids come halved, as to `cpu`


_LSTM_FORWARD = Kernel(
    "lstm_forward",
    "T h, T c, T keep_h, T keep_c, T input_mask",
    "raw T a, T new_h, T new_c, T tanh_c",
    """
    const ptrdiff_t n = _ind.size();
    const T in = sigmoid_of_twice(a[i]), forget = sigmoid_of_twice(a[i + n]), out = sigmoid_of_twice(a[i + 2 * n]);
    const T g = tanh(a[i + 3 * n]);
    const T candidate = input_mask * (in * g) + forget * c;
    tanh_c = tanh(candidate);
    new_c = zone_out(keep_c, c, candidate);
    new_h = zone_out(keep_h, h, out * tanh_c);
    a[i] = in;  a[i + n] = forget;  a[i + 2 * n] = out;  a[i + 3 * n] = g;
    """,
    _SIGMOID,
)


def lstm_forward(
    a: Array,
    h: Array,
    c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    new_h: Array,
    new_c: Array,
    tanh_c: Array,
    scratch: Array,
) -> None:
    """As `cpu.lstm_forward`."""
    _LSTM_FORWARD(h, c, _or(keep_h, 0), _or(keep_c, 0), _or(input_mask, 1), a, new_h, new_c, tanh_c)


_LSTM_BACKWARD = Kernel(
    "lstm_backward",
    "T c, T tanh_c, T keep_h, T keep_c, T input_mask, T more_h, T more_c",
    "raw T a, T dh, T dc, T dh_old, T dc_old",
    """
    const ptrdiff_t n = _ind.size();
    const T in = a[i], forget = a[i + n], out = a[i + 2 * n], g = a[i + 3 * n];
    dh_old = keep_h * dh + more_h;
    dc_old = keep_c * dc + more_c;
    dh -= keep_h * dh;  // now of h~ = out * tanh(c~)
    dc -= keep_c * dc;
    dc += dh * out * (1 - tanh_c * tanh_c);  // now of c~ = forget * c + input_mask * in * g
    dc_old += dc * forget;
    const T d_update = dc * input_mask;
    a[i] = d_update * g * in * (1 - in);
    a[i + n] = dc * c * forget * (1 - forget);
    a[i + 2 * n] = dh * tanh_c * out * (1 - out);
    a[i + 3 * n] = d_update * in * (1 - g * g);
    """,
)


def lstm_backward(
    a: Array,
    c: Array,
    tanh_c: Array,
    keep_h: Array | None,
    keep_c: Array | None,
    input_mask: Array | None,
    dh: Array,
    dc: Array,
    more_h: Array | None,
    more_c: Array | None,
    dh_old: Array,
    dc_old: Array,
    scratch: Array,
) -> None:
    """As `cpu.lstm_backward`."""
    masks = _or(keep_h, 0), _or(keep_c, 0), _or(input_mask, 1)
    _LSTM_BACKWARD(c, tanh_c, *masks, _or(more_h, 0), _or(more_c, 0), a, dh, dc, dh_old, dc_old)


_GRU_GATES_FORWARD = Kernel(
    "gru_gates_forward",
    "T h",
    "raw T a, T reset_h",
    """
    const ptrdiff_t n = _ind.size();
    const T r = sigmoid_of_twice(a[i]), z = sigmoid_of_twice(a[i + n]);
    reset_h = r * h;
    a[i] = r;  a[i + n] = z;
    """,
    _SIGMOID,
)


def gru_gates_forward(a: Array, h: Array, reset_h: Array) -> None:
    """As `cpu.gru_gates_forward`."""
    _GRU_GATES_FORWARD(h, a, reset_h)


_GRU_FORWARD = Kernel(
    "gru_forward",
    "T h, T keep_h, T input_mask",
    "raw T a, T new_h",
    """
    const ptrdiff_t n = _ind.size();
    const T z = a[i + n], candidate = tanh(a[i + 2 * n]), shown = input_mask * candidate;
    new_h = zone_out(keep_h, h, shown + z * (h - shown));
    a[i + 2 * n] = candidate;
    """,
    _SIGMOID,
)


def gru_forward(
    a: Array, h: Array, keep_h: Array | None, input_mask: Array | None, new_h: Array, scratch: Array
) -> None:
    """As `cpu.gru_forward`."""
    _GRU_FORWARD(h, _or(keep_h, 0), _or(input_mask, 1), a, new_h)


_GRU_BACKWARD = Kernel(
    "gru_backward",
    "T h, T keep_h, T input_mask, T more_h",
    "raw T a, T dh, T dh_old",
    """
    const ptrdiff_t n = _ind.size();
    const T z = a[i + n], candidate = a[i + 2 * n];
    dh_old = keep_h * dh + more_h;
    dh -= keep_h * dh;  // now of h~ = z * h + (1 - z) * input_mask * candidate
    dh_old += dh * z;
    a[i + n] = dh * (h - input_mask * candidate) * z * (1 - z);
    a[i + 2 * n] = (dh - dh * z) * input_mask * (1 - candidate * candidate);
    """,
)


def gru_backward(
    a: Array,
    h: Array,
    keep_h: Array | None,
    input_mask: Array | None,
    dh: Array,
    more_h: Array | None,
    dh_old: Array,
    scratch: Array,
) -> None:
    """As `cpu.gru_backward`."""
    _GRU_BACKWARD(h, _or(keep_h, 0), _or(input_mask, 1), _or(more_h, 0), a, dh, dh_old)


_GRU_GATES_BACKWARD = Kernel(
    "gru_gates_backward",
    "T h, T hidden_mask, T d_reset",
    "raw T a, T dh_old",
    """
    const T r = a[i];
    a[i] = d_reset * h * r * (1 - r);
    dh_old += hidden_mask * r * d_reset;
    """,
)


def gru_gates_backward(
    a: Array, h: Array, hidden_mask: Array | None, d_reset: Array, dh_old: Array, scratch: Array
) -> None:
    """As `cpu.gru_gates_backward`."""
    _GRU_GATES_BACKWARD(h, _or(hidden_mask, 1), d_reset, a, dh_old)


_RNN_FORWARD = Kernel(
    "rnn_forward",
    "T h, T keep_h, bool relu",
    "T a, T new_h",
    """
    a = relu ? (a < 0 ? T(0) : a) : tanh(a);  // NaN stays NaN: who diverges must see it
    new_h = zone_out(keep_h, h, a);
    """,
    _SIGMOID,
)


def rnn_forward(a: Array, h: Array, keep_h: Array | None, relu: bool, new_h: Array, scratch: Array) -> None:
    """As `cpu.rnn_forward`."""
    _RNN_FORWARD(h, _or(keep_h, 0), relu, a, new_h)


_RNN_BACKWARD = Kernel(
    "rnn_backward",
    "T keep_h, T more_h, bool relu",
    "T a, T dh, T dh_old",
    """
    dh_old = keep_h * dh + more_h;
    dh -= keep_h * dh;  // now of h~
    a = relu ? (a > 0 ? dh : T(0)) : dh * (1 - a * a);
    """,
)


def rnn_backward(a: Array, keep_h: Array | None, relu: bool, dh: Array, more_h: Array | None, dh_old: Array) -> None:
    """As `cpu.rnn_backward`."""
    _RNN_BACKWARD(_or(keep_h, 0), _or(more_h, 0), relu, a, dh, dh_old)


def _or(array: Array | None, number: float) -> Array | float:
    return number if array is None else array
