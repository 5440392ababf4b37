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
#include "linear.h"

static const long ROWS = 64;     // of a part
static const long PAIRED = 64;   // rows of a weight in a part

// The gradient of one row of silu(gate) * up, `slope` -> that of gate and up, and silu(gate) * up once more.
static inline void gate_row_backward(const float* slope, const bf16* gate, const bf16* up, bf16* grad_gate, bf16* grad_up,
                                     bf16* hidden, long count) {
    columns_of(count, [&](long all) {
        for (long j = 0; j < all; j += 16) {
            const long n = all - j;
            const Floats s = *(const Floats*)(slope + j), g = widen_16(load_16(gate + j, n)), u = widen_16(load_16(up + j, n));
            const Floats open = sigmoid(g), silu = g * open;
            store_16(hidden + j, narrow_16(silu * u), n);
            store_16(grad_up + j, narrow_16(s * silu), n);
            store_16(grad_gate + j, narrow_16(s * u * (open + silu * (1.0f - open))), n);
        }
    });
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

// done(first column, how many, row, sums) for each row of each panel of x[n, in] W^T, of some layers alike.
template <long LAYERS, class F>
static void share_rows(const Linear* const (&layers)[LAYERS], const bf16* x, long n, int n_threads, F done) {
    const long in = layers[0]->in;
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        const long first = part * ROWS, m = n - first < ROWS ? n - first : ROWS;
        scratch.reset(ROWS * padded(in) * 2 + sums_bytes(LAYERS) + 64);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(in));
        each_panel(layers, 0, layers[0]->out, whole_rows(buffer, x + first * in, m, in), m,
                   scratch.take<float>(2 * LAYERS * SUMS), {},
                   [&](long j, long count, long row, const float* sum) { done(j, count, first + row, sum); });
    });
}

extern "C" {

// x[n, in] -> out[n, out].
void linear(const Linear* layer, const bf16* x, bf16* out, long n, int n_threads) {
    share_rows({layer}, x, n, n_threads, [&](long j, long count, long row, const float* sum) {
        bf16* to = out + row * layer->out + j;
        fetch_panel_to_write(to);
        narrow_sums(*layer, j, sum, to, count);
    });
}

// x[n, in] -> out[n, f], and gate_up[n, 2 f] (unless null): gates, then ups.
void gated(const Linear* gate, const Linear* up, const bf16* x, bf16* gate_up, bf16* out, long n, int n_threads) {
    const long f = gate->out;
    share_rows({gate, up}, x, n, n_threads, [&](long j, long count, long row, const float* sum) {
        bf16 unkept[2 * PANEL], *to = out + row * f + j;
        bf16* kept_gate = gate_up ? gate_up + row * 2 * f + j : unkept;
        bf16* kept_up = gate_up ? kept_gate + f : unkept + PANEL;
        fetch_panel_to_write(to);
        if (gate_up) fetch_panel_to_write(kept_gate), fetch_panel_to_write(kept_up);
        gate_row(sum, sum + SUMS, to, kept_gate, kept_up, count);
    });
}

// grad[n, out], of a layer on silu(gate) * up, and that layer turned -> grad_gate_up[n, 2 f] and hidden[n, f].
void gated_backward(const Linear* turned, const bf16* grad, const bf16* gate_up, bf16* grad_gate_up, bf16* hidden, long n,
                    int n_threads) {
    const long f = turned->out;
    share_rows({turned}, grad, n, n_threads, [&](long j, long count, long row, const float* sum) {
        const bf16* gate = gate_up + row * 2 * f + j;
        bf16 *grad_gate = grad_gate_up + row * 2 * f + j, *to = hidden + row * f + j;
        fetch_panel(gate), fetch_panel(gate + f);
        fetch_panel_to_write(grad_gate), fetch_panel_to_write(grad_gate + f), fetch_panel_to_write(to);
        gate_row_backward(sum, gate, gate + f, grad_gate, grad_gate + f, to, count);
    });
}

// x[n, in] -> out[n, f] = gelu(x W^T + bias), and kept[n, f] (unless null), what it is of.
void activated(const Linear* layer, int kind, const bf16* x, bf16* kept, bf16* out, long n, int n_threads) {
    const long f = layer->out;
    share_rows({layer}, x, n, n_threads, [&](long j, long count, long row, const float* sum) {
        bf16 unkept[PANEL], *to = out + row * f + j, *held = kept ? kept + row * f + j : unkept;
        fetch_panel_to_write(to);
        if (kept) fetch_panel_to_write(held);
        gelu_row(*layer, Activation(kind), j, sum, to, held, count);
    });
}

// grad[n, out], of a layer on gelu(kept), and that layer turned -> grad_kept[n, f] and hidden[n, f] = gelu(kept).
void activated_backward(const Linear* turned, int kind, const bf16* grad, const bf16* kept, bf16* grad_kept, bf16* hidden,
                        long n, int n_threads) {
    const long f = turned->out;
    share_rows({turned}, grad, n, n_threads, [&](long j, long count, long row, const float* sum) {
        const long at = row * f + j;
        fetch_panel(kept + at), fetch_panel_to_write(grad_kept + at), fetch_panel_to_write(hidden + at);
        gelu_row_backward(Activation(kind), sum, kept + at, grad_kept + at, hidden + at, count);
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
