// One token of each running sequence through a whole decoder: the step that a rollout repeats. Equals plain.py:
//
//   decode_step    embedding, the layers (norm, projections, rotation, attention over what a slot holds, gated MLP),
//                  last norm and output layer -> logits, and, if asked, one token a row drawn from them
//   fill_slots     keys of prompts, normed and rotated as attention_forward does by itself, and values, put into slots
//
// The same roundings to bf16 in the same places as in a training pass. A row is computed by itself, to the bit, so a
// sample does not depend on what runs beside it.
//
// Many rows are shared out among the threads, which then need not meet until the end. Where each would get too few to make
// reading the weights worth while, the columns of every layer are shared out instead, so that each weight is read once.
#include <cmath>

#include "draw.h"
#include "linear.h"
#include "norm.h"
#include "rotate.h"

static const long MOST_ROWS = 64;   // that a thread decodes together: what is at work stays in its cache
static const long FEW_ROWS = 8;     // of a thread, below which it waits for weights more than it multiplies
static const long PARTS = 4;        // of a piece of work for each thread: one that a neighbour holds up does fewer
static const long NEAR = 1 << 21;  // weights of a model that stays in a thread's own cache
static const long SMALL = 1 << 14;  // numbers to read or write, below which other threads would come too late to help

struct Layer {
    Linear qkv, attended, gate, up, down;                      // without gates where the activation is not of a gate
    const float *norm_attention, *norm_mlp, *q_norm, *k_norm;  // the last two may be null
    const float *bias_attention, *bias_mlp;                    // of the norms; null: they take no mean off
    bf16 *keys, *values;  // [slots, groups, capacity, head width padded with zeros to a multiple of 32]
};

struct Decoder {
    const float *embedding, *place, *last_norm, *last_bias;  // place: what is added at each position; null: nothing
    Linear head;
    long layers, width, heads, groups, head_width, inner, vocabulary;
    long capacity;  // positions a slot can hold, a multiple of 16
    float eps, head_eps, scale;
    const float *cos, *sin;  // [positions, head width]
    long activation;         // of the MLP
    long is_parallel;        // 1: attention and MLP read the same stream; 0: the MLP reads what attention added to
};

