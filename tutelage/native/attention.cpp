// Causal attention of packed rows, from the projections to what the output projection reads. Equals plain.py:
//
//   attention_forward    rms_norm of queries and keys (if there are weights for it), rotation by position, and
//                        softmax(q k^T * scale) v within each sequence, each token seeing itself and what is before it
//   attention_backward   its gradient
//
// Sequence b holds the tokens start[b] to start[b + 1], of which trunk[b] are its trunk, if it has branches: own[i] is where
// the branch of token i begins in its sequence, 0 in the trunk. position[i] chooses the row of cos and sin,
// [positions, width] float32. A task is a sequence and a key head: it writes what no other task writes, so the number of
// threads changes no bit.
#include "attention.h"

// The gradient of `turn` for one token: slope[width] of the turned vector -> grad of x; adds to that of the norm.
static void turn_back(bf16* grad, float* slope, const bf16* x, const float* norm, float* grad_norm, const Shape& shape,
                      long position) {
    const long half = shape.width / 2;
    fetch_to_write(grad + AHEAD * shape.row());
    const float *cos = shape.cos + position * shape.width, *sin = shape.sin + position * shape.width;
#pragma omp simd
    for (long j = 0; j < half; j++) {
        float first = slope[j] * cos[j] + slope[j + half] * sin[j + half];
        slope[j + half] = slope[j + half] * cos[j + half] - slope[j] * sin[j];
        slope[j] = first;
    }
    if (norm) {
        float scale = head_inverse_rms(x, shape.eps, shape.width), along = 0;
        for (long j = 0; j < shape.width; j++) {
            grad_norm[j] += slope[j] * widen(x[j]) * scale;
            slope[j] *= norm[j];
            along += slope[j] * widen(x[j]);
        }
        along *= scale * scale / float(shape.width);
        for (long j = 0; j < shape.width; j++) slope[j] = scale * (slope[j] - widen(x[j]) * along);
    }
    narrow_all(grad, slope, shape.width);
}

// What one head of a sequence brings to the backward pass.
struct Head {
    bf16 *query, *query_t, *slope, *slope_t;  // turned queries and the gradient of the output, and both transposed
    float *lse, *delta;                       // of each token; delta = output . its gradient
    float* grad_query;                        // [rows, w], of the turned queries
};

// Keys and values of a sequence and their gradients, which its heads add to.
struct Source {
    long n, rows, w;
    bf16 *key_columns, *key_rows, *value_columns;  // paired
    float *grad_key, *grad_value;                  // transposed, [w, rows]
};

// One block of queries against one block of keys: adds to all three gradients. m and k: their sizes.
static void backward_block(const Head& head, const Source& source, const Sight& sight, float scale, long i0, long m,
                           long j0, long k, float* score, float* grad_score, bf16* p, bf16* ds, bf16* paired) {
    const long w = source.w, rows = source.rows;
    product(score, k, head.query + i0 * w, w, source.key_columns + j0 * w, w * 16, m, k, w, false);
    product(grad_score, k, head.slope + i0 * w, w, source.value_columns + j0 * w, w * 16, m, k, w, false);
    for (long i = 0; i < m; i++) {
        float *s = score + i * k, *slope = grad_score + i * k;
        const float lse = head.lse[i0 + i], delta = head.delta[i0 + i];
        for (long j = 0; j < k; j += 32) {
            Floats weight[2] = {}, change[2] = {};
            if (i0 + i < source.n && sight.sees_some(i0 + i, j0 + j, 32)) {
                close_part(s + j, sight, i0 + i, j0 + j);
                for (int l = 0; l < 2; l++) {
                    weight[l] = fast_exp(((const Floats*)(s + j))[l] * scale - lse);
                    change[l] = weight[l] * (((const Floats*)(slope + j))[l] - delta) * scale;
                }
            }
            for (int l = 0; l < 2; l++) {
                ((Halves*)(p + i * k + j))[l] = narrow_16(weight[l]);
                ((Halves*)(ds + i * k + j))[l] = narrow_16(change[l]);
            }
        }
    }
    pair_rows(paired, m * 16, p, k, m, k);
    product(source.grad_value + j0, apart(rows), head.slope_t + i0, apart(rows), paired, m * 16, w, k, m, true);
    pair_rows(paired, m * 16, ds, k, m, k);
    product(source.grad_key + j0, apart(rows), head.query_t + i0, apart(rows), paired, m * 16, w, k, m, true);
    product(head.grad_query + i0 * w, w, ds, k, source.key_rows + j0 * 16, rows * 16, m, w, k, true);
}

