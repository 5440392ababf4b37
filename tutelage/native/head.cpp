// The output layer and what is read off it: logits live in the cache for one panel of columns, in float32. Equals plain.py:
//
//   head_forward    the log-probability of a chosen token, logsumexp and entropy of each row of logits x W^T
//   head_backward   the logits once more, the gradient of the log-probability by them, and that by x
//   head_logits     the logits themselves
//   draw_rows       one token of each row of logits
//
// Threads take blocks of rows; a row is computed by itself, to the bit.
#include <cmath>

#include "draw.h"
#include "linear.h"

static const long ROWS = 128;  // of a part: enough to use a weight often, few enough to stay in the cache
static const long WIDE = 256;  // columns whose slopes are multiplied on together, while they are in the cache

// What is known of a row of logits * inverse_temperature after some of its panels, each lane for every 16th column: the
// highest logit, the sum of the weights e^(logit - top), and the mean of logit - top by them, times that sum.
struct Seen {
    float top[16], sum[16], mean[16], chosen;
};

static inline void begin(Seen& seen) {
    for (int l = 0; l < 16; l++) seen.top[l] = -1e30f, seen.sum[l] = seen.mean[l] = 0;  // not -inf, which - itself is NaN
    seen.chosen = 0;
}

template <bool ENTROPY>
static inline void take_in(Seen& seen, const float* logit, float inverse_temperature) {
    float top[16], sum[16], mean[16];
    std::memcpy(top, seen.top, sizeof(top));
    for (int p = 0; p < PANEL; p += 16) {
#pragma omp simd
        for (int l = 0; l < 16; l++) top[l] = logit[p + l] > top[l] ? logit[p + l] : top[l];
    }
#pragma omp simd
    for (int l = 0; l < 16; l++) {
        const float sunk = (seen.top[l] - top[l]) * inverse_temperature, shrink = fast_exp(sunk);
        sum[l] = seen.sum[l] * shrink;
        mean[l] = ENTROPY ? (seen.mean[l] + seen.sum[l] * sunk) * shrink : 0.0f;
    }
    for (int p = 0; p < PANEL; p += 16) {
#pragma omp simd
        for (int l = 0; l < 16; l++) {
            const float below = (logit[p + l] - top[l]) * inverse_temperature, weight = fast_exp(below);
            sum[l] += weight;
            if (ENTROPY) mean[l] += weight > 0 ? weight * below : 0.0f;  // 0 x -inf of a forbidden token is 0
        }
    }
    std::memcpy(seen.top, top, sizeof(top));
    std::memcpy(seen.sum, sum, sizeof(sum));
    if (ENTROPY) std::memcpy(seen.mean, mean, sizeof(mean));
}

// logp of the chosen token, logsumexp and entropy (unless null) of a row of which all was seen.
static void read_row(const Seen& seen, float inverse_temperature, float* logp, float* norm, float* entropy) {
    float top = -1e30f, sum = 0, mean = 0;
    for (int l = 0; l < 16; l++) top = seen.top[l] > top ? seen.top[l] : top;
    for (int l = 0; l < 16; l++) {
        const float sunk = (seen.top[l] - top) * inverse_temperature, shrink = fast_exp(sunk);
        sum += seen.sum[l] * shrink;
        mean += (seen.mean[l] + seen.sum[l] * sunk) * shrink;
    }
    *norm = top * inverse_temperature + std::log(sum);
    *logp = (seen.chosen - top) * inverse_temperature - std::log(sum);
    if (entropy) *entropy = std::log(sum) - mean / sum;
}

// slope = grad * inverse_temperature * (onehot(token) - softmax) of one panel of a row, which starts at column `first`.
// count: numbers to write; where the logit is -inf, that is 0.
static inline void slope_panel(const float* logit, bf16* slope, long first, long count, int64_t token, float norm,
                               float grad, float inverse_temperature) {
    const float scale = grad * inverse_temperature;
    float part[PANEL];
#pragma omp simd
    for (long j = 0; j < count; j++) part[j] = -scale * fast_exp(logit[j] * inverse_temperature - norm);
    if (token >= first && token < first + count)
        part[token - first] = scale * (1.0f - fast_exp(logit[token - first] * inverse_temperature - norm));
    narrow_all(slope + first, part, count);
}

