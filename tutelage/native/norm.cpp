// Kernels that take one row at a time. Each equals a function of plain.py, which says the same in plain torch:
//
//   norm_forward      rms_norm(x + y, weight), and 1 / rms of each row, which the backward pass needs
//   norm_backward     its gradient: of x + y (on top of what flows past the layer) and of the weight
//
// Sums over rows are kept for each part of the rows and joined by the caller, so the number of threads changes no bit.
#include <cmath>

#include "crew.h"
#include "number.h"

static const long ROWS = 64;   // of a part
static const long CHUNK = 64;  // numbers computed before they are rounded

// One row of norm_forward.
static void norm_row(const float* x, const bf16* y, const float* weight, float eps, float* sum, bf16* h, float* wide,
                     float* inverse, long d) {
    float square = 0;
    if (y) {
#pragma omp simd reduction(+ : square)
        for (long j = 0; j < d; j++) {
            float s = x[j] + widen(y[j]);
            sum[j] = s;
            square += s * s;
        }
        x = sum;
    } else {
#pragma omp simd reduction(+ : square)
        for (long j = 0; j < d; j++) square += x[j] * x[j];
    }
    const float scale = 1.0f / std::sqrt(square / float(d) + eps);
    *inverse = scale;
    for (long first = 0; h && first < d; first += CHUNK) {
        float normed[CHUNK];
        const long count = d - first < CHUNK ? d - first : CHUNK;
#pragma omp simd
        for (long j = 0; j < count; j++) normed[j] = weight[first + j] * (x[first + j] * scale);
        narrow_all(h + first, normed, count);
    }
    if (wide) {
#pragma omp simd
        for (long j = 0; j < d; j++) wide[j] = weight[j] * (x[j] * scale);
    }
}

// One row of norm_backward; slope[d] holds the gradient of the normed row, and that of the sum afterwards.
static void norm_row_backward(float* slope, const float* past, const float* x, float scale, const float* weight,
                              bf16* half, float* grad_weight, long d) {
    float along = 0;
#pragma omp simd reduction(+ : along)
    for (long j = 0; j < d; j++) {
        grad_weight[j] += slope[j] * (x[j] * scale);
        slope[j] *= weight[j];
        along += slope[j] * x[j];
    }
    along *= scale * scale / float(d);
    if (past) {
#pragma omp simd
        for (long j = 0; j < d; j++) slope[j] = past[j] + scale * (slope[j] - x[j] * along);
    } else {
#pragma omp simd
        for (long j = 0; j < d; j++) slope[j] = scale * (slope[j] - x[j] * along);
    }
    narrow_all(half, slope, d);
}

extern "C" {

// x[n, d] float32, y[n, d] bf16 or null -> sum = x + y float32 (unless null), h bf16 (unless null), wide float32 (unless
// null), inverse[n] = 1 / rms.
void norm_forward(const float* x, const bf16* y, const float* weight, float eps, float* sum, bf16* h, float* wide,
                  float* inverse, long n, long d, int n_threads) {
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        for (long i = part * ROWS; i < n && i < (part + 1) * ROWS; i++)
            norm_row(x + i * d, y ? y + i * d : nullptr, weight, eps, y ? sum + i * d : nullptr, h ? h + i * d : nullptr,
                     wide ? wide + i * d : nullptr, inverse + i, d);
    });
}

// grad_h[n, d] (bf16, or float32 in grad_wide; the other is null), past[n, d] float32 or null: what flows past the norm.
// -> grad[n, d] float32 and half[n, d] bf16, the same rounded; grad_weight[parts, d], sums of each part's rows.
void norm_backward(const bf16* grad_h, const float* grad_wide, const float* past, const float* x, const float* inverse,
                   const float* weight, float* grad, bf16* half, float* grad_weight, long n, long d, long parts,
                   int n_threads) {
    share(parts, n_threads, [&](long part) {
        float* total = grad_weight + part * d;
        std::memset(total, 0, d * 4);
        for (long i = n * part / parts; i < n * (part + 1) / parts; i++) {
            float* slope = grad + i * d;
            if (grad_h) {
#pragma omp simd
                for (long j = 0; j < d; j++) slope[j] = widen(grad_h[i * d + j]);
            } else {
                std::memcpy(slope, grad_wide + i * d, d * 4);
            }
            norm_row_backward(slope, past ? past + i * d : nullptr, x + i * d, inverse[i], weight, half + i * d, total, d);
        }
    });
}
}
