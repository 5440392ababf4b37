// One head's vector of a token: RMS norm, if there is a weight for it, and rotation by the token's position.
#pragma once
#include <cmath>

#include "tile.h"

static inline float head_inverse_rms(const bf16* x, float eps, long width) {
    float square = 0;
#pragma omp simd reduction(+ : square)
    for (long j = 0; j < width; j++) square += widen(x[j]) * widen(x[j]);
    return 1.0f / std::sqrt(square / float(width) + eps);
}

// cos and sin: [width] of the token's position. plain: room for `width` numbers. out may be x.
static inline void rotate(bf16* out, const bf16* x, const float* norm, float eps, const float* cos, const float* sin,
                          long width, float* plain) {
    const long half = width / 2;
    const float scale = norm ? head_inverse_rms(x, eps, width) : 1.0f;
#pragma omp simd
    for (long j = 0; j < width; j++) plain[j] = norm ? norm[j] * (widen(x[j]) * scale) : widen(x[j]);
#pragma omp simd
    for (long j = 0; j < half; j++) {
        out[j] = narrow(plain[j] * cos[j] - plain[j + half] * sin[j]);
        out[j + half] = narrow(plain[j + half] * cos[j + half] + plain[j] * sin[j + half]);
    }
}