// Whether one of the tokens i0 to i0 + m sees one of the keys j0 to j0 + k.
static bool meet(const Sight& sight, long i0, long m, long j0, long k) {
    for (long i = i0; i < i0 + m && i < sight.n; i++)
        if (sight.sees_some(i, j0, k)) return true;
    return false;
}

// x[w, rows] with `step` numbers between its rows -> out[rows, w].
static void flip(float* out, const float* x, long step, long rows, long w) {
    Lanes row[16];
    for (long j = 0; j < w; j += 16)
        for (long i = 0; i < rows; i += 16) {
            for (int l = 0; l < 16; l++) row[l] = *(const Lanes*)(x + (j + l) * step + i);
            transpose_square(row);
            for (int l = 0; l < 16; l++) *(Lanes*)(out + (i + l) * w + j) = row[l];
        }
}

static void load_head(Head& head, const bf16* qkv, const bf16* out, const bf16* grad, const float* lse,
                      const Shape& shape, const Sight& sight, long h, long rows, long w) {
    const long n = sight.n, step = shape.heads * shape.width;
    turn(head.query, qkv + h * shape.width, shape.q_norm, shape, sight, rows, w);
    transpose(head.query_t, apart(rows), head.query, w, rows, w);
    copy_rows(head.slope, grad + h * shape.width, step, shape.width, n, rows, w);
    transpose(head.slope_t, apart(rows), head.slope, w, rows, w);
    std::memset(head.grad_query, 0, rows * w * 4);
    for (long i = 0; i < n; i++) {
        const bf16 *o = out + i * step + h * shape.width, *g = head.slope + i * w;
        fetch(o + AHEAD * step);
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (long j = 0; j < shape.width; j++) dot += widen(o[j]) * widen(g[j]);
        head.delta[i] = dot;
        head.lse[i] = lse[i * shape.heads + h];
    }
    for (long i = n; i < rows; i++) head.delta[i] = head.lse[i] = 0;
}