// The rows that are decoded together: slots `slot` to `slot + n`.
struct Rows {
    long slot, n;
    float* x;                                // [n, width]
    bf16 *h, *qkv, *attended, *gated;        // [whole, padded width of each]
    const int64_t* position;
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

// done(first column, how many, first row, rows, sums) for each panel of x W^T, columns shared out; sums: PANEL a row.
template <class F>
static void share_columns(const Linear& layer, const bf16* x, const Rows& rows, int n_threads, F done) {
    share_range(layer.out, 32, layer.out * layer.in, n_threads, [&](long first, long end) {
        scratch.reset(MOST_ROWS * PANEL * 4 + 64);
        float* sums = scratch.take<float>(MOST_ROWS * PANEL);
        for (long row = 0; row < rows.n; row += MOST_ROWS) {
            const long n = rows.n - row < MOST_ROWS ? rows.n - row : MOST_ROWS;
            for (long j = first; j < end; j += PANEL) {
                const long count = panel(layer, j, end, x + row * padded(layer.in), whole_steps(n), sums);
                done(j, count, row, n, sums);
            }
        }
    });
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
static void apply_shared(const Linear& layer, const bf16* x, bf16* out, long step, const Rows& rows, int n_threads) {
    share_columns(layer, x, rows, n_threads, [&](long j, long count, long row, long n, float* sums) {
        for (long i = 0; i < n; i++) {
            fetch_panel_to_write(out + (row + i) * step + j);
            narrow_sums(layer, j, sums + i * PANEL, out + (row + i) * step + j, count);
        }
    });
}

// logits[n, vocabulary].
static void read_out(const Decoder& m, const Rows& rows, float* logits, int n_threads) {
    share_columns(m.head, rows.h, rows, n_threads, [&](long j, long count, long row, long n, float* sums) {
        for (long i = 0; i < n; i++) std::memcpy(logits + (row + i) * m.vocabulary + j, sums + i * PANEL, count * 4);
    });
}

// x += W h + bias, rounded to bf16 before it is added, as a layer's output is.
static void add_shared(const Linear& layer, const bf16* h, const Rows& rows, int n_threads) {
    share_columns(layer, h, rows, n_threads, [&](long j, long count, long row, long n, float* sums) {
        for (long i = 0; i < n; i++) {
            float* to = rows.x + (row + i) * layer.out + j;
            bf16 added[PANEL];
            narrow_sums(layer, j, sums + i * PANEL, added, count);
#pragma omp simd
            for (long l = 0; l < count; l++) to[l] += widen(added[l]);
        }
    });
}

// What attention of one row needs besides.
struct Room {
    bf16 *query, *attended;  // one head, padded with zeros
    float *score, *sums;     // of each position; of each column
};

// Asks for a line that is read a head later: memory, not arithmetic, is what takes the time, and the nearer cache has room
// for fewer requests than the one behind it.
static inline void fetch(const bf16* x) { __builtin_prefetch(x, 0, 2); }

// Scores of 16 positions: the products of the pairs, and then their sums, turned so that a position has a lane.
static inline Floats score_16(const Lanes* query, const bf16* keys, long width, const bf16* next) {
    Floats part[16];
    for (int t = 0; t < 16; t++) {
        part[t] = Floats{};
        for (long c = 0; c < width / 32; c++) {
            fetch(next + t * width + c * 32);
            part[t] = add_pairs(part[t], query[c], ((const Lanes*)(keys + t * width))[c]);
        }
    }
    transpose_square((Lanes*)part);
    for (int step = 8; step; step /= 2)
        for (int t = 0; t < step; t++) part[t] += part[t + step];
    return part[0];
}

// sums[32 * BLOCKS] = weight[n] times so many columns of the values of n positions. Even and odd columns are summed apart: a
// word holds two.
template <int BLOCKS>
static inline void weigh_blocks(const float* weight, const bf16* values, long n, long width, float* sums, const bf16* next) {
    Floats even[BLOCKS] = {}, odd[BLOCKS] = {};
    for (long t = 0; t < n; t++)
        for (int b = 0; b < BLOCKS; b++) {
            fetch(next + t * width + b * 32);
            const Lanes two = *(const Lanes*)(values + t * width + b * 32);
            even[b] += weight[t] * (Floats)(two << 16);
            odd[b] += weight[t] * (Floats)(two & 0xffff0000u);
        }
    for (int b = 0; b < BLOCKS; b++)
        for (int l = 0; l < 16; l++) sums[b * 32 + 2 * l] = even[b][l], sums[b * 32 + 2 * l + 1] = odd[b][l];
}

static inline void weigh(const float* weight, const bf16* values, long n, long width, float* sums, const bf16* next) {
    long c = 0;
    for (; c + 64 <= width; c += 64) weigh_blocks<2>(weight, values + c, n, width, sums + c, next + c);
    if (c < width) weigh_blocks<1>(weight, values + c, n, width, sums + c, next + c);
}

// softmax(q k^T) v of one query head over the first n positions of its slot. width and the room of a slot are padded, so
// that whole blocks can be read.
static void attend(const bf16* query, const bf16* keys, const bf16* values, bf16* out, long n, long width, float scale,
                   float* score, float* sums, const bf16* next_keys, const bf16* next_values) {
    float top = -INFINITY, total = 0;
    for (long t = 0; t < n; t += 16)
        *(Floats*)(score + t) = score_16((const Lanes*)query, keys + t * width, width, next_keys + t * width);
#pragma omp simd reduction(max : top)
    for (long t = 0; t < n; t++) top = score[t] > top ? score[t] : top;
#pragma omp simd reduction(+ : total)
    for (long t = 0; t < n; t++) {
        score[t] = fast_exp((score[t] - top) * scale);
        total += score[t];
        score[t] = widen(narrow(score[t]));  // as attention_forward does, so that sampling and training agree
    }
    weigh(score, values, n, width, sums, next_values);
    narrow_all(out, sums, width, 1.0f / total);
}

// Writes a row's new key and value of one group into its slot and attends over all that the slot then holds.
static void attend_group(const Decoder& m, const Layer& layer, const bf16* qkv, bf16* out, long slot, long g, long position,
                         const Room& room) {
    const long k = m.head_width, w = padded(k), shared = m.heads / m.groups;
    const float *cos = m.cos + position * k, *sin = m.sin + position * k;
    const long start = (slot * m.groups + g) * m.capacity * w;
    rotate(layer.keys + start + position * w, qkv + (m.heads + g) * k, layer.k_norm, m.head_eps, cos, sin, k);
    std::memcpy(layer.values + start + position * w, qkv + (m.heads + m.groups + g) * k, k * sizeof(bf16));
    for (long h = g * shared; h < (g + 1) * shared; h++) {
        rotate(room.query, qkv + h * k, layer.q_norm, m.head_eps, cos, sin, k);
        const long ahead = h + 1 < (g + 1) * shared ? start : start + m.capacity * w;
        attend(room.query, layer.keys + start, layer.values + start, room.attended, position + 1, w, m.scale, room.score,
               room.sums, layer.keys + ahead, layer.values + ahead);
        std::memcpy(out + h * k, room.attended, k * sizeof(bf16));
    }
}

static void attention(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads) {
    const long c = (m.heads + 2 * m.groups) * m.head_width, o = padded(m.heads * m.head_width), w = padded(m.head_width);
    share_range(rows.n * m.groups, 1, rows.n * c * 16, n_threads, [&](long first, long end) {
        scratch.reset(m.capacity * 4 + w * 8 + 512);
        const Room room = {scratch.take<bf16>(w), scratch.take<bf16>(w), scratch.take<float>(m.capacity),
                           scratch.take<float>(w)};
        std::memset(room.query, 0, w * sizeof(bf16));
        for (long unit = first; unit < end; unit++) {
            const long i = unit / m.groups, g = unit % m.groups;
            attend_group(m, layer, rows.qkv + i * c, rows.attended + i * o, rows.slot + i, g, rows.position[i], room);
        }
    });
}

// gated = gelu(up) of h.
static void activate(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads) {
    const long step = padded(m.inner);
    share_columns(layer.up, rows.h, rows, n_threads, [&](long j, long count, long row, long n, float* sums) {
        bf16 unkept[PANEL];
        for (long i = 0; i < n; i++)
            gelu_row(layer.up, Activation(m.activation), j, sums + i * PANEL, rows.gated + (row + i) * step + j, unkept, count);
    });
}

// gated = silu(gate) * up of h.
static void gate(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads) {
    const long in = padded(m.width), step = padded(m.inner);
    share_range(m.inner, 32, 2 * m.inner * m.width, n_threads, [&](long first, long end) {
        scratch.reset(2 * MOST_ROWS * PANEL * 4 + 128);
        float *gates = scratch.take<float>(MOST_ROWS * PANEL), *ups = scratch.take<float>(MOST_ROWS * PANEL);
        for (long row = 0; row < rows.n; row += MOST_ROWS) {
            const long n = rows.n - row < MOST_ROWS ? rows.n - row : MOST_ROWS;
            for (long j = first; j < end; j += PANEL) {
                const long count = panel(layer.gate, j, end, rows.h + row * in, whole_steps(n), gates);
                panel(layer.up, j, end, rows.h + row * in, whole_steps(n), ups);
                for (long i = 0; i < n; i++) {
                    bf16 unkept[2 * PANEL];
                    gate_row(gates + i * PANEL, ups + i * PANEL, rows.gated + (row + i) * step + j, unkept, unkept + PANEL,
                             count);
                }
            }
        }
    });
}

// gated = what the MLP makes of norm(x) before its last layer.
static void open_mlp(const Decoder& m, const Layer& layer, const Rows& rows, int n_threads) {
    norm(m, layer.norm_mlp, layer.bias_mlp, rows, n_threads);
    if (m.activation == SILU_OF_GATE)
        gate(m, layer, rows, n_threads);
    else
        activate(m, layer, rows, n_threads);
}

static thread_local Scratch hall;  // of a whole step; `scratch` is of a part

// All layers of the rows from `slot` on, of which there are n; logits[n, vocabulary].
static void decode_rows(const Decoder& m, const Layer* layers, const int64_t* token, const int64_t* position, long slot,
                        long n, float* logits, int n_threads) {
    const long d = m.width, whole = whole_steps(n), in = padded(d), o = padded(m.heads * m.head_width);
    const long c = (m.heads + 2 * m.groups) * m.head_width, step = padded(m.inner);
    hall.reset(whole * (d * 4 + (in + o + c + step) * 2) + 512);
    const Rows rows = {slot, n, hall.take<float>(whole * d), hall.take<bf16>(whole * in), hall.take<bf16>(whole * c),
                       hall.take<bf16>(whole * o), hall.take<bf16>(whole * step), position + slot};
    std::memset(rows.h, 0, whole * in * sizeof(bf16));
    std::memset(rows.attended, 0, whole * o * sizeof(bf16));
    std::memset(rows.gated, 0, whole * step * sizeof(bf16));
    for (long i = 0; i < n; i++) {
        std::memcpy(rows.x + i * d, m.embedding + token[slot + i] * d, d * 4);
        for (long j = 0; m.place && j < d; j++) rows.x[i * d + j] += m.place[position[slot + i] * d + j];
    }
    for (const Layer* layer = layers; layer < layers + m.layers; layer++) {
        norm(m, layer->norm_attention, layer->bias_attention, rows, n_threads);
        apply_shared(layer->qkv, rows.h, rows.qkv, c, rows, n_threads);
        attention(m, *layer, rows, n_threads);
        if (m.is_parallel) open_mlp(m, *layer, rows, n_threads);
        add_shared(layer->attended, rows.attended, rows, n_threads);
        if (!m.is_parallel) open_mlp(m, *layer, rows, n_threads);
        add_shared(layer->down, rows.gated, rows, n_threads);
    }
    norm(m, m.last_norm, m.last_bias, rows, n_threads);
    read_out(m, rows, logits, n_threads);
}

static bool is_near(const Decoder& m) {
    const long matrices = m.activation == SILU_OF_GATE ? 3 : 2;
    const long layer = m.width * (2 * m.heads + 2 * m.groups) * m.head_width + matrices * m.width * m.inner;
    return m.layers * layer + m.width * m.vocabulary < NEAR;
}

extern "C" {

// token[n], position[n] of the first n slots. logits[n, vocabulary]. With uniform[n] (else null): drawn[n] and its
// logp[n] at 1 / inverse_temperature.
void decode_step(const Decoder* m, const Layer* layers, const int64_t* token, const int64_t* position, long n,
                 float* logits, const double* uniform, float inverse_temperature, int64_t* drawn, float* logp,
                 int n_threads) {
    const auto draw = [&](long first, long end) {
        if (!uniform) return;
        for (long i = first; i < end; i++) {
            scratch.reset(draw_bytes(m->vocabulary));
            draw_row(logits + i * m->vocabulary, inverse_temperature, uniform[i], m->vocabulary, drawn + i, logp + i);
        }
    };
    if (n_threads > 1 && n < n_threads * FEW_ROWS && !is_near(*m)) {
        Tiles tiles;
        decode_rows(*m, layers, token, position, 0, n, logits, n_threads);
        share_range(n, 1, n * m->vocabulary, n_threads, draw);
        return;
    }
    const long even = (n + n_threads - 1) / n_threads, each = even < MOST_ROWS ? even : MOST_ROWS;
    share((n + each - 1) / each, n_threads, [&](long part) {
        const long first = part * each, end = first + each < n ? first + each : n;
        decode_rows(*m, layers, token, position, first, end - first, logits + first * m->vocabulary, 1);
        draw(first, end);
    });
}

// qkv[n, heads + 2 groups, width] of prompts start[b] to start[b + 1] -> their keys, normed and rotated, and their values
// in the slots slot[from[b]] to slot[from[b + 1]] of keys and values[slots, groups, capacity, width padded].
void fill_slots(const bf16* qkv, const int64_t* start, const int64_t* from, const int64_t* slot, const float* cos,
                const float* sin, const float* k_norm, float eps, bf16* keys, bf16* values, long n_prompts, long heads,
                long groups, long width, long capacity, int n_threads) {
    const long w = padded(width), c = (heads + 2 * groups) * width;
    share(n_prompts * groups, n_threads, [&](long task) {
        const long b = task / groups, g = task % groups, n = start[b + 1] - start[b];
        if (from[b] == from[b + 1]) return;
        const long first = (slot[from[b]] * groups + g) * capacity * w;
        for (long t = 0; t < n; t++) {
            const bf16* key = qkv + (start[b] + t) * c + (heads + g) * width;
            rotate(keys + first + t * w, key, k_norm, eps, cos + t * width, sin + t * width, width);
            std::memcpy(values + first + t * w, key + groups * width, width * sizeof(bf16));
        }
        for (long s = from[b] + 1; s < from[b + 1]; s++) {
            const long other = (slot[s] * groups + g) * capacity * w;
            std::memcpy(keys + other, keys + first, n * w * sizeof(bf16));
            std::memcpy(values + other, values + first, n * w * sizeof(bf16));
        }
    });
}
}
