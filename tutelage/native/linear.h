// A linear layer on paired weights, panel by panel: sums of a few columns at a time, handed on while they are hot.
#pragma once
#include "crew.h"
#include "gelu.h"
#include "tile.h"

// [out, in] padded with zeros to multiples of 32 and paired, so that x W^T is a product. The bias may be null.
struct Linear {
    const bf16 *weight, *bias;
    long out, in;
};

static const long PANEL = 64;  // columns computed together; their sums have this many numbers a row

// Asks for what the next panel reads or writes of a row: the processor does not foresee it, since panels run down, not along, the rows.
static inline void fetch_panel(const bf16* x) {
    for (long j = 0; j < PANEL; j += 32) __builtin_prefetch(x + PANEL + j, 0, 2);
}
static inline void fetch_panel_to_write(bf16* x) {
    for (long j = 0; j < PANEL; j += 32) __builtin_prefetch(x + PANEL + j, 1, 2);
}

// n up to a multiple of what `product` takes at once.
static inline long whole_steps(long n) { return (n + ROW_STEP - 1) / ROW_STEP * ROW_STEP; }

// The n rows of x as `product` reads them, padded(width) apart: x itself, or a copy with zeros around it.
static inline const bf16* whole_rows(bf16* buffer, const bf16* x, long n, long width) {
    if (n % ROW_STEP == 0 && width % 32 == 0) return x;
    const long step = padded(width), rows = whole_steps(n);
    std::memset(buffer, 0, rows * step * sizeof(bf16));
    for (long i = 0; i < n; i++) std::memcpy(buffer + i * step, x + i * width, width * sizeof(bf16));
    return buffer;
}

// The sums of columns `first` to `end`, at most PANEL of them, of x W^T; returns how many of them are real. asks: whether
// the weights of the next panel are asked for on the way, which one of several calls for the same panel should do.
static inline long panel(const Linear& layer, long first, long end, const bf16* x, long rows, float* sums,
                         bool asks = true) {
    const long in = padded(layer.in), left = padded(end) - first, real = (end < layer.out ? end : layer.out) - first;
    const bf16 *weight = layer.weight + first * in, *ahead = asks && left >= 2 * PANEL ? weight + PANEL * in : nullptr;
    product(sums, PANEL, x, in, weight, in * 16, rows, left < PANEL ? left : PANEL, in, false, ahead);
    return real < PANEL ? real : PANEL;
}

// sum + bias -> bf16, of `count` columns of a row from column `first` on.
static inline void narrow_sums(const Linear& layer, long first, float* sum, bf16* to, long count) {
    if (layer.bias) {
#pragma omp simd
        for (long j = 0; j < count; j++) sum[j] += widen(layer.bias[first + j]);
    }
    narrow_all(to, sum, count);
}

// out[n, step] = x W^T + bias in bf16. rows: n up to a multiple of ROW_STEP.
static inline void apply(const Linear& layer, const bf16* x, bf16* out, long step, long n, long rows, float* sums) {
    for (long first = 0; first < layer.out; first += PANEL) {
        const long count = panel(layer, first, layer.out, x, rows, sums);
        for (long i = 0; i < n; i++) {
            bf16* to = out + i * step + first;
            fetch_panel_to_write(to);
            narrow_sums(layer, first, sums + i * PANEL, to, count);
        }
    }
}

// gelu of one row of sums plus bias, after these were rounded, which is also what is kept.
static inline void gelu_row(const Linear& layer, Activation kind, long first, float* sum, bf16* out, bf16* kept, long count) {
    float value[PANEL];
    narrow_sums(layer, first, sum, kept, count);
#pragma omp simd
    for (long j = 0; j < count; j++) sum[j] = widen(kept[j]);
    gelu_all(kind, sum, value, count);
    narrow_all(out, value, count);
}

// silu(gate) * up of one row of sums, after both were rounded, which also is what is kept. Sums beyond the last are read.
static inline void gate_row(const float* gate, const float* up, bf16* out, bf16* kept_gate, bf16* kept_up, long count) {
    for (long j = 0; j < count; j += 16) {
        const Halves g = narrow_16(*(const Floats*)(gate + j)), u = narrow_16(*(const Floats*)(up + j));
        const Floats opened = widen_16(g);
        store_16(kept_gate + j, g, count - j);
        store_16(kept_up + j, u, count - j);
        store_16(out + j, narrow_16(opened * sigmoid(opened) * widen_16(u)), count - j);
    }
}
