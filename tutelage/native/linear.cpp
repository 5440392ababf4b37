// Linear layers on paired weights. Equals plain.py:
//
//   linear           x W^T + bias
//   gated            silu(gate) * up, of two layers of one input; and both before that, which the backward pass needs
//   gated_backward   from the gradient of what the next layer gave, through that layer, to gates and ups; and
//                    silu(gate) * up once more, so that it need not be kept
//   activated        gelu of one layer, and what it was of; activated_backward: as gated_backward
//   pair_weight      a weight as `product` reads it, for x W^T or, turned, for x W
//
// Threads take blocks of rows. A row is computed by itself, to the bit, whatever else is in the pass.
#include <algorithm>

#include "linear.h"

static const long ROWS = 128;        // of a part, at most
static const long PAIRED = 64;       // rows of a weight in a part
static const long NEAR = 512 << 10;  // numbers of weights that stay near from part to part

// The gradient of one row of silu(gate) * up, `slope` -> that of gate and up, and silu(gate) * up once more.
static inline void gate_row_backward(const float* slope, const bf16* gate, const bf16* up, bf16* grad_gate, bf16* grad_up,
                                     bf16* hidden, long count) {
    for (long j = 0; j < count; j += 16) {
        const long n = count - j;
        const Floats s = *(const Floats*)(slope + j), g = widen_16(load_16(gate + j, n)), u = widen_16(load_16(up + j, n));
        const Floats open = sigmoid(g), silu = g * open;
        store_16(hidden + j, narrow_16(silu * u), n);
        store_16(grad_up + j, narrow_16(s * silu), n);
        store_16(grad_gate + j, narrow_16(s * u * (open + silu * (1.0f - open))), n);
    }
}

// The gradient of one row of gelu(x), `slope` -> that of x, and gelu(x) once more.
static inline void gelu_row_backward(Activation kind, const float* slope, const bf16* x, bf16* grad, bf16* hidden,
                                     long count) {
    float value[PANEL], of_x[PANEL], wide[PANEL];
#pragma omp simd
    for (long j = 0; j < count; j++) wide[j] = widen(x[j]);
    gelu_all(kind, wide, value, count);
    if (kind == GELU_TANH) {
#pragma omp simd
        for (long j = 0; j < count; j++) of_x[j] = slope[j] * gelu_slope<true>(wide[j]);
    } else {
#pragma omp simd
        for (long j = 0; j < count; j++) of_x[j] = slope[j] * gelu_slope<false>(wide[j]);
    }
    narrow_all(hidden, value, count);
    narrow_all(grad, of_x, count);
}

// done(some rows of a panel) until it has had all of x[n, in] W^T, of some layers alike.
template <long LAYERS, class F>
static void share_rows(const Linear* const (&layers)[LAYERS], const bf16* x, long n, int n_threads, F done) {
    const long in = layers[0]->in, out = layers[0]->out;
    Next next;
    next.is_again = LAYERS * in * out <= NEAR;
    const long even = ((n + n_threads - 1) / n_threads + FEW - 1) / FEW * FEW, most = std::max(FEW, std::min(even, ROWS));
    share((n + most - 1) / most, n_threads, [&](long part) {
        const long first = part * most, m = n - first < most ? n - first : most;
        scratch.reset(ROWS * padded(in) * 2 + sums_bytes(LAYERS) + 64);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(in));
        each_panel(layers, 0, out, whole_rows(buffer, x + first * in, m, in), m,
                   scratch.take<float>(2 * LAYERS * SUMS), next,
                   [&](const Sums& s) { done(Sums{s.sum, s.first, s.count, first + s.row, s.n}); });
    });
}

