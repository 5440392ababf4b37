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

static const long PANEL = 32;  // columns computed together; their sums have this many numbers a row

// Asks for what the next panel reads or writes of a row: the processor does not foresee it, since panels run down, not along,
// the rows. Into the second cache: the nearest one is full of what is multiplied.
static inline void fetch_panel(const bf16* x) { __builtin_prefetch(x + PANEL, 0, 2); }

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

// So many numbers from here on, to be asked for in so many steps.
static inline Ahead in_steps(const bf16* x, long numbers, long steps) { return {x, (numbers / 32 + steps - 1) / steps}; }

// Some rows of a panel and their sums, PANEL apart.
struct Sums {
    const float* sum = nullptr;
    long first = 0, count = 0;  // columns
    long row = 0, n = 0;        // rows
};

static const long FEW = 32;            // rows that are multiplied together: they stay in the nearest cache
static const long SUMS = FEW * PANEL;  // numbers from the sums of one layer to those of the next
static const long GROUP = 80 << 10;    // numbers of a weight that all rows at hand are multiplied by before the next ones
static const long LEAST = 64;          // columns of a group: what is asked for must be far enough ahead

// Room for the sums of `layers` layers: some are handed on while others are made.
static inline long sums_bytes(long layers) { return 2 * layers * SUMS * 4 + 64; }

// Columns of a layer with `in` inputs that are a group for n rows: few where all rows stay near anyway.
static inline long group_of(long in, long n) {
    return n > FEW && GROUP / in > LEAST ? GROUP / in / PANEL * PANEL : LEAST;
}

// The layers that are multiplied by next, whose first columns are asked for beside the last ones of those at hand; null: none.
// is_again: those at hand once more, by other rows, so they are near, and rows are asked for instead of any columns.
struct Next {
    const Linear *first = nullptr, *second = nullptr;
    bool is_again = false;
};

// Up to `most` columns of a layer's weights from column `from` on.
static inline Ahead columns_ahead(const Linear* layer, long from, long most, long steps) {
    if (most <= 0) return {};
    const long in = padded(layer->in);
    return in_steps(layer->weight + from * in, most * in, steps);
}

// The first group of a layer for n rows.
static inline Ahead group_ahead(const Linear* layer, long n, long steps) {
    if (!layer || !layer->weight) return {};
    const long group = group_of(padded(layer->in), n), out = padded(layer->out);
    return columns_ahead(layer, 0, group < out ? group : out, steps);
}

// done(some rows of a panel) until it has had all of x W^T from column `first` to `end`, for the n rows of x and one or more
// layers alike, whose sums lie SUMS apart. A few rows at a time, which stay in the nearest cache, meet a group of columns,
// which stays in the next one. Handing on one panel goes on beside the products of the next one.
template <long LAYERS, class F>
static inline void each_panel(const Linear* const (&layers)[LAYERS], long first, long end, const bf16* x, long n, float* sums,
                              const Next& next, F done) {
    const long in = padded(layers[0]->in), whole = padded(end), group = group_of(in, n), steps = in / 32;
    const long real = end < layers[0]->out ? end : layers[0]->out;
    Sums last;
    float *mine = sums, *others = sums + LAYERS * SUMS;
    const auto hand_on = [&](long most) {
        if (!last.n) return;
        const long rows = last.n < most ? last.n : most;
        done(Sums{last.sum, last.first, last.count, last.row, rows});
        last.sum += rows * PANEL, last.row += rows, last.n -= rows;
    };
    for (long g = first; g < whole; g += group) {
        const long stop = g + group < whole ? g + group : whole, wide = whole - stop < group ? whole - stop : group;
        // Steps of this group: for a few rows, for all rows.
        const long strip = LAYERS * ((stop - g) / PANEL) * steps, all = (n + FEW - 1) / FEW * strip;
        Ahead ahead[2];  // of two layers, some of both at each step: one after the other arrives later
        for (long l = 0; !next.is_again && l < LAYERS; l++) ahead[l] = columns_ahead(layers[l], stop, wide, all);
        if (!next.is_again && stop == whole)
            ahead[0] = group_ahead(next.first, n, all), ahead[1] = group_ahead(next.second, n, all);
        for (long row = 0; row < n; row += FEW) {
            const long m = n - row < FEW ? n - row : FEW, after = n - row - m < FEW ? n - row - m : FEW;
            if (next.is_again) ahead[0] = in_steps(x + (row + m) * in, g == first ? after * in : 0, strip);
            for (long j = g; j < stop; j += PANEL) {
                const long each = (last.n + LAYERS * steps - 1) / (LAYERS * steps);
                for (long l = 0; l < LAYERS; l++)
                    product(mine + l * SUMS, PANEL, x + row * in, in, layers[l]->weight + j * in, in * 16, whole_steps(m), PANEL,
                            in, false, [&] {
                                ahead[0].ask();
                                ahead[1].ask();
                                hand_on(each);
                            });
                hand_on(last.n);
                last = {mine, j, real - j < PANEL ? real - j : PANEL, row, m};
                float* const made = mine;
                mine = others, others = made;
            }
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

// sum + bias of one row -> bf16. Sums beyond the last are read.
static inline void narrow_row(const Linear& layer, long first, const float* sum, bf16* to, long count) {
    for (long j = 0; j < count; j += 16) {
        Floats moved = *(const Floats*)(sum + j);
        if (layer.bias) moved += widen_16(load_16(layer.bias + first + j, count - j));
        store_16(to + j, narrow_16(moved), count - j);
    }
}

// sums + bias -> bf16. to: where the first one belongs, with `step` numbers between two rows.
static inline void narrow_sums(const Linear& layer, const Sums& s, bf16* to, long step) {
    columns_of(s.count, [&](long count) {
        for (long i = 0; i < s.n; i++, to += step) {
            fetch_panel(to);
            narrow_row(layer, s.first, s.sum + i * PANEL, to, count);
        }
    });
}

// gelu of one row of sums plus bias, after these were rounded, which is also what is kept.
static inline void gelu_row(const Linear& layer, Activation kind, long first, const float* sum, bf16* out, bf16* kept,
                            long count) {
    float value[PANEL], rounded[PANEL];
    narrow_row(layer, first, sum, kept, count);
#pragma omp simd
    for (long j = 0; j < count; j++) rounded[j] = widen(kept[j]);
    gelu_all(kind, rounded, value, count);
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
