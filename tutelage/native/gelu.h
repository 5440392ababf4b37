// The Gaussian error linear unit (Hendrycks and Gimpel 2016), exact or by tanh, and its slope.
#pragma once
#include "number.h"

enum Activation { SILU_OF_GATE = 0, GELU = 1, GELU_TANH = 2 };

// To 2e-7: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 7.1.26.
static inline float fast_erf(float x) {
    const float a = x < 0.0f ? -x : x, t = 1.0f / (1.0f + 0.3275911f * a);
    const float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    const float y = 1.0f - p * fast_exp(-a * a);
    return x < 0.0f ? -y : y;
}

// How far a number passes: gelu(x) = x * passing(x).
template <bool TANH>
static inline float passing(float x) {
    if (TANH) return sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));  // (1 + tanh(u)) / 2 = sigmoid(2 u)
    return 0.5f * (1.0f + fast_erf(x * 0.70710678f));
}

template <bool TANH>
static inline float gelu_slope(float x) {
    const float open = passing<TANH>(x);
    if (TANH) return open + x * open * (1.0f - open) * 1.5957691216f * (1.0f + 0.134145f * x * x);
    return open + x * 0.39894228f * fast_exp(-0.5f * x * x);
}

// out = gelu(x), of a few numbers.
static inline void gelu_all(Activation kind, const float* x, float* out, long n) {
    if (kind == GELU_TANH) {
#pragma omp simd
        for (long j = 0; j < n; j++) out[j] = x[j] * passing<true>(x[j]);
    } else {
#pragma omp simd
        for (long j = 0; j < n; j++) out[j] = x[j] * passing<false>(x[j]);
    }
}
