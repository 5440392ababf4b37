// A whole decoder and its layers' steps on rows that stay near: what one token of each sequence (decode.cpp) and whole
// sequences (forward.cpp) have in common. The same roundings to bf16 in the same places as in a training pass. A row is
// computed by itself, to the bit, so a sample does not depend on what runs beside it.
#pragma once
#include "linear.h"
#include "norm.h"

static const long PARTS = 4;        // of a piece of work for each thread: one that a neighbour holds up does fewer
static const long SMALL = 1 << 14;  // numbers to read or write, below which other threads would come too late to help

struct Layer {
    Linear qkv, attended, gate, up, down;                      // without gates where the activation is not of a gate
    const float *norm_attention, *norm_mlp, *q_norm, *k_norm;  // the last two may be null
    const float *bias_attention, *bias_mlp;                    // of the norms; null: they take no mean off
};

struct Decoder {
    const Layer* layer;
    const float *embedding, *place, *last_norm, *last_bias;  // place: what is added at each position; null: nothing
    Linear head;
    long layers, width, heads, groups, head_width, inner, vocabulary;
    float eps, head_eps, scale;
    const float *cos, *sin;  // [positions, head width]
    long activation;         // of the MLP
    long is_parallel;        // 1: attention and MLP read the same stream; 0: the MLP reads what attention added to

    long columns() const { return (heads + 2 * groups) * head_width; }
};

// Where the keys and values of running sequences lie: [slots, groups, capacity, head width padded with zeros to a multiple of
// 32] of each layer. capacity: a multiple of 16.
struct Slots {
    bf16 *const *keys, *const *values;
    long capacity;
    long start(long slot, long group, const Decoder& m) const {
        return (slot * m.groups + group) * capacity * padded(m.head_width);
    }
};

// Rows at work; `whole`: n up to a multiple of what `product` takes at once.
struct Rows {
    long n;
    float* x;                          // [n, width]
    bf16 *h, *qkv, *attended, *gated;  // [whole, padded width of each], but qkv [n, columns]
};

// work(first, end) over parts of `count` units, each a multiple of `least` but the last; numbers: read or written by all.
// The caller has set up the tile registers.
template <class F>
static void share_range(long count, long least, long numbers, int n_threads, F work) {
    if (n_threads == 1 || numbers < SMALL) return work(0, count);
    const long wanted = n_threads * PARTS, each = ((count + wanted - 1) / wanted + least - 1) / least * least;
    share((count + each - 1) / each, n_threads, [&](long part) {
        work(part * each, (part + 1) * each < count ? (part + 1) * each : count);
    });
}

// each_panel of all columns of x W^T for some layers alike, columns shared out. Who shares cannot know which columns it
// takes next.
template <long LAYERS, class F>
static void share_columns(const Linear* const (&layers)[LAYERS], const bf16* x, long n, int n_threads, const Next& next,
                          F done) {
    share_range(layers[0]->out, 32, LAYERS * layers[0]->out * layers[0]->in, n_threads, [&](long first, long end) {
        scratch.reset(sums_bytes(LAYERS));
        each_panel(layers, first, end, x, n, scratch.take<float>(2 * LAYERS * SUMS), n_threads == 1 ? next : Next{}, done);
    });
}

// x = the embeddings of these tokens.
static void embed(const Decoder& m, const int64_t* token, const int64_t* position, const Rows& rows) {
    const long d = m.width;
    for (long i = 0; i < rows.n; i++) {
        std::memcpy(rows.x + i * d, m.embedding + token[i] * d, d * 4);
        for (long j = 0; m.place && j < d; j++) rows.x[i * d + j] += m.place[position[i] * d + j];
    }
}

// h = norm(x).
static void norm(const Decoder& m, const float* weight, const float* bias, const Rows& rows, int n_threads) {
    const Norm norm = {weight, bias, m.eps};
    share_range(rows.n, 1, rows.n * m.width, n_threads, [&](long first, long end) {
        float inverse, mean;
        for (long i = first; i < end; i++)
            norm_row(rows.x + i * m.width, nullptr, norm, nullptr, rows.h + i * padded(m.width), nullptr, &inverse, &mean,
                     m.width);
    });
}

