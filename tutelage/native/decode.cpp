// One token of each running sequence through a whole decoder: the step that a rollout repeats. Equals plain.py:
//
//   decode_step    embedding, the layers (norm, projections, rotation, attention over what a slot holds, gated MLP),
//                  last norm and output layer -> logits, and, if asked, one token a row drawn from them
//   rotated_keys   the keys of a prompt, normed and rotated as attention_forward does by itself
//
// The same roundings to bf16 in the same places as in a training pass. A row is computed by itself, to the bit, so a
// sample does not depend on what runs beside it; threads share the rows out.
#include <cmath>

#include "linear.h"
#include "rotate.h"

static const long MOST_ROWS = 64;  // that a thread decodes together: what is at work stays in its cache

struct Layer {
    Linear qkv, attended, gate, up, down;
    const float *norm_attention, *norm_mlp, *q_norm, *k_norm;  // the last two may be null
    bf16 *keys, *values;  // [slots, groups, capacity, head width padded with zeros to a multiple of 32]
};

struct Decoder {
    const float *embedding, *last_norm;
    Linear head;
    long layers, width, heads, groups, head_width, inner, vocabulary;
    long capacity;  // positions a slot can hold, a multiple of 16
    float eps, head_eps, scale;
    const float *cos, *sin;  // [positions, head width]
};

// h = norm(x) in bf16, rows of `step` numbers.
static void norm_rows(const float* x, const float* weight, float eps, bf16* h, long n, long d, long step) {
    for (long i = 0; i < n; i++) {
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (long j = 0; j < d; j++) square += x[i * d + j] * x[i * d + j];
        const float scale = 1.0f / std::sqrt(square / float(d) + eps);
#pragma omp simd
        for (long j = 0; j < d; j++) h[i * step + j] = narrow(weight[j] * (x[i * d + j] * scale));
    }
}

// x += W h, rounded to bf16 before it is added, as a layer's output is.
static void add(const Linear& layer, const bf16* h, float* x, long n, long rows, float* sums) {
    for (long first = 0; first < layer.out; first += PANEL) {
        const long count = panel(layer, first, h, rows, sums);
        for (long i = 0; i < n; i++)
#pragma omp simd
            for (long j = 0; j < count; j++) x[i * layer.out + first + j] += widen(narrow(sums[i * PANEL + j]));
    }
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

// sums[width] = weight[n] times the values of n positions. Even and odd columns are summed apart: a word holds two.
static inline void weigh(const float* weight, const bf16* values, long n, long width, float* sums, const bf16* next) {
    for (long c = 0; c < width; c += 32) {
        Floats even = {}, odd = {};
        for (long t = 0; t < n; t++) {
            fetch(next + t * width + c);
            const Lanes two = *(const Lanes*)(values + t * width + c);
            even += weight[t] * (Floats)(two << 16);
            odd += weight[t] * (Floats)(two & 0xffff0000u);
        }
        for (int l = 0; l < 16; l++) sums[c + 2 * l] = even[l], sums[c + 2 * l + 1] = odd[l];
    }
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
    }
    weigh(score, values, n, width, sums, next_values);
    const float part = 1.0f / total;
#pragma omp simd
    for (long j = 0; j < width; j++) out[j] = narrow(sums[j] * part);
}

// Writes the new keys and values of a row into its slot and attends over all that the slot then holds.
static void attend_row(const Decoder& m, const Layer& layer, const bf16* qkv, bf16* out, long slot, long position,
                       const Room& room) {
    const long k = m.head_width, w = padded(k), shared = m.heads / m.groups;
    const float *cos = m.cos + position * k, *sin = m.sin + position * k;
    for (long g = 0; g < m.groups; g++) {
        const long start = (slot * m.groups + g) * m.capacity * w;
        rotate(layer.keys + start + position * w, qkv + (m.heads + g) * k, layer.k_norm, m.head_eps, cos, sin, k, room.sums);
        std::memcpy(layer.values + start + position * w, qkv + (m.heads + m.groups + g) * k, k * sizeof(bf16));
        for (long h = g * shared; h < (g + 1) * shared; h++) {
            rotate(room.query, qkv + h * k, layer.q_norm, m.head_eps, cos, sin, k, room.sums);
            const long ahead = h + 1 < (g + 1) * shared ? start : start + m.capacity * w;
            attend(room.query, layer.keys + start, layer.values + start, room.attended, position + 1, w, m.scale, room.score,
                   room.sums, layer.keys + ahead, layer.values + ahead);
            std::memcpy(out + h * k, room.attended, k * sizeof(bf16));
        }
    }
}

// The gated MLP of one layer, added to x.
static void mlp(const Decoder& m, const Layer& layer, const bf16* h, float* x, bf16* inner, long n, long rows, float* gates,
                float* ups) {
    const long step = padded(m.inner);
    for (long first = 0; first < m.inner; first += PANEL) {
        const long count = panel(layer.gate, first, h, rows, gates);
        panel(layer.up, first, h, rows, ups);
        for (long i = 0; i < n; i++) {
            bf16 gate[PANEL], up[PANEL];
            gate_row(gates + i * PANEL, ups + i * PANEL, inner + i * step + first, gate, up, count);
        }
    }
    add(layer.down, inner, x, n, rows, gates);
}

