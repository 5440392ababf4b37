// Numbers: bf16 and float32, and an exponential that vectorises. Shared by all kernels.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

typedef uint16_t bf16;

static inline float bits_to_float(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t float_to_bits(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

static inline float widen(bf16 x) { return bits_to_float(uint32_t(x) << 16); }

// Rounds to the nearest, ties to even, as torch does. The NaN that arithmetic gives stays NaN, so a broken loss is seen.
static inline bf16 narrow(float x) {
    uint32_t bits = float_to_bits(x);
    return bf16((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The same for n numbers; the processor's own instruction takes numbers below 2^-126 for 0.
static inline void narrow_all(bf16* out, const float* x, long n) {
#if defined(__AVX512BF16__)
    for (long j = 0; j < n; j += 16) {
        const __mmask16 some = n - j < 16 ? __mmask16((1u << (n - j)) - 1) : __mmask16(0xffff);
        _mm256_mask_storeu_epi16(out + j, some, (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(some, x + j)));
    }
#else
#pragma omp simd
    for (long j = 0; j < n; j++) out[j] = narrow(x[j]);
#endif
}

// e^x for x up to 88, to 1e-6 of itself above e^-15; 0 below e^-88. NaN stays NaN.
static inline float fast_exp(float x) {
    float power = x * 1.44269504f;  // of 2
    float inside = power < -127.0f ? -127.0f : power;  // where the exponent's bits become 0, and so the result
    float shifted = inside + 12583039.0f;  // 1.5 * 2^23 + 127: rounds, and leaves the exponent's bits at the end
    float rest = inside - (shifted - 12583039.0f);
    float p = 1.537070482e-4f;
    p = p * rest + 1.339984829e-3f;
    p = p * rest + 9.618373251e-3f;
    p = p * rest + 5.550329035e-2f;
    p = p * rest + 2.402264846e-1f;
    p = p * rest + 6.931472056e-1f;
    p = p * rest + 1.0f;
    return p * bits_to_float(float_to_bits(shifted) << 23);
}

// 1 / (1 + e^-x), without an exponent above 0.
static inline float sigmoid(float x) {
    const float small = fast_exp(x < 0.0f ? x : -x);
    return (x < 0.0f ? small : 1.0f) / (1.0f + small);
}
