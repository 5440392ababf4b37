// The norm of one row: by its root mean square or, with a bias, by its standard deviation about its mean.
#pragma once
#include <cmath>

#include "number.h"

static const long CHUNK = 64;  // numbers computed before they are rounded

// weight[d]; bias[d] or null: with one, a row's mean is taken off first.
struct Norm {
    const float *weight, *bias;
    float eps;
};

// 1 / rms of a row about its mean, which is 0 for a norm without a bias.
static inline float spread(const Norm& norm, const float* x, float* mean, long d) {
    float level = 0, square = 0;
    if (norm.bias) {
#pragma omp simd reduction(+ : level)
        for (long j = 0; j < d; j++) level += x[j];
        level /= float(d);
    }
#pragma omp simd reduction(+ : square)
    for (long j = 0; j < d; j++) square += (x[j] - level) * (x[j] - level);
    *mean = level;
    return 1.0f / std::sqrt(square / float(d) + norm.eps);
}

// x + y (x alone if y is null) -> sum (unless y is null), h bf16 (unless null), wide float32 (unless null), 1 / rms, mean.
static inline void norm_row(const float* x, const bf16* y, const Norm& norm, float* sum, bf16* h, float* wide, float* inverse,
                     float* mean, long d) {
    if (y) {
#pragma omp simd
        for (long j = 0; j < d; j++) sum[j] = x[j] + widen(y[j]);
        x = sum;
    }
    const float scale = *inverse = spread(norm, x, mean, d), level = *mean;
    for (long first = 0; first < d; first += CHUNK) {
        float normed[CHUNK];
        const long count = d - first < CHUNK ? d - first : CHUNK;
#pragma omp simd
        for (long j = 0; j < count; j++) normed[j] = norm.weight[first + j] * ((x[first + j] - level) * scale);
        if (norm.bias) {
#pragma omp simd
            for (long j = 0; j < count; j++) normed[j] += norm.bias[first + j];
        }
        if (h) narrow_all(h + first, normed, count);
        if (wide) std::memcpy(wide + first, normed, count * 4);
    }
}
