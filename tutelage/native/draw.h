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

// Of the scratch that `draw_row` takes.
static inline long draw_bytes(long v) { return v * 4 + (v / 64 + 1) * 8 + 256; }

// One token of softmax(logits * inverse_temperature): the first whose cumulative probability passes u, over the
// vocabulary in its own order. Probabilities are summed in float64 by blocks.
static inline void draw_row(const float* logits, float inverse_temperature, double u, long v, int64_t* token,
                     float* logp) {
    float* weight = scratch.take<float>(v);
    double* before = scratch.take<double>(v / 64 + 1);
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (long j = 0; j < v; j++) top = logits[j] > top ? logits[j] : top;
    double total = 0;
    for (long j = 0; j < v; j += 64) {
        const long end = j + 64 < v ? j + 64 : v;
        before[j / 64] = total;
#pragma omp simd
        for (long l = j; l < end; l++) weight[l] = fast_exp((logits[l] - top) * inverse_temperature);
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
    *logp = float((logits[*token] - top) * inverse_temperature - std::log(total));
}
