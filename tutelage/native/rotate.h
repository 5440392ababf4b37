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

// cos and sin: [width] of the token's position. out may be x.
static inline void rotate(bf16* out, const bf16* x, const float* norm, float eps, const float* cos, const float* sin,
                          long width) {
    const long half = width / 2;
    const float scale = norm ? head_inverse_rms(x, eps, width) : 1.0f;
    for (long j = 0; j < half; j += 16) {
        const long n = half - j;
        Floats first = widen_16(load_16(x + j, n)), second = widen_16(load_16(x + j + half, n));
        if (norm) {
            first = load_16(norm + j, n) * (first * scale);
            second = load_16(norm + j + half, n) * (second * scale);
        }
        store_16(out + j, narrow_16(first * load_16(cos + j, n) - second * load_16(sin + j, n)), n);
        store_16(out + j + half, narrow_16(second * load_16(cos + j + half, n) + first * load_16(sin + j + half, n)), n);
    }
}
