// Attention of one key head of one packed sequence: what every kernel that reads whole sequences has in common.
//
// qkv[n, heads + 2 groups, width] bf16: query heads, key heads, value heads of each token; heads / groups query heads
// share a key head. A sequence may be a trunk with branches behind it, which see the trunk and themselves; a plain one is
// all trunk. Scores and sums are float32; probabilities are rounded to bf16, since they are multiplied again. Blocks of 64
// queries meet only blocks of keys in which one of them sees something.
#pragma once
#include "crew.h"
#include "rotate.h"

static const long BLOCK = 64;  // of queries

struct Shape {
    long heads, groups, width;
    float scale, eps;
    const float *cos, *sin, *q_norm, *k_norm;
    long row() const { return (heads + 2 * groups) * width; }
};

// What the n tokens of one sequence see of each other. Of the first `after`, a multiple of BLOCK, keys and values are known and
// nothing else: they have no position and no branch.
struct Sight {
    const int64_t *position, *own;
    long n, trunk, after = 0;
    long branch(long i) const { return own[i < n ? i : n - 1]; }
    long shared(long i) const { return branch(i) ? trunk : 0; }
    bool sees_some(long i, long key, long count) const {
        return key < shared(i) || (key + count > branch(i) && key <= i);
    }
    bool sees_all(long i, long key, long count) const {
        return key + count <= shared(i) || (key >= branch(i) && key + count <= i + 1);
    }
};

// Asks for a head's vector that will be read AHEAD tokens later: tokens lie too far apart for the processor to foresee.
static const long AHEAD = 8;
static inline void fetch(const bf16* x) {
    __builtin_prefetch(x);
    __builtin_prefetch(x + 32);
}
static inline void fetch_to_write(bf16* x) {
    __builtin_prefetch(x, 1);
    __builtin_prefetch(x + 32, 1);
}

// Zeros in rows of w numbers beyond the width and beyond the n tokens.
static void clear_rest(bf16* out, long n, long width, long rows, long w) {
    if (width < w)
        for (long i = 0; i < n; i++) std::memset(out + i * w + width, 0, (w - width) * sizeof(bf16));
    std::memset(out + n * w, 0, (rows - n) * w * sizeof(bf16));
}

// A head's vectors, normed and rotated, as rows of w numbers, of which row `after` is the first of x; zero beyond the width and
// beyond the n tokens.
static void turn(bf16* out, const bf16* x, const float* norm, const Shape& shape, const Sight& sight, long rows, long w) {
    out += sight.after * w;
    clear_rest(out, sight.n - sight.after, shape.width, rows - sight.after, w);
    for (long i = sight.after; i < sight.n; i++, x += shape.row(), out += w) {
        fetch(x + AHEAD * shape.row());
        const long angle = sight.position[i] * shape.width;
        rotate(out, x, norm, shape.eps, shape.cos + angle, shape.sin + angle, shape.width);
    }
}

// n vectors of a head as rows of w numbers, zero beyond; step: numbers between two tokens.
static void copy_rows(bf16* out, const bf16* x, long step, long width, long n, long rows, long w) {
    clear_rest(out, n, width, rows, w);
    for (long i = 0; i < n; i++) {
        fetch(x + (i + AHEAD) * step);
        std::memcpy(out + i * w, x + i * step, width * sizeof(bf16));
    }
}

// Makes impossible what token i does not see among the scores of 32 keys.
static inline void close_part(float* score, const Sight& sight, long i, long key) {
    if (sight.sees_all(i, key, 32)) return;
    const int shared = int(sight.shared(i) - key), own = int(sight.branch(i) - key), last = int(i - key);
#pragma omp simd
    for (int l = 0; l < 32; l++) score[l] = l < shared || (l >= own && l <= last) ? score[l] : -INFINITY;
}

struct Span {
    long first, end;  // of keys, multiples of 32
};

// e^((score - top) * scale) of what token i sees in both spans, zeros for the rest; top * scale, and their total.
static inline void softmax(float* score, bf16* weight, const Span* spans, const Sight& sight, long i, float scale,
                           float& top, float& total) {
    Floats highest = Floats{} - INFINITY, mass = {};
    for (int s = 0; s < 2; s++)
        for (long j = spans[s].first; j < spans[s].end; j += 32) {
            if (!sight.sees_some(i, j, 32)) continue;
            close_part(score + j, sight, i, j);
            const Floats left = *(const Floats*)(score + j), right = *(const Floats*)(score + j + 16);
            const Floats higher = left > right ? left : right;
            highest = higher > highest ? higher : highest;
        }
    const float most = largest_of(highest);
    for (int s = 0; s < 2; s++)
        for (long j = spans[s].first; j < spans[s].end; j += 32) {
            Floats left = {}, right = {};
            if (sight.sees_some(i, j, 32)) {
                left = fast_exp((*(const Floats*)(score + j) - most) * scale);
                right = fast_exp((*(const Floats*)(score + j + 16) - most) * scale);
                mass += left + right;
            }
            *(Halves*)(weight + j) = narrow_16(left);
            *(Halves*)(weight + j + 16) = narrow_16(right);
        }
    top = most * scale;
    total = sum_of(mass);
}