// out[n, step] = x W^T + bias in bf16.
static void apply_shared(const Linear& layer, const bf16* x, bf16* out, long step, const Rows& rows, int n_threads,
                         const Next& next) {
    share_columns({&layer}, x, rows.n, n_threads, next,
                  [&](const Sums& s) { narrow_sums(layer, s, out + s.row * step + s.first, step); });
}

// x += W h + bias, rounded to bf16 before it is added, as a layer's output is.
static void add_shared(const Linear& layer, const bf16* h, const Rows& rows, int n_threads, const Next& next) {
    share_columns({&layer}, h, rows.n, n_threads, next, [&](const Sums& s) {
        float* to = rows.x + s.row * layer.out + s.first;
        columns_of(s.count, [&](long count) {
            for (long i = 0; i < s.n; i++, to += layer.out) {
                bf16 added[PANEL];
                narrow_row(layer, s.first, s.sum + i * PANEL, added, count);
#pragma omp simd
                for (long l = 0; l < count; l++) to[l] += widen(added[l]);
            }
        });
    });
}

// gated = gelu(up) of h.
static void activate(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads, const Next& next) {
    const long step = padded(m.inner);
    share_columns({&layer.up}, rows.h, rows.n, n_threads, next, [&](const Sums& s) {
        bf16 unkept[PANEL], *to = rows.gated + s.row * step + s.first;
        for (long i = 0; i < s.n; i++)
            gelu_row(layer.up, Activation(m.activation), s.first, s.sum + i * PANEL, to + i * step, unkept, s.count);
    });
}

// gated = silu(gate) * up of h.
static void gate(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads, const Next& next) {
    const long step = padded(m.inner);
    share_columns({&layer.gate, &layer.up}, rows.h, rows.n, n_threads, next, [&](const Sums& s) {
        bf16 unkept[2 * PANEL], *to = rows.gated + s.row * step + s.first;
        columns_of(s.count, [&](long count) {
            for (long i = 0; i < s.n; i++)
                gate_row(s.sum + i * PANEL, s.sum + SUMS + i * PANEL, to + i * step, unkept, unkept + PANEL, count);
        });
    });
}

static bool is_gated(const Decoder& m) { return m.activation == SILU_OF_GATE; }

// The layers that the MLP begins with.
static Next mlp(const Decoder& m, const Layer& layer) {
    return is_gated(m) ? Next{&layer.gate, &layer.up} : Next{&layer.up};
}

// gated = what the MLP makes of norm(x) before its last layer.
static void open_mlp(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads, const Next& next) {
    norm(m, layer.norm_mlp, layer.bias_mlp, rows, n_threads);
    if (is_gated(m))
        gate(m, layer, rows, n_threads, next);
    else
        activate(m, layer, rows, n_threads, next);
}

// What attention of layer l reads: qkv of norm(x).
static void open_layer(const Decoder& m, long l, const Rows& rows, int n_threads) {
    const Layer& layer = m.layer[l];
    norm(m, layer.norm_attention, layer.bias_attention, rows, n_threads);
    apply_shared(layer.qkv, rows.h, rows.qkv, m.columns(), rows, n_threads, m.is_parallel ? mlp(m, layer) : Next{&layer.attended});
}

// What follows attention of layer l: x += its output, x += the MLP.
static void close_layer(const Decoder& m, long l, const Rows& rows, int n_threads) {
    const Layer& layer = m.layer[l];
    const Next after = {l + 1 < m.layers ? &m.layer[l + 1].qkv : &m.head};
    if (m.is_parallel) open_mlp(m, layer, rows, n_threads, {&layer.attended});
    add_shared(layer.attended, rows.attended, rows, n_threads, m.is_parallel ? Next{&layer.down} : mlp(m, layer));
    if (!m.is_parallel) open_mlp(m, layer, rows, n_threads, {&layer.down});
    add_shared(layer.down, rows.gated, rows, n_threads, after);
}
