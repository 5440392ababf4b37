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

// What is known of a row of logits after some of its panels, each lane for every 16th column. sum: of the weights w = e^z with
// z = (logit - top) * inverse_temperature; mean: of w z. The top is -1e30 until a logit is above that, and then one of the
// logits; none was above it by more than MARGIN, so weights stay of a size that sums bear, and hardly a panel raises it.
struct alignas(64) Seen {
    Floats sum, mean;
    float top, limit, chosen;  // a logit above the limit becomes the top
};

static const float MARGIN = 1;  // in nats; beyond it, the entropy of a sure row would lose its last digits

static inline void begin(Seen& seen) { seen = {Floats{}, Floats{}, -1e30f, -1e30f, 0}; }  // not -inf, which - itself is NaN

template <bool ENTROPY>
static inline void take_in(Seen& seen, const float* logit, float inverse_temperature) {
    static_assert(PANEL == 32, "a panel of a row is two vectors");
    const Floats part[2] = {*(const Floats*)logit, *(const Floats*)(logit + 16)};
    const Floats higher = part[0] > part[1] ? part[0] : part[1];
    if (some_above(higher, seen.limit)) {
        const float top = largest_of(higher), sunk = (seen.top - top) * inverse_temperature;
        const float shrink = fast_exp(sunk);
        if (ENTROPY) seen.mean = (seen.mean + seen.sum * sunk) * shrink;
        seen.sum *= shrink;
        seen.top = top, seen.limit = top + MARGIN / inverse_temperature;
    }
    for (int l = 0; l < 2; l++) {
        const Floats below = (part[l] - seen.top) * inverse_temperature, weight = fast_exp(below);
        seen.sum += weight;
        if (ENTROPY) seen.mean += weight * at_least(-100.0f, below);  // not 0 x -inf where a token is forbidden
    }
}

// logp of the chosen token, logsumexp and entropy (unless null) of a row of which all was seen.
static void read_row(const Seen& seen, float inverse_temperature, float* logp, float* norm, float* entropy) {
    const float sum = sum_of(seen.sum), mean = sum_of(seen.mean);
    *norm = seen.top * inverse_temperature + std::log(sum);
    *logp = (seen.chosen - seen.top) * inverse_temperature - std::log(sum);
    if (entropy) *entropy = std::log(sum) - mean / sum;
}

// slope = grad * inverse_temperature * (onehot(token) - softmax) of one panel of a row, which starts at column `first`; where
// the logit is -inf, that is 0.
static inline void slope_panel(const float* logit, bf16* slope, long first, int64_t token, float norm, float grad,
                               float inverse_temperature) {
    const float scale = grad * inverse_temperature;
    for (long j = 0; j < PANEL; j += 16) {
        const Floats chance = fast_exp(*(const Floats*)(logit + j) * inverse_temperature - norm);
        *(Halves*)(slope + first + j) = narrow_16(-scale * chance);
    }
    if (token >= first && token < first + PANEL)
        slope[token] = narrow(scale * (1.0f - fast_exp(logit[token - first] * inverse_temperature - norm)));
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
        each_panel({head}, 0, head->out, rows, m, sums, {}, [&](const Sums& s) {
            for (long i = s.row; i < s.row + s.n; i++) {
                const float* sum = s.sum + (i - s.row) * PANEL;
                const Logits logit(sum, s.count);
                if (entropy)
                    take_in<true>(seen[i], logit.at, inverse_temperature);
                else
                    take_in<false>(seen[i], logit.at, inverse_temperature);
                const long at = token[start + i] - s.first;
                if (at >= 0 && at < s.count) seen[i].chosen = sum[at];
            }
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
            each_panel({head}, begin, end, rows, m, sums, {}, [&](const Sums& s) {
                for (long i = s.row; i < s.row + s.n; i++) {
                    const Logits logit(s.sum + (i - s.row) * PANEL, s.count);
                    slope_panel(logit.at, slope + (start + i) * step, s.first, token[start + i], norm[start + i],
                                grad[start + i], inverse_temperature);
                }
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
        each_panel({head}, 0, v, rows, m, sums, {}, [&](const Sums& s) {
            for (long i = 0; i < s.n; i++)
                std::memcpy(logits + (start + s.row + i) * v + s.first, s.sum + i * PANEL, s.count * 4);
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