// work(first row, how many, these rows of x[n, in] as `each_panel` reads them, room for sums) for parts of the rows, which
// the threads share; beside: bytes of scratch that it takes besides.
template <class F>
static void share_rows(const Linear& head, const bf16* x, long n, long beside, int n_threads, F work) {
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        const long first = part * ROWS, m = n - first < ROWS ? n - first : ROWS;
        scratch.reset(ROWS * padded(head.in) * 2 + sums_bytes(1) + beside + 256);
        bf16* buffer = scratch.take<bf16>(ROWS * padded(head.in));
        float* sums = scratch.take<float>(2 * SUMS);
        work(first, m, whole_rows(buffer, x + first * head.in, m, head.in), sums);
    });
}

// One row of a panel of logits, with -inf beyond the last column.
struct Logits {
    float padded[PANEL];
    const float* at;
    Logits(const float* sum, long count) : at(sum) {
        if (count == PANEL) return;
        for (long j = 0; j < PANEL; j++) padded[j] = j < count ? sum[j] : -INFINITY;
        at = padded;
    }
};

extern "C" {

// x[n, in], token[n] -> logp[n], norm[n], entropy[n] (unless null).
void head_forward(const Linear* head, const bf16* x, const int64_t* token, float inverse_temperature, float* logp,
                  float* norm, float* entropy, long n, int n_threads) {
    share_rows(*head, x, n, ROWS * sizeof(Seen), n_threads, [&](long start, long m, const bf16* rows, float* sums) {
        Seen* seen = scratch.take<Seen>(ROWS);
        for (long i = 0; i < m; i++) begin(seen[i]);
        each_panel({head}, 0, head->out, rows, m, sums, {}, [&](long first, long count, long i, const float* sum) {
            const Logits logit(sum, count);
            if (entropy)
                take_in<true>(seen[i], logit.at, inverse_temperature);
            else
                take_in<false>(seen[i], logit.at, inverse_temperature);
            const long at = token[start + i] - first;
            if (at >= 0 && at < count) seen[i].chosen = sum[at];
        });
        for (long i = 0; i < m; i++)
            read_row(seen[i], inverse_temperature, logp + start + i, norm + start + i, entropy ? entropy + start + i : nullptr);
    });
}

// grad[n] of the log-probabilities -> slope[n, v] bf16 of the logits, its rows `step` numbers apart, 0 up to a whole 32
// columns, with room for n up to a whole 32 rows; and with `turned` (else null) grad_x[n, in] bf16.
void head_backward(const Linear* head, const Linear* turned, const bf16* x, const int64_t* token, const float* norm,
                   const float* grad, float inverse_temperature, bf16* slope, long step, bf16* grad_x, long n,
                   int n_threads) {
    const long v = padded(head->out), in = padded(head->in);
    share_rows(*head, x, n, ROWS * in * 4 + 64, n_threads, [&](long start, long m, const bf16* rows, float* sums) {
        float* total = scratch.take<float>(ROWS * in);
        for (long begin = 0; begin < v; begin += WIDE) {
            const long end = begin + WIDE < v ? begin + WIDE : v;
            each_panel({head}, begin, end, rows, m, sums, {}, [&](long first, long count, long i, const float* sum) {
                const Logits logit(sum, count);
                slope_panel(logit.at, slope + (start + i) * step, first, v - first < PANEL ? v - first : PANEL,
                            token[start + i], norm[start + i], grad[start + i], inverse_temperature);
            });
            if (turned)
                product(total, in, slope + start * step + begin, step, turned->weight + begin * 16, v * 16, whole_steps(m), in,
                        end - begin, begin > 0);
        }
        for (long i = 0; turned && i < m; i++) narrow_all(grad_x + (start + i) * head->in, total + i * in, head->in);
    });
}

// x[n, in] -> logits[n, v] float32.
void head_logits(const Linear* head, const bf16* x, float* logits, long n, int n_threads) {
    const long v = head->out;
    share_rows(*head, x, n, 0, n_threads, [&](long start, long m, const bf16* rows, float* sums) {
        each_panel({head}, 0, v, rows, m, sums, {}, [&](long first, long count, long i, const float* sum) {
            std::memcpy(logits + (start + i) * v + first, sum, count * 4);
        });
    });
}

// logits[n, v], uniform[n] -> token[n] and logp[n] of each, drawn from softmax(logits * inverse_temperature).
void draw_rows(const float* logits, const double* uniform, float inverse_temperature, int64_t* token, float* logp, long n,
               long v, int n_threads) {
    share(n, n_threads, [&](long i) {
        scratch.reset(draw_bytes(v));
        draw_row(logits + i * v, inverse_temperature, uniform[i], v, token + i, logp + i);
    });
}
}