static void backward_task(const bf16* qkv, const bf16* out, const bf16* grad, const float* lse, const Shape& shape,
                          const Sight& sight, long group, bf16* grad_qkv, float* grad_q_norm, float* grad_k_norm) {
    const long n = sight.n, rows = padded(n), w = padded(shape.width), shared = shape.heads / shape.groups, area = rows * w;
    const long wide = apart(rows) * w;  // of what lies transposed
    scratch.reset(area * (2 * 6 + 4) + wide * (2 * 2 + 4 * 2) + rows * 8 + BLOCK * BLOCK * 14 + 2048);
    bf16 *flat = scratch.take<bf16>(area), *paired = scratch.take<bf16>(BLOCK * BLOCK);
    bf16 *p = scratch.take<bf16>(BLOCK * BLOCK), *ds = scratch.take<bf16>(BLOCK * BLOCK);
    float *score = scratch.take<float>(BLOCK * BLOCK), *grad_score = scratch.take<float>(BLOCK * BLOCK);
    Source source = {n, rows, w, scratch.take<bf16>(area), scratch.take<bf16>(area), scratch.take<bf16>(area),
                     scratch.take<float>(wide), scratch.take<float>(wide)};
    Head head = {scratch.take<bf16>(area), scratch.take<bf16>(wide), scratch.take<bf16>(area), scratch.take<bf16>(wide),
                 scratch.take<float>(rows), scratch.take<float>(rows), scratch.take<float>(area)};
    const bf16 *key = qkv + (shape.heads + group) * shape.width, *value = key + shape.groups * shape.width;
    turn(flat, key, shape.k_norm, shape, sight, rows, w);
    pair_columns(source.key_columns, flat, w, rows, w);
    pair_rows(source.key_rows, rows * 16, flat, w, rows, w);
    copy_rows(flat, value, shape.row(), shape.width, n, rows, w);
    pair_columns(source.value_columns, flat, w, rows, w);
    std::memset(source.grad_key, 0, wide * 4);
    std::memset(source.grad_value, 0, wide * 4);
    for (long h = group * shared; h < (group + 1) * shared; h++) {
        load_head(head, qkv, out, grad, lse, shape, sight, h, rows, w);
        for (long j0 = 0; j0 < rows; j0 += BLOCK)
            for (long i0 = j0; i0 < rows; i0 += BLOCK) {
                const long m = rows - i0 < BLOCK ? rows - i0 : BLOCK, k = rows - j0 < BLOCK ? rows - j0 : BLOCK;
                if (meet(sight, i0, m, j0, k))
                    backward_block(head, source, sight, shape.scale, i0, m, j0, k, score, grad_score, p, ds, paired);
            }
        for (long i = 0; i < n; i++)
            turn_back(grad_qkv + i * shape.row() + h * shape.width, head.grad_query + i * w,
                      qkv + i * shape.row() + h * shape.width, shape.q_norm, grad_q_norm, shape, sight.position[i]);
    }
    float* slope = head.grad_query;  // no longer needed: takes what lies transposed, row by row
    flip(slope, source.grad_key, apart(rows), rows, w);
    for (long i = 0; i < n; i++)
        turn_back(grad_qkv + (key - qkv) + i * shape.row(), slope + i * w, key + i * shape.row(), shape.k_norm,
                  grad_k_norm, shape, sight.position[i]);
    flip(slope, source.grad_value, apart(rows), rows, w);
    for (long i = 0; i < n; i++) {
        bf16* to = grad_qkv + (value - qkv) + i * shape.row();
        fetch_to_write(to + AHEAD * shape.row());
        narrow_all(to, slope + i * w, shape.width);
    }
}

extern "C" {

// -> out[n, heads, width] bf16, and lse[n, heads]: what the backward pass needs.
void attention_forward(const bf16* qkv, const int64_t* start, const int64_t* trunk, const int64_t* own,
                       const int64_t* position, long n_sequences, long heads, long groups, long width,
                       float scale, const float* cos, const float* sin, const float* q_norm, const float* k_norm,
                       float eps, bf16* out, float* lse, int n_threads) {
    const Shape shape = {heads, groups, width, scale, eps, cos, sin, q_norm, k_norm};
    share(n_sequences * groups, n_threads, [&](long task) {
        const long b = task / groups, first = start[b];
        const Sight sight = {position + first, own + first, start[b + 1] - first, trunk[b]};
        forward_task(qkv + first * shape.row(), shape, sight, task % groups, out + first * heads * width, heads * width,
                     lse + first * heads, nullptr, nullptr);
    });
}

// grad[n, heads, width] bf16 -> grad_qkv as qkv; grad_q_norm and grad_k_norm[n_sequences * groups, width], to be summed,
// zero before.
void attention_backward(const bf16* qkv, const bf16* out, const bf16* grad, const float* lse, const int64_t* start,
                        const int64_t* trunk, const int64_t* own, const int64_t* position, long n_sequences, long heads,
                        long groups, long width, float scale, const float* cos, const float* sin,
                        const float* q_norm, const float* k_norm, float eps, bf16* grad_qkv, float* grad_q_norm,
                        float* grad_k_norm, int n_threads) {
    const Shape shape = {heads, groups, width, scale, eps, cos, sin, q_norm, k_norm};
    share(n_sequences * groups, n_threads, [&](long task) {
        const long b = task / groups, first = start[b];
        const Sight sight = {position + first, own + first, start[b + 1] - first, trunk[b]};
        backward_task(qkv + first * shape.row(), out + first * heads * width, grad + first * heads * width,
                      lse + first * heads, shape, sight, task % groups, grad_qkv + first * shape.row(),
                      grad_q_norm ? grad_q_norm + task * width : nullptr,
                      grad_k_norm ? grad_k_norm + task * width : nullptr);
    });
}
}
