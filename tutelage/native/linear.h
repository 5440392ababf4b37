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

// Memory that is read next, of which a few lines are asked for at a time: it is slower than the products, and can be asked for
// only so many lines at once.
struct Ahead {
    const bf16* next = nullptr;
    long lines = 0;  // of 64 bytes, at a time
    void ask() {
        for (long i = 0; i < lines; i++) __builtin_prefetch(next + i * 32, 0, 2);
        next += lines * 32;
    }
};

// Sums of rows of a panel, which are yet to be handed on one by one.
struct Sums {
    const float* sum = nullptr;
    long first = 0, count = 0, row = 0, n = 0;  // the first column, how many, the next row, how many more
};

static const long FEW = 32;            // rows that are multiplied together: they stay in the nearest cache
static const long SUMS = FEW * PANEL;  // numbers from the sums of one layer to those of the next
static const long GROUP = 80 << 10;    // numbers of a weight that all rows at hand are multiplied by before the next ones

// Room for the sums of `layers` layers: some are handed on while others are made.
static inline long sums_bytes(long layers) { return 2 * layers * SUMS * 4 + 64; }

// Columns of a layer with `in` inputs that are a group for n rows: no more than a panel where all rows stay near anyway.
static inline long group_of(long in, long n) { return n > FEW && GROUP / in > PANEL ? GROUP / in / PANEL * PANEL : PANEL; }

// The layers that are multiplied by next, whose first columns are asked for beside the last ones of those at hand; null: none.
struct Next {
    const Linear *first = nullptr, *second = nullptr;
};

// Up to `most` columns of a layer's weights from column `from` on, to be asked for in so many steps.
static inline Ahead columns_ahead(const Linear* layer, long from, long most, long steps) {
    if (most <= 0) return {};
    const long in = padded(layer->in);
    return {layer->weight + from * in, (most * in / 32 + steps - 1) / steps};
}

// The first group of a layer for n rows.
static inline Ahead group_ahead(const Linear* layer, long n, long steps) {
    if (!layer || !layer->weight) return {};
    const long group = group_of(padded(layer->in), n), out = padded(layer->out);
    return columns_ahead(layer, 0, group < out ? group : out, steps);
}

// done(first column, how many, row, sums) for each row of each panel, from column `first` to `end`, of x W^T for the n rows
// of x and one or more layers alike, whose sums lie SUMS apart. A few rows at a time, which stay in the nearest cache, meet a
// group of columns, which stays in the next one. Handing on one panel goes on beside the products of the next one.
template <long LAYERS, class F>
static inline void each_panel(const Linear* const (&layers)[LAYERS], long first, long end, const bf16* x, long n, float* sums,
                              const Next& next, F done) {
    const long in = padded(layers[0]->in), whole = padded(end), group = group_of(in, n);
    const long real = end < layers[0]->out ? end : layers[0]->out;
    Sums last;
    bool is_second = false;
    const auto hand_on = [&](long rows) {
        for (; rows > 0 && last.n > 0; rows--, last.n--, last.row++, last.sum += PANEL)
            done(last.first, last.count, last.row, last.sum);
    };
    for (long g = first; g < whole; g += group) {
        const long stop = g + group < whole ? g + group : whole, wide = whole - stop < group ? whole - stop : group;
        const long steps = LAYERS * ((n + FEW - 1) / FEW) * ((stop - g + 31) / 32) * (in / 32);
        Ahead ahead[2];
        for (long l = 0; l < LAYERS; l++) ahead[l] = columns_ahead(layers[l], stop, wide, steps);
        if (stop == whole) ahead[0] = group_ahead(next.first, n, steps), ahead[1] = group_ahead(next.second, n, steps);
        for (long row = 0; row < n; row += FEW)
            for (long j = g; j < stop; j += PANEL, is_second = !is_second) {
                const long m = n - row < FEW ? n - row : FEW, width = stop - j < PANEL ? stop - j : PANEL;
                const long each = (last.n + LAYERS * (width / 32) * (in / 32) - 1) / (LAYERS * (width / 32) * (in / 32));
                float* mine = sums + is_second * LAYERS * SUMS;
                for (long l = 0; l < LAYERS; l++)
                    product(mine + l * SUMS, PANEL, x + row * in, in, layers[l]->weight + j * in, in * 16, whole_steps(m), width,
                            in, false, [&] {
                                ahead[0].ask();
                                ahead[1].ask();
                                hand_on(each);
                            });
                hand_on(last.n);
                last = {mine, j, real - j < PANEL ? real - j : PANEL, row, m};
            }
    }
    hand_on(last.n);
}

// work(count), compiled once more for whole panels, which nearly all are.
template <class F>
static inline void columns_of(long count, F work) {
    if (count == PANEL)
        work(PANEL);
    else
        work(count);
}

// sum + bias -> bf16, of `count` columns of a row from column `first` on.
static inline void narrow_sums(const Linear& layer, long first, const float* sum, bf16* to, long count) {
    if (!layer.bias) return columns_of(count, [&](long n) { narrow_all(to, sum, n); });
    float moved[PANEL];
#pragma omp simd
    for (long j = 0; j < count; j++) moved[j] = sum[j] + widen(layer.bias[first + j]);
    narrow_all(to, moved, count);
}

// gelu of one row of sums plus bias, after these were rounded, which is also what is kept.
static inline void gelu_row(const Linear& layer, Activation kind, long first, const float* sum, bf16* out, bf16* kept,
                            long count) {
    float value[PANEL], rounded[PANEL];
    narrow_sums(layer, first, sum, kept, count);
#pragma omp simd
    for (long j = 0; j < count; j++) rounded[j] = widen(kept[j]);
    gelu_all(kind, rounded, value, count);
    narrow_all(out, value, count);
}

// silu(gate) * up of one row of sums, after both were rounded, which also is what is kept. Sums beyond the last are read.
static inline void gate_row(const float* gate, const float* up, bf16* out, bf16* kept_gate, bf16* kept_up, long count) {
    columns_of(count, [&](long n) {
        for (long j = 0; j < n; j += 16) {
            const Halves g = narrow_16(*(const Floats*)(gate + j)), u = narrow_16(*(const Floats*)(up + j));
            const Floats opened = widen_16(g);
            store_16(kept_gate + j, g, n - j);
            store_16(kept_up + j, u, n - j);
            store_16(out + j, narrow_16(opened * sigmoid(opened) * widen_16(u)), n - j);
        }
    });
}
