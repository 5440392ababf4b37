// The output layer and what is read off it: logits live in the cache for a few rows at a time. Equals plain.py:
//
//   head_forward    logits x W^T in bf16, then the log-probability of a chosen token, logsumexp and entropy of each row
//   head_backward   the logits once more, the gradient of the log-probability by them, and that by x
//
// Threads take blocks of rows; a row is computed by itself, to the bit.
#include <cmath>

#include "linear.h"

static const long ROWS = 128;  // of a part: enough to use a weight often, few enough to stay in the cache

// Numbers between two rows of logits, which must not lie at a distance that the cache maps to one place.
static long logits_step(long v) { return v + 32; }

// logp of the token, logsumexp and entropy (unless null) of one row of logits * inverse_temperature.
static void read_row(const bf16* row, int64_t token, float inverse_temperature, float* logp, float* norm, float* entropy,
                     long v) {
    float top = -INFINITY, sum = 0, mean = 0;
#pragma omp simd reduction(max : top)
    for (long j = 0; j < v; j++) top = widen(row[j]) > top ? widen(row[j]) : top;
    if (entropy) {
#pragma omp simd reduction(+ : sum, mean)
        for (long j = 0; j < v; j++) {
            float below = (widen(row[j]) - top) * inverse_temperature;
            float weight = fast_exp(below);
            sum += weight;
            mean += weight > 0 ? weight * below : 0.0f;  // 0 x -inf of a forbidden token is 0
        }
        *entropy = std::log(sum) - mean / sum;
    } else {
#pragma omp simd reduction(+ : sum)
        for (long j = 0; j < v; j++) sum += fast_exp((widen(row[j]) - top) * inverse_temperature);
    }
    *norm = top * inverse_temperature + std::log(sum);
    *logp = (widen(row[token]) - top) * inverse_temperature - std::log(sum);
}

// slope = grad * inverse_temperature * (onehot(token) - softmax) of one row.
static void slope_row(const bf16* row, bf16* slope, int64_t token, float norm, float grad, float inverse_temperature,
                      long v) {
    const float scale = grad * inverse_temperature;
    const float chosen = scale * (1.0f - fast_exp(widen(row[token]) * inverse_temperature - norm));
    for (long first = 0; first < v; first += PANEL) {
        float part[PANEL];
        const long count = v - first < PANEL ? v - first : PANEL;
#pragma omp simd
        for (long j = 0; j < count; j++) part[j] = -scale * fast_exp(widen(row[first + j]) * inverse_temperature - norm);
        narrow_all(slope + first, part, count);
    }
    slope[token] = narrow(chosen);
}

// Logits of m rows of x, panel by panel, each panel for 32 rows at a time.
static void logits_of(const Linear& head, const bf16* x, bf16* logits, long m, float* sums) {
    const long in = padded(head.in), step = logits_step(head.out);
    for (long first = 0; first < head.out; first += PANEL)
        for (long i = 0; i < m; i += 32) {
            const long n = m - i < 32 ? m - i : 32;
            const long count = panel(head, first, head.out, x + i * in, whole_steps(n), sums);
            for (long k = 0; k < n; k++) narrow_all(logits + (i + k) * step + first, sums + k * PANEL, count);
        }
}

extern "C" {

// x[n, in], token[n] -> logp[n], norm[n], entropy[n] (unless null).
void head_forward(const Linear* head, const bf16* x, const int64_t* token, float inverse_temperature, float* logp,
                  float* norm, float* entropy, long n, int n_threads) {
    const long v = head->out, in = padded(head->in), step = logits_step(v);
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        const long first = part * ROWS, m = n - first < ROWS ? n - first : ROWS;
        scratch.reset(ROWS * (in + step) * 2 + 32 * PANEL * 4 + 256);
        bf16 *buffer = scratch.take<bf16>(ROWS * in), *logits = scratch.take<bf16>(ROWS * step);
        float* sums = scratch.take<float>(32 * PANEL);
        logits_of(*head, whole_rows(buffer, x + first * head->in, m, head->in), logits, m, sums);
        for (long i = 0; i < m; i++)
            read_row(logits + i * step, token[first + i], inverse_temperature, logp + first + i, norm + first + i,
                     entropy ? entropy + first + i : nullptr, v);
    });
}

// grad[n] of the log-probabilities -> slope[n, v] bf16 of the logits, and with `turned` (else null) grad_x[n, in] bf16.
void head_backward(const Linear* head, const Linear* turned, const bf16* x, const int64_t* token, const float* norm,
                   const float* grad, float inverse_temperature, bf16* slope, bf16* grad_x, long n, int n_threads) {
    const long v = head->out, in = padded(head->in), step = logits_step(v), wide = padded(v);
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        const long first = part * ROWS, m = n - first < ROWS ? n - first : ROWS;
        scratch.reset(ROWS * (in + step + wide) * 2 + ROWS * PANEL * 4 + 256);
        bf16 *buffer = scratch.take<bf16>(ROWS * in), *logits = scratch.take<bf16>(ROWS * step);
        bf16* slopes = scratch.take<bf16>(ROWS * wide);
        float* sums = scratch.take<float>(ROWS * PANEL);
        logits_of(*head, whole_rows(buffer, x + first * head->in, m, head->in), logits, m, sums);
        for (long i = 0; i < m; i++)
            slope_row(logits + i * step, slope + (first + i) * v, token[first + i], norm[first + i], grad[first + i],
                      inverse_temperature, v);
        if (turned)
            apply(*turned, whole_rows(slopes, slope + first * v, m, v), grad_x + first * head->in, head->in, m,
                  whole_steps(m), sums);
    });
}
}
