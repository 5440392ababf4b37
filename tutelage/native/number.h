// Numbers: bf16 and float32, and an exponential that vectorises. Shared by all kernels.
#pragma once
#include <cstdint>
#include <cstring>
#if defined(__AVX512F__)
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

// 16 numbers at once.
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Lanes __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));

static inline Floats widen_16(Halves x) {
#if defined(__AVX512F__)
    return (Floats)((Lanes)_mm512_cvtepu16_epi32((__m256i)x) << 16);  // which compilers do not find by themselves
#else
    return (Floats)(__builtin_convertvector(x, Lanes) << 16);
#endif
}

// As `narrow`; the processor's own instruction takes numbers below 2^-126 for 0.
static inline Halves narrow_16(Floats x) {
#if defined(__AVX512BF16__)
    return (Halves)_mm512_cvtneps_pbh((__m512)x);
#else
    const Lanes bits = (Lanes)x;
    return __builtin_convertvector((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, Halves);
#endif
}

// The first n of them, if there are not more, and zeros for the rest.
static inline Halves load_16(const bf16* x, long n) {
    if (n >= 16) return *(const Halves*)x;
    Halves some = {};
    std::memcpy(&some, x, n * sizeof(bf16));
    return some;
}

// The first n of them, if there are not more; what lies behind is left as it is.
static inline void store_16(bf16* out, Halves x, long n) {
    if (n >= 16)
        *(Halves*)out = x;
    else
        std::memcpy(out, &x, n * sizeof(bf16));
}

// The first n of them, if there are not more, and zeros for the rest.
static inline Floats load_16(const float* x, long n) {
    if (n >= 16) return *(const Floats*)x;
    Floats some = {};
    std::memcpy(&some, x, n * sizeof(float));
    return some;
}

// x[n] * by, rounded.
static inline void narrow_all(bf16* out, const float* x, long n, float by = 1.0f) {
    for (long j = 0; j < n; j += 16) store_16(out + j, narrow_16(load_16(x + j, n - j) * by), n - j);
}

static inline float largest_of(Floats x) {
    float most = x[0];
#pragma omp simd reduction(max : most)
    for (int l = 0; l < 16; l++) most = x[l] > most ? x[l] : most;
    return most;
}

static inline bool some_above(Floats x, float level) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(level), _CMP_GT_OQ);
#else
    return largest_of(x) > level;
#endif
}

static inline float sum_of(Floats x) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int l = 0; l < 16; l++) sum += x[l];
    return sum;
}

static inline float power_of_2(float shifted) { return bits_to_float(float_to_bits(shifted) << 23); }
static inline Floats power_of_2(Floats shifted) { return (Floats)((Lanes)shifted << 23); }

// The larger or the smaller of both; NaN stays NaN.
static inline float at_least(float low, float x) { return x < low ? low : x; }
static inline float at_most(float high, float x) { return x > high ? high : x; }
static inline Floats at_least(float low, Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_max_ps(_mm512_set1_ps(low), (__m512)x);  // of two, of which one is NaN, it takes the second
#else
    return x < low ? Floats{} + low : x;
#endif
}
static inline Floats at_most(float high, Floats x) {
#if defined(__AVX512F__)
    return (Floats)_mm512_min_ps(_mm512_set1_ps(high), (__m512)x);
#else
    return x > high ? Floats{} + high : x;
#endif
}

// e^x for x up to 88: to 3e-7 of itself near x = 0, to 1e-6 within 15 of it and 4e-6 at the ends; 0 below -88, and 1 of 0.
// NaN stays NaN. T: float or Floats.
template <class T>
static inline T fast_exp(T x) {
    const T inside = at_least(-127.0f, x * 1.44269504f);  // of 2; there the exponent's bits become 0, and so the result
    const T shifted = inside + 12583039.0f;  // 1.5 * 2^23 + 127: rounds, and leaves the exponent's bits at the end
    const T rest = inside - (shifted - 12583039.0f);
    T p = rest * 1.327647129e-3f + 9.675540961e-3f;  // the least relative error of its degree
    p = p * rest + 5.550712720e-2f;
    p = p * rest + 2.402211875e-1f;
    p = p * rest + 6.931469441e-1f;
    p = p * rest + 1.0f;
    return p * power_of_2(shifted);
}

static inline float reciprocal(float x) { return 1.0f / x; }

// A guess and one step of Newton's, to 1e-7 of itself: a division takes as long as an exponential.
static inline Floats reciprocal(Floats x) {
#if defined(__AVX512F__)
    const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
#else
    return 1.0f / x;
#endif
}

// 1 / (1 + e^-x), 0 below -87: behind it, the reciprocal would be too small a number for the processor's guess. T: float or
// Floats.
template <class T>
static inline T sigmoid(T x) {
    const T open = reciprocal(1.0f + fast_exp(at_most(87.0f, -x)));
    return x < -87.0f ? T{} : open;
}