// Rows `first` to `first + n`, all layers; logits of row i are written to logits + i * vocabulary.
static void decode_rows(const Decoder& m, const Layer* layers, const int64_t* token, const int64_t* position, long first,
                        long n, bf16* logits) {
    const long d = m.width, rows = whole_steps(n), in = padded(d), o = m.heads * m.head_width;
    const long c = (m.heads + 2 * m.groups) * m.head_width, step = padded(m.inner);
    scratch.reset(rows * (d * 4 + (in + padded(o) + c + step) * 2 + 2 * PANEL * 4) + m.capacity * 4 + padded(m.head_width) * 8 +
                  2048);
    float *x = scratch.take<float>(rows * d), *sums = scratch.take<float>(rows * PANEL);
    float* ups = scratch.take<float>(rows * PANEL);
    bf16 *h = scratch.take<bf16>(rows * in), *attended = scratch.take<bf16>(rows * padded(o));
    bf16 *qkv = scratch.take<bf16>(rows * c), *inner = scratch.take<bf16>(rows * step);
    const Room room = {scratch.take<bf16>(padded(m.head_width)), scratch.take<bf16>(padded(m.head_width)),
                       scratch.take<float>(m.capacity), scratch.take<float>(padded(m.head_width))};
    std::memset(room.query, 0, padded(m.head_width) * sizeof(bf16));
    std::memset(h, 0, rows * in * sizeof(bf16));
    std::memset(attended, 0, rows * padded(o) * sizeof(bf16));
    std::memset(inner, 0, rows * step * sizeof(bf16));
    for (long i = 0; i < n; i++) std::memcpy(x + i * d, m.embedding + token[first + i] * d, d * 4);
    for (const Layer* layer = layers; layer < layers + m.layers; layer++) {
        norm_rows(x, layer->norm_attention, m.eps, h, n, d, in);
        apply(layer->qkv, h, qkv, c, n, rows, sums);
        for (long i = 0; i < n; i++)
            attend_row(m, *layer, qkv + i * c, attended + i * padded(o), first + i, position[first + i], room);
        add(layer->attended, attended, x, n, rows, sums);
        norm_rows(x, layer->norm_mlp, m.eps, h, n, d, in);
        mlp(m, *layer, h, x, inner, n, rows, sums, ups);
    }
    norm_rows(x, m.last_norm, m.eps, h, n, d, in);
    apply(m.head, h, logits + first * m.vocabulary, m.vocabulary, n, rows, sums);
}

// One token of softmax(logits * inverse_temperature): the first whose cumulative probability passes u, over the
// vocabulary in its own order. Probabilities are summed in float64 by blocks.
static void draw_row(const bf16* logits, float inverse_temperature, double u, long v, float* weight, double* before,
                     int64_t* token, float* logp) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (long j = 0; j < v; j++) top = widen(logits[j]) > top ? widen(logits[j]) : top;
    double total = 0;
    for (long j = 0; j < v; j += 64) {
        const long end = j + 64 < v ? j + 64 : v;
        before[j / 64] = total;
#pragma omp simd
        for (long l = j; l < end; l++) weight[l] = fast_exp((widen(logits[l]) - top) * inverse_temperature);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (long l = j; l < end; l++) sum += double(weight[l]);
        total += sum;
    }
    const double target = u * total;
    long block = (v - 1) / 64;
    while (block > 0 && before[block] > target) block--;
    double sum = before[block];
    long chosen = -1, last = 0;
    for (long l = block * 64; l < v && chosen < 0; l++) {
        sum += double(weight[l]);
        if (weight[l] > 0) last = l;
        if (sum > target && weight[l] > 0) chosen = l;
    }
    *token = chosen < 0 ? last : chosen;
    *logp = float((widen(logits[*token]) - top) * inverse_temperature - std::log(total));
}

extern "C" {

// token[n], position[n] of the first n slots. logits[n, vocabulary] bf16. With uniform[n] (else null): drawn[n] and its
// logp[n] at 1 / inverse_temperature.
void decode_step(const Decoder* m, const Layer* layers, const int64_t* token, const int64_t* position, long n,
                 bf16* logits, const double* uniform, float inverse_temperature, int64_t* drawn, float* logp,
                 int n_threads) {
    const long even = (n + n_threads - 1) / n_threads, rows = even < MOST_ROWS ? even : MOST_ROWS;
    share((n + rows - 1) / rows, n_threads, [&](long part) {
        const long first = part * rows, end = first + rows < n ? first + rows : n;
        decode_rows(*m, layers, token, position, first, end - first, logits);
        if (!uniform) return;
        scratch.reset(m->vocabulary * 4 + (m->vocabulary / 64 + 1) * 8 + 256);
        float* weight = scratch.take<float>(m->vocabulary);
        double* before = scratch.take<double>(m->vocabulary / 64 + 1);
        for (long i = first; i < end; i++)
            draw_row(logits + i * m->vocabulary, inverse_temperature, uniform[i], m->vocabulary, weight, before, drawn + i,
                     logp + i);
    });
}

// qkv[n, heads + 2 groups, width] -> keys[groups, n, width padded to a multiple of 32], zero before; position[n].
void rotated_keys(const bf16* qkv, const int64_t* position, const float* cos, const float* sin, const float* k_norm,
                  float eps, bf16* keys, long n, long heads, long groups, long width) {
    float* plain = new float[width];
    for (long i = 0; i < n; i++)
        for (long g = 0; g < groups; g++)
            rotate(keys + (g * n + i) * padded(width), qkv + (i * (heads + 2 * groups) + heads + g) * width, k_norm, eps,
                   cos + position[i] * width, sin + position[i] * width, width, plain);
    delete[] plain;
}
}
