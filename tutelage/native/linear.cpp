// Linear layers on paired weights. Equals plain.py:
//
//   linear           x W^T + bias
//   gated            silu(gate) * up, of two layers of one input; and both before that, which the backward pass needs
//   gated_backward   from the gradient of what the next layer gave, through that layer, to gates and ups; and
//                    silu(gate) * up once more, so that it need not be kept
//   pair_weight      a weight as `product` reads it, for x W^T or, turned, for x W
//
// Threads take blocks of rows. A row is computed by itself, to the bit, whatever else is in the pass.
#include "linear.h"

static const long ROWS = 32;  // of a block

extern "C" {

// x[n, in] -> out[n, out].
void linear(const Linear* layer, const bf16* x, bf16* out, long n, int n_threads) {
#pragma omp parallel num_threads(n_threads)
    {
        Tiles tiles;
        scratch.reset(ROWS * (padded(layer->in) * 2 + PANEL * 4) + 128);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(layer->in));
        float* sums = scratch.take<float>(ROWS * PANEL);
#pragma omp for schedule(static)
        for (long first = 0; first < n; first += ROWS) {
            const long m = n - first < ROWS ? n - first : ROWS;
            const bf16* rows = whole_rows(buffer, x + first * layer->in, m, layer->in);
            apply(*layer, rows, out + first * layer->out, layer->out, m, (m + ROW_STEP - 1) / ROW_STEP * ROW_STEP, sums);
        }
    }
}

// x[n, in] -> out[n, f], and gate_up[n, 2 f] (unless null): gates, then ups.
void gated(const Linear* gate, const Linear* up, const bf16* x, bf16* gate_up, bf16* out, long n, int n_threads) {
    const long f = gate->out, in = gate->in;
#pragma omp parallel num_threads(n_threads)
    {
        Tiles tiles;
        scratch.reset(ROWS * (padded(in) * 2 + PANEL * 8) + 256);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(in));
        float *gates = scratch.take<float>(ROWS * PANEL), *ups = scratch.take<float>(ROWS * PANEL);
#pragma omp for schedule(static)
        for (long first = 0; first < n; first += ROWS) {
            const long m = n - first < ROWS ? n - first : ROWS, rows = (m + ROW_STEP - 1) / ROW_STEP * ROW_STEP;
            const bf16* block = whole_rows(buffer, x + first * in, m, in);
            for (long column = 0; column < f; column += PANEL) {
                const long count = panel(*gate, column, block, rows, gates);
                panel(*up, column, block, rows, ups);
                for (long i = 0; i < m; i++) {
                    bf16* to = out + (first + i) * f + column;
                    float *g = gates + i * PANEL, *u = ups + i * PANEL;
                    if (gate_up) {
                        bf16 *g_to = gate_up + (first + i) * 2 * f + column, *u_to = g_to + f;
#pragma omp simd
                        for (long j = 0; j < count; j++) g_to[j] = narrow(g[j]), u_to[j] = narrow(u[j]);
                    }
#pragma omp simd
                    for (long j = 0; j < count; j++) {
                        const float opened = widen(narrow(g[j]));
                        to[j] = narrow(opened * sigmoid(opened) * widen(narrow(u[j])));
                    }
                }
            }
        }
    }
}

// grad[n, out], of a layer on silu(gate) * up, and that layer turned -> grad_gate_up[n, 2 f] and hidden[n, f].
void gated_backward(const Linear* turned, const bf16* grad, const bf16* gate_up, bf16* grad_gate_up, bf16* hidden, long n,
                    int n_threads) {
    const long f = turned->out, in = turned->in;
#pragma omp parallel num_threads(n_threads)
    {
        Tiles tiles;
        scratch.reset(ROWS * (padded(in) * 2 + PANEL * 4) + 128);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(in));
        float* slopes = scratch.take<float>(ROWS * PANEL);
#pragma omp for schedule(static)
        for (long first = 0; first < n; first += ROWS) {
            const long m = n - first < ROWS ? n - first : ROWS;
            const bf16* block = whole_rows(buffer, grad + first * in, m, in);
            for (long column = 0; column < f; column += PANEL) {
                const long count = panel(*turned, column, block, (m + ROW_STEP - 1) / ROW_STEP * ROW_STEP, slopes);
                for (long i = 0; i < m; i++) {
                    const bf16 *gate = gate_up + (first + i) * 2 * f + column, *up = gate + f;
                    bf16 *grad_gate = grad_gate_up + (first + i) * 2 * f + column, *grad_up = grad_gate + f;
                    bf16* to = hidden + (first + i) * f + column;
                    const float* slope = slopes + i * PANEL;
#pragma omp simd
                    for (long j = 0; j < count; j++) {
                        const float g = widen(gate[j]), u = widen(up[j]), open = sigmoid(g), silu = g * open;
                        to[j] = narrow(silu * u);
                        grad_up[j] = narrow(slope[j] * silu);
                        grad_gate[j] = narrow(slope[j] * u * (open + silu * (1.0f - open)));
                    }
                }
            }
        }
    }
}

// weight[out, in], both multiples of 32 -> paired for x W^T, or for x W if `turned`.
void pair_weight(const bf16* weight, bf16* paired, long out, long in, int turned) {
    if (turned)
        pair_rows(paired, out * 16, weight, in, out, in);
    else
        pair_columns(paired, weight, in, out, in);
}
}
