"""The C++ around the kernels that the stand-in for CuPy compiles for the host: as much of CUDA as fits on a page.

Elements are taken one after the other. Where a kernel lets the 32 lanes of a warp exchange values, the lanes are
coroutines that meet at every exchange: that is lockstep, it is the same every time, and much faster than threads.
"""

CUDA = r"""
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <string.h>
#include <type_traits>
#include <ucontext.h>
#include <vector>
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
static thread_local long long _error[4];  // which one; what ERRORS wants to know about it
template <class A, class B> auto max(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmax(C(a), C(b)); else return C(a) < C(b) ? C(b) : C(a);
}
template <class A, class B> auto min(A a, B b) {
    using C = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<C>) return std::fmin(C(a), C(b)); else return C(b) < C(a) ? C(b) : C(a);
}
template <class V> V rsqrt(V x) { return 1 / std::sqrt(x); }
template <class V> V __ldg(const V* p) { return *p; }
template <class V, class W> V atomicAdd(V* p, W v) { V old = *p; *p += v; return old; }

struct _Array { char* data; long long size, ndim, shape[@AXES@], strides[@AXES@]; };
struct _Indexer { ptrdiff_t n; ptrdiff_t size() const { return n; } };
template <class E> E& _element(const _Array& a, ptrdiff_t i) {
    ptrdiff_t offset = 0;
    for (int k = a.ndim - 1; k >= 0; i /= a.shape[k--]) offset += i % a.shape[k] * a.strides[k];
    return *(E*)(a.data + offset);
}
template <class E> struct _Raw {
    E* data; ptrdiff_t n; int number;
    E& operator[](ptrdiff_t k) const {
        if (0 <= k && k < n) return data[k];
        static thread_local std::remove_const_t<E> nothing;
        if (!_error[0]) { _error[0] = 1; _error[1] = k; _error[2] = number; _error[3] = n; }
        return nothing;
    }
    ptrdiff_t size() const { return n; }
};
"""

WARPS = r"""
struct _Warp {  // in every round each lane runs up to its next exchange; two sets of slots, used in turns
    jmp_buf main, at[32]; ucontext_t first[32], unused; std::vector<char> stacks = std::vector<char>(32 << 16);
    char slots[2][32][16]; bool started[32], done[32]; int lane, turn = 0, waiting;
    void (*body)(ptrdiff_t, void*); void* given; ptrdiff_t start;
};
static thread_local _Warp* _warp;
template <class V> V _exchange(V v, int from) {
    const int turn = _warp->turn;
    memcpy(_warp->slots[turn][_warp->lane], &v, sizeof v);
    if (!_setjmp(_warp->at[_warp->lane])) _longjmp(_warp->main, 1);
    memcpy(&v, _warp->slots[turn][from], sizeof v);
    return v;
}
static void _lane() {
    _warp->body(_warp->start + _warp->lane, _warp->given);
    _warp->done[_warp->lane] = true;
    _longjmp(_warp->main, 1);
}
static void _run_warp(ptrdiff_t start, void (*body)(ptrdiff_t, void*), void* given) {
    _Warp& w = *_warp;
    w.start = start; w.body = body; w.given = given;
    for (int k = 0; k < 32; ++k) {
        getcontext(&w.first[k]);
        w.first[k].uc_stack.ss_sp = &w.stacks[k << 16]; w.first[k].uc_stack.ss_size = 1 << 16;
        w.first[k].uc_link = &w.unused;
        makecontext(&w.first[k], _lane, 0);
        w.started[k] = w.done[k] = false;
    }
    do {
        w.waiting = 0;
        for (w.lane = 0; w.lane < 32; ++w.lane) {
            if (w.done[w.lane]) continue;
            if (!_setjmp(w.main)) {
                if (w.started[w.lane]) _longjmp(w.at[w.lane], 1);
                w.started[w.lane] = true;
                setcontext(&w.first[w.lane]);
            }
            w.waiting += !w.done[w.lane];
        }
        if (w.waiting % 32 && !_error[0]) _error[0] = 2;
        w.turn ^= 1;
    } while (w.waiting);
}
template <class V> V __shfl_sync(unsigned, V v, int lane) { return _exchange(v, lane & 31); }
template <class V> V __shfl_xor_sync(unsigned, V v, int k) { return _exchange(v, (_warp->lane ^ k) & 31); }
template <class V> V __shfl_down_sync(unsigned, V v, int k) {
    return _exchange(v, _warp->lane + k < 32 ? _warp->lane + k : _warp->lane);
}
template <class V> V __shfl_up_sync(unsigned, V v, int k) {
    return _exchange(v, _warp->lane - k >= 0 ? _warp->lane - k : _warp->lane);
}
#define __syncwarp(...) _exchange(0, 0)
"""

ELEMENTWISE = r"""
struct _Given { const _Array* p; ptrdiff_t n; };
static void _body(ptrdiff_t i, void* _given) {
    const _Array* _p = ((_Given*)_given)->p;
    const _Indexer _ind{((_Given*)_given)->n};
    @ELEMENTS@
    for (bool _once = true; _once; _once = false) {
        @BODY@;
    }
}
extern "C" long long* run(long long n, long long, const _Array* p) {
    _Given given{p, n};
    _error[0] = 0;
    @LOOP@
    return _error;
}
"""
ONE_BY_ONE = "for (ptrdiff_t i = 0; i < n; ++i) _body(i, &given);"
WARP_BY_WARP = "_Warp warp; _warp = &warp; for (ptrdiff_t i = 0; i < n; i += 32) _run_warp(i, _body, &given);"

ELEMENTWISE_ON_DEVICE = r"""
extern "C" @HEAD@ {
    const _Indexer _ind{_n};
    (void)_ind, (void)_inner;
    for (ptrdiff_t i = blockIdx.x * blockDim.x + threadIdx.x; i < _n; i += gridDim.x * blockDim.x) {
        @ELEMENTS@
        @BODY@;
    }
}
"""
REDUCTION = r"""
#define REDUCE(a, b) (@REDUCE@)
#define POST_MAP(a) (@POST_MAP@)
typedef @TYPE@ _type_reduce;
extern "C" @HEAD@ {
    @BEGIN@
    for (ptrdiff_t _i = @START@; _i < _n; _i += @STEP@) {
        _type_reduce _s = _type_reduce(@IDENTITY@);
        for (ptrdiff_t _at = _i * _inner; _at < (_i + 1) * _inner; ++_at) {
            @ELEMENTS@
            const _type_reduce _a = static_cast<_type_reduce>(@MAP@);
            _s = REDUCE(_s, _a);
        }
        @OUTPUTS@
        POST_MAP(_s);
    }
    @END@
}
"""
CUDA_ITSELF = r"""
struct _Indexer { ptrdiff_t n; __device__ ptrdiff_t size() const { return n; } };
template <class E> struct _Raw {
    E* data; ptrdiff_t n;
    __device__ E& operator[](ptrdiff_t k) const { return data[k]; }
    __device__ ptrdiff_t size() const { return n; }
};
"""