extern "C" {

// x[n, in] -> out[n, out].
void linear(const Linear* layer, const bf16* x, bf16* out, long n, int n_threads) {
    share_rows({layer}, x, n, n_threads, [&](const Sums& s) {
        narrow_sums(*layer, s, out + s.row * layer->out + s.first, layer->out);
    });
}

// x[n, in] -> out[n, f], and gate_up[n, 2 f] (unless null): gates, then ups.
void gated(const Linear* gate, const Linear* up, const bf16* x, bf16* gate_up, bf16* out, long n, int n_threads) {
    const long f = gate->out;
    share_rows({gate, up}, x, n, n_threads, [&](const Sums& s) {
        bf16 unkept[2 * PANEL], *to = out + s.row * f + s.first;
        bf16* kept_gate = gate_up ? gate_up + s.row * 2 * f + s.first : unkept;
        bf16* kept_up = gate_up ? kept_gate + f : unkept + PANEL;
        const long kept_step = gate_up ? 2 * f : 0;
        columns_of(s.count, [&](long count) {
            for (long i = 0; i < s.n; i++, to += f, kept_gate += kept_step, kept_up += kept_step) {
                fetch_panel(to);
                if (gate_up) fetch_panel(kept_gate), fetch_panel(kept_up);
                gate_row(s.sum + i * PANEL, s.sum + SUMS + i * PANEL, to, kept_gate, kept_up, count);
            }
        });
    });
}

// grad[n, out], of a layer on silu(gate) * up, and that layer turned -> grad_gate_up[n, 2 f] and hidden[n, f].
void gated_backward(const Linear* turned, const bf16* grad, const bf16* gate_up, bf16* grad_gate_up, bf16* hidden, long n,
                    int n_threads) {
    const long f = turned->out;
    share_rows({turned}, grad, n, n_threads, [&](const Sums& s) {
        const bf16* gate = gate_up + s.row * 2 * f + s.first;
        bf16 *grad_gate = grad_gate_up + s.row * 2 * f + s.first, *to = hidden + s.row * f + s.first;
        columns_of(s.count, [&](long count) {
            for (long i = 0; i < s.n; i++, gate += 2 * f, grad_gate += 2 * f, to += f) {
                fetch_panel(gate), fetch_panel(gate + f);
                fetch_panel(grad_gate), fetch_panel(grad_gate + f), fetch_panel(to);
                gate_row_backward(s.sum + i * PANEL, gate, gate + f, grad_gate, grad_gate + f, to, count);
            }
        });
    });
}

// x[n, in] -> out[n, f] = gelu(x W^T + bias), and kept[n, f] (unless null), what it is of.
void activated(const Linear* layer, int kind, const bf16* x, bf16* kept, bf16* out, long n, int n_threads) {
    const long f = layer->out;
    share_rows({layer}, x, n, n_threads, [&](const Sums& s) {
        bf16 unkept[PANEL], *to = out + s.row * f + s.first, *held = kept ? kept + s.row * f + s.first : unkept;
        for (long i = 0; i < s.n; i++, to += f, held += kept ? f : 0) {
            fetch_panel(to), fetch_panel(held);
            gelu_row(*layer, Activation(kind), s.first, s.sum + i * PANEL, to, held, s.count);
        }
    });
}

// grad[n, out], of a layer on gelu(kept), and that layer turned -> grad_kept[n, f] and hidden[n, f] = gelu(kept).
void activated_backward(const Linear* turned, int kind, const bf16* grad, const bf16* kept, bf16* grad_kept, bf16* hidden,
                        long n, int n_threads) {
    const long f = turned->out;
    share_rows({turned}, grad, n, n_threads, [&](const Sums& s) {
        for (long i = 0, at = s.row * f + s.first; i < s.n; i++, at += f) {
            fetch_panel(kept + at), fetch_panel(grad_kept + at), fetch_panel(hidden + at);
            gelu_row_backward(Activation(kind), s.sum + i * PANEL, kept + at, grad_kept + at, hidden + at, s.count);
        }
    });
}

// weight[rows, in] in float32, both multiples of 32, rounded -> rows `first` and on of the `out` that are paired for x W^T,
// or for x W if `turned`.
void pair_weight(const float* weight, bf16* paired, long rows, long in, long first, long out, int turned, int n_threads) {
    share((rows + PAIRED - 1) / PAIRED, n_threads, [&](long part) {
        const long start = part * PAIRED, row = first + start, count = rows - start < PAIRED ? rows - start : PAIRED;
        scratch.reset(count * in * sizeof(bf16) + 64);
        bf16* half = scratch.take<bf16>(count * in);
        narrow_all(half, weight + start * in, count * in);
        if (turned)
            pair_rows(paired + row * 16, out * 16, half, in, count, in);
        else
            pair_columns(paired + row * in, half, in, count, in);
    });
}
}
