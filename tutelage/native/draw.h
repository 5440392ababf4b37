// One token of a row of logits, by inverse cumulative distribution. Equals engine/sampling.py.
#pragma once
#include <cmath>

#include "tile.h"

// A number in [0, 1): SplitMix64 (Steele et al. 2014) of seed and position.
static inline double uniform(uint64_t seed, uint64_t position) {
    uint64_t z = seed + (position + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return double((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static const long BLOCK_DRAWN = 128;  // weights whose sums are compared with the target before single ones are

// Of the scratch that `draw_row` takes.
static inline long draw_bytes(long v) { return v * 4 + (v / BLOCK_DRAWN + 1) * 8 + 256; }

// e^((logit - top) * inverse_temperature) of n logits -> weight, and their sum: of a few in each lane in float32, of all in
// float64.
static inline double weigh_all(float* weight, const float* logits, long n, float top, float inverse_temperature) {
    Floats some = {};
    long j = 0;
    for (; j + 16 <= n; j += 16) {
        const Floats w = fast_exp((*(const Floats*)(logits + j) - top) * inverse_temperature);
        *(Floats*)(weight + j) = w;
        some += w;
    }
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int l = 0; l < 16; l++) sum += double(some[l]);
    for (; j < n; j++) sum += double(weight[j] = fast_exp((logits[j] - top) * inverse_temperature));
    return sum;
}

// One token of softmax(logits * inverse_temperature): the first whose cumulative probability passes u, over the
// vocabulary in its own order.
static inline void draw_row(const float* logits, float inverse_temperature, double u, long v, int64_t* token,
                            float* logp) {
    float* weight = scratch.take<float>(v);
    double* before = scratch.take<double>(v / BLOCK_DRAWN + 1);
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (long j = 0; j < v; j++) top = logits[j] > top ? logits[j] : top;
    double total = 0;
    for (long j = 0; j < v; j += BLOCK_DRAWN) {
        before[j / BLOCK_DRAWN] = total;
        const long n = v - j < BLOCK_DRAWN ? v - j : BLOCK_DRAWN;
        total += weigh_all(weight + j, logits + j, n, top, inverse_temperature);
    }
    const double target = u * total;
    long block = (v - 1) / BLOCK_DRAWN;
    while (block > 0 && before[block] > target) block--;
    double sum = before[block];
    long chosen = -1, last = 0;
    for (long l = block * BLOCK_DRAWN; l < v && chosen < 0; l++) {
        sum += double(weight[l]);
        if (weight[l] > 0) last = l;
        if (sum > target && weight[l] > 0) chosen = l;
    }
    *token = chosen < 0 ? last : chosen;
    *logp = float((logits[*token] - top) * inverse_temperature - std::log(total));
}