// The keys that the tokens `first` to `end` see: those of the trunk, and those from the first branch among them on.
static void spans_of(const Sight& sight, long first, long end, Span* spans) {
    long shared = 0, branch = sight.branch(first);
    for (long i = first; i < end; i++) {
        shared = sight.shared(i) > shared ? sight.shared(i) : shared;
        branch = sight.branch(i) < branch ? sight.branch(i) : branch;
    }
    shared = padded(shared);
    branch &= ~31L;
    spans[0] = {0, shared < end ? shared : end};
    spans[1] = {branch > spans[0].end ? branch : spans[0].end, end};
}

// One block of queries of a head -> sums[m, w] of the values by their weights, which are yet to be divided by the totals.
static void forward_block(const bf16* queries, const bf16* keys, const bf16* values, const Sight& sight, float scale,
                          long first, long m, long rows, long w, float* score, bf16* weights, float* sum, float* top,
                          float* total) {
    const long step = apart(rows);
    Span spans[2];
    spans_of(sight, first, first + m, spans);
    for (const Span& span : spans)
        if (span.first < span.end)
            product(score + span.first, step, queries + first * w, w, keys + span.first * w, w * 16, m,
                    span.end - span.first, w, false);
    for (long i = 0; i < m; i++)
        softmax(score + i * step, weights + i * step, spans, sight, first + i, scale, top[i], total[i]);
    bool is_begun = false;
    for (const Span& span : spans)
        if (span.first < span.end) {
            product(sum, w, weights + span.first, step, values + span.first * 16, rows * 16, m, w, span.end - span.first,
                    is_begun);
            is_begun = true;
        }
}

// Takes the first `after` of n rows from what is kept, and keeps the others.
static void meet_kept(bf16* kept, bf16* rows, long after, long n, long w) {
    std::memcpy(rows, kept, after * w * sizeof(bf16));
    std::memcpy(kept + after * w, rows + after * w, (n - after) * w * sizeof(bf16));
}

// qkv, out and lse begin with token `after`.
// -> out of the query heads, `out_step` numbers between two tokens; their lse[n, heads] unless null; and unless null the
// turned keys and the values, [n, w], of which the first `after` stand there.
static void forward_task(const bf16* qkv, const Shape& shape, const Sight& sight, long group, bf16* out, long out_step,
                         float* lse, bf16* turned_keys, bf16* kept_values) {
    const long n = sight.n, after = sight.after, rows = padded(n), w = padded(shape.width), step = apart(rows);
    const long shared = shape.heads / shape.groups;
    scratch.reset(rows * w * 2 * 5 + BLOCK * step * 6 + BLOCK * w * 4 + 1024);
    bf16 *flat = scratch.take<bf16>(rows * w), *keys = scratch.take<bf16>(rows * w), *values = scratch.take<bf16>(rows * w);
    bf16 *queries = scratch.take<bf16>(rows * w), *weights = scratch.take<bf16>(BLOCK * step);
    float *score = scratch.take<float>(BLOCK * step), *sum = scratch.take<float>(BLOCK * w);
    const bf16* key = qkv + (shape.heads + group) * shape.width;
    turn(flat, key, shape.k_norm, shape, sight, rows, w);
    if (turned_keys) meet_kept(turned_keys, flat, after, n, w);
    pair_columns(keys, flat, w, rows, w);
    copy_rows(flat + after * w, key + shape.groups * shape.width, shape.row(), shape.width, n - after, rows - after, w);
    if (kept_values) meet_kept(kept_values, flat, after, n, w);
    pair_rows(values, rows * 16, flat, w, rows, w);
    for (long head = group * shared; head < (group + 1) * shared; head++) {
        turn(queries, qkv + head * shape.width, shape.q_norm, shape, sight, rows, w);
        for (long first = after; first < rows; first += BLOCK) {
            const long m = rows - first < BLOCK ? rows - first : BLOCK;
            float total[BLOCK], top[BLOCK];
            forward_block(queries, keys, values, sight, shape.scale, first, m, rows, w, score, weights, sum, top, total);
            for (long i = first; i < first + m && i < n; i++) {
                narrow_all(out + (i - after) * out_step + head * shape.width, sum + (i - first) * w, shape.width,
                           1.0f / total[i - first]);
                if (lse) lse[(i - after) * shape.heads + head] = top[i - first] + std::log(total[i - first]);
            }
        }
    }
}
