// One token of each running sequence through a whole decoder: the step that a rollout repeats. Equals plain.py:
//
//   decode_step    embedding, the layers (norm, projections, rotation, attention over what a slot holds, MLP), last norm
//                  and output layer -> logits
//   decode_run     many such steps, each with a token drawn for every sequence, as engine/sampling.py draws; those that
//                  end free their slots
//
// Many rows are shared out among the threads, which then need not meet until the end. Where each would get too few to make
// reading the weights worth while, the columns of every layer are shared out instead, so that each weight is read once.
#include <cmath>
#include <vector>

#include "decoder.h"
#include "draw.h"
#include "rotate.h"

static const long MOST_ROWS = 64;  // that a thread decodes together: what is at work stays in its cache
static const long FEW_ROWS = 8;    // of a thread, below which it waits for weights more than it multiplies
static const long NEAR = 1 << 21;  // weights of a model that stays in a thread's own cache

// logits[n, vocabulary].
static void read_out(const Decoder& m, const Rows& rows, float* logits, int n_threads) {
    share_columns({&m.head}, rows.h, rows.n, n_threads, {}, [&](const Sums& s) {
        for (long i = 0; i < s.n; i++)
            std::memcpy(logits + (s.row + i) * m.vocabulary + s.first, s.sum + i * PANEL, s.count * 4);
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
// word holds two. Of what is read next there are n_next positions, and nothing behind them is asked for.
template <int BLOCKS>
static inline void weigh_blocks(const float* weight, const bf16* values, long n, long width, float* sums, const bf16* next,
                                long n_next) {
    Floats even[BLOCKS] = {}, odd[BLOCKS] = {};
    for (long t = 0; t < n; t++)
        for (int b = 0; b < BLOCKS; b++) {
            fetch(next + (t < n_next ? t : n_next - 1) * width + b * 32);
            const Lanes two = *(const Lanes*)(values + t * width + b * 32);
            even[b] += weight[t] * (Floats)(two << 16);
            odd[b] += weight[t] * (Floats)(two & 0xffff0000u);
        }
    for (int b = 0; b < BLOCKS; b++)
        for (int l = 0; l < 16; l++) sums[b * 32 + 2 * l] = even[b][l], sums[b * 32 + 2 * l + 1] = odd[b][l];
}

static inline void weigh(const float* weight, const bf16* values, long n, long width, float* sums, const bf16* next,
                         long n_next) {
    long c = 0;
    for (; c + 64 <= width; c += 64) weigh_blocks<2>(weight, values + c, n, width, sums + c, next + c, n_next);
    if (c < width) weigh_blocks<1>(weight, values + c, n, width, sums + c, next + c, n_next);
}

// softmax(q k^T) v of one query head over the first n positions of its slot. width and the room of a slot are padded, so
// that whole blocks can be read.
static void attend(const bf16* query, const bf16* keys, const bf16* values, bf16* out, long n, long width, float scale,
                   float* score, float* sums, const bf16* next_keys, const bf16* next_values, long n_next) {
    float top = -INFINITY, total = 0;
    for (long t = 0; t < n; t += 16)
        *(Floats*)(score + t) = score_16((const Lanes*)query, keys + t * width, width,
                                          t < n_next ? next_keys + t * width : keys + t * width);
#pragma omp simd reduction(max : top)
    for (long t = 0; t < n; t++) top = score[t] > top ? score[t] : top;
#pragma omp simd reduction(+ : total)
    for (long t = 0; t < n; t++) {
        score[t] = fast_exp((score[t] - top) * scale);
        total += score[t];
        score[t] = widen(narrow(score[t]));  // as attention_forward does, so that sampling and training agree
    }
    weigh(score, values, n, width, sums, next_values, n_next);
    narrow_all(out, sums, width, 1.0f / total);
}

// Writes a row's new key and value of one group into its slot and attends over all that the slot then holds. after: positions
// of what lies `ahead` and is attended next.
static void attend_group(const Decoder& m, const Layer& layer, const bf16* qkv, bf16* keys, bf16* values, bf16* out,
                         long ahead, long g, long position, long after, const Room& room) {
    const long k = m.head_width, w = padded(k), shared = m.heads / m.groups;
    const float *cos = m.cos + position * k, *sin = m.sin + position * k;
    rotate(keys + position * w, qkv + (m.heads + g) * k, layer.k_norm, m.head_eps, cos, sin, k);
    std::memcpy(values + position * w, qkv + (m.heads + m.groups + g) * k, k * sizeof(bf16));
    for (long h = g * shared; h < (g + 1) * shared; h++) {
        rotate(room.query, qkv + h * k, layer.q_norm, m.head_eps, cos, sin, k);
        const long next = h + 1 < (g + 1) * shared ? 0 : ahead;
        attend(room.query, keys, values, room.attended, position + 1, w, m.scale, room.score, room.sums, keys + next,
               values + next, next ? after : position + 1);
        std::memcpy(out + h * k, room.attended, k * sizeof(bf16));
    }
}

// Row i continues slot `slot` + i.
static void attention(const Decoder& m, long l, const Slots& slots, const Rows& rows, const int64_t* position, long slot,
                      int n_threads) {
    const long c = m.columns(), o = padded(m.heads * m.head_width), w = padded(m.head_width), ahead = slots.capacity * w;
    share_range(rows.n * m.groups, 1, rows.n * c * 16, n_threads, [&](long first, long end) {
        scratch.reset(slots.capacity * 4 + w * 8 + 512);
        const Room room = {scratch.take<bf16>(w), scratch.take<bf16>(w), scratch.take<float>(slots.capacity),
                           scratch.take<float>(w)};
        std::memset(room.query, 0, w * sizeof(bf16));
        for (long unit = first; unit < end; unit++) {
            const long i = unit / m.groups, g = unit % m.groups, start = slots.start(slot + i, g, m);
            attend_group(m, m.layer[l], rows.qkv + i * c, slots.keys[l] + start, slots.values[l] + start,
                         rows.attended + i * o, ahead, g, position[i],
                         g + 1 < m.groups || i + 1 == rows.n ? position[i] + 1 : position[i + 1] + 1, room);
        }
    });
}

static thread_local Scratch hall;  // of a whole step; `scratch` is of a part

// All layers of the rows from `slot` on, of which there are n; logits[n, vocabulary].
static void decode_rows(const Decoder& m, const Slots& slots, const int64_t* token, const int64_t* position, long slot,
                        long n, float* logits, int n_threads) {
    const long d = m.width, whole = whole_steps(n), in = padded(d), o = padded(m.heads * m.head_width);
    const long c = m.columns(), step = padded(m.inner);
    hall.reset(whole * (d * 4 + (in + o + c + step) * 2) + 512);
    const Rows rows = {n, hall.take<float>(whole * d), hall.take<bf16>(whole * in), hall.take<bf16>(whole * c),
                       hall.take<bf16>(whole * o), hall.take<bf16>(whole * step)};
    std::memset(rows.h, 0, whole * in * sizeof(bf16));
    std::memset(rows.attended, 0, whole * o * sizeof(bf16));
    std::memset(rows.gated, 0, whole * step * sizeof(bf16));
    embed(m, token + slot, position + slot, rows);
    for (long l = 0; l < m.layers; l++) {
        open_layer(m, l, rows, n_threads);
        attention(m, l, slots, rows, position + slot, slot, n_threads);
        close_layer(m, l, rows, n_threads);
    }
    norm(m, m.last_norm, m.last_bias, rows, n_threads);
    read_out(m, rows, logits, n_threads);
}

static bool is_near(const Decoder& m) {
    const long matrices = m.activation == SILU_OF_GATE ? 3 : 2;
    const long layer = m.width * (2 * m.heads + 2 * m.groups) * m.head_width + matrices * m.width * m.inner;
    return m.layers * layer + m.width * m.vocabulary < NEAR;
}

// All samples of a rollout: what each is drawn from, and what it has drawn; [rows], or [rows, most].
struct Draws {
    const uint64_t* seed;
    const int64_t *prompt, *limit;  // tokens of the prompt; tokens after which a sample ends
    int64_t *drawn, *token;
    float* logp;
    long most;
};

// done(first, end) of rows of which logits[n, vocabulary] stand there, by the thread that made them.
template <class F>
static void step(const Decoder& m, const Slots& slots, const int64_t* token, const int64_t* position, long n, float* logits,
                 int n_threads, F done) {
    if (n_threads > 1 && n < n_threads * FEW_ROWS && !is_near(m)) {
        Tiles tiles;
        decode_rows(m, slots, token, position, 0, n, logits, n_threads);
        share_range(n, 1, n * m.vocabulary, n_threads, done);
        return;
    }
    const long even = (n + n_threads - 1) / n_threads, each = even < MOST_ROWS ? even : MOST_ROWS;
    share((n + each - 1) / each, n_threads, [&](long part) {
        const long first = part * each, end = first + each < n ? first + each : n;
        decode_rows(m, slots, token, position, first, end - first, logits + first * m.vocabulary, 1);
        done(first, end);
    });
}

// Puts a sequence of n positions into another slot.
static void move(const Decoder& m, const Slots& slots, long from, long to, long n) {
    for (long l = 0; l < m.layers; l++)
        for (long g = 0; g < m.groups; g++)
            for (bf16* x : {slots.keys[l], slots.values[l]})
                std::memcpy(x + slots.start(to, g, m), x + slots.start(from, g, m), n * padded(m.head_width) * sizeof(bf16));
}

// Frees the slots of samples that have drawn `end` or their limit, the last one first; the last running one moves into the
// hole. Returns how many still run.
static long release(const Decoder& m, const Slots& slots, const Draws& d, int64_t* row, long n, int64_t end) {
    for (long slot = n - 1; slot >= 0; slot--) {
        const long r = row[slot], drawn = d.drawn[r];
        if (drawn < d.limit[r] && d.token[r * d.most + drawn - 1] != end) continue;
        const long last = row[--n];
        if (slot == n) continue;
        move(m, slots, n, slot, d.prompt[last] + d.drawn[last] - 1);  // those of its last token are yet to come
        row[slot] = last;
    }
    return n;
}

extern "C" {

// token[n], position[n] of the first n slots -> logits[n, vocabulary].
void decode_step(const Decoder* m, const Slots* slots, const int64_t* token, const int64_t* position, long n,
                 float* logits, int n_threads) {
    step(*m, *slots, token, position, n, logits, n_threads, [](long, long) {});
}

// Draws one token after the other at 1 / inverse_temperature for the first *n slots, of which each runs the sample row[slot],
// for `steps` steps or until no more than `few` samples run, and leaves in row and *n which do. logits: room for [*n,
// vocabulary]. Returns how many tokens were drawn.
long decode_run(const Decoder* m, const Slots* slots, const Draws* d, int64_t* row, int64_t* n, long steps, long few,
                int64_t end, float inverse_temperature, float* logits, int n_threads) {
    std::vector<int64_t> token(*n), position(*n);
    long total = 0;
    for (long i = 0; i < steps && *n > few; i++) {
        for (long slot = 0; slot < *n; slot++) {
            const long r = row[slot];
            token[slot] = d->token[r * d->most + d->drawn[r] - 1];
            position[slot] = d->prompt[r] + d->drawn[r] - 1;
        }
        step(*m, *slots, token.data(), position.data(), *n, logits, n_threads, [&](long first, long last) {
            for (long slot = first; slot < last; slot++) {
                const long r = row[slot], at = r * d->most + d->drawn[r];
                scratch.reset(draw_bytes(m->vocabulary));
                draw_row(logits + slot * m->vocabulary, inverse_temperature, uniform(d->seed[r], d->drawn[r]),
                         m->vocabulary, d->token + at, d->logp + at);
                d->drawn[r]++;
            }
        });
        total += *n;
        *n = release(*m, *slots, *d, row, *n, end);
    }
    return total;
}
}
