// Kernels that take one row at a time. Each equals a function of plain.py, which says the same in plain torch:
//
//   norm_forward      rms_norm or, with a bias, layer_norm of x + y, and what of each row the backward pass needs
//   norm_backward     its gradient: of x + y (on top of what flows past the layer), of the weight and of the bias
//
// Sums over rows are kept for each part of the rows and joined by the caller, so the number of threads changes no bit.
#include "crew.h"
#include "norm.h"

static const long ROWS = 64;  // of a part

// One row of norm_backward; slope[d] holds the gradient of the normed row, and that of the sum afterwards. grad_bias: null
// without a bias.
static void norm_row_backward(float* slope, const float* past, const float* x, float scale, float mean, const float* weight,
                              bf16* half, float* grad_weight, float* grad_bias, long d) {
    float along = 0, level = 0;
    if (grad_bias) {
#pragma omp simd reduction(+ : level)
        for (long j = 0; j < d; j++) {
            grad_bias[j] += slope[j];
            level += slope[j] * weight[j];
        }
        level /= float(d);
    }
#pragma omp simd reduction(+ : along)
    for (long j = 0; j < d; j++) {
        grad_weight[j] += slope[j] * ((x[j] - mean) * scale);
        slope[j] *= weight[j];
        along += slope[j] * (x[j] - mean);
    }
    along *= scale * scale / float(d);
    if (past) {
#pragma omp simd
        for (long j = 0; j < d; j++) slope[j] = past[j] + scale * (slope[j] - level - (x[j] - mean) * along);
    } else {
#pragma omp simd
        for (long j = 0; j < d; j++) slope[j] = scale * (slope[j] - level - (x[j] - mean) * along);
    }
    narrow_all(half, slope, d);
}

extern "C" {

// x[n, d] float32, y[n, d] bf16 or null -> sum = x + y float32 (unless null), h bf16 (unless null), wide float32 (unless
// null), inverse[n] = 1 / rms about mean[n].
void norm_forward(const float* x, const bf16* y, const float* weight, const float* bias, float eps, float* sum, bf16* h,
                  float* wide, float* inverse, float* mean, long n, long d, int n_threads) {
    const Norm norm = {weight, bias, eps};
    share((n + ROWS - 1) / ROWS, n_threads, [&](long part) {
        for (long i = part * ROWS; i < n && i < (part + 1) * ROWS; i++)
            norm_row(x + i * d, y ? y + i * d : nullptr, norm, y ? sum + i * d : nullptr, h ? h + i * d : nullptr,
                     wide ? wide + i * d : nullptr, inverse + i, mean + i, d);
    });
}

// grad_h[n, d] (bf16, or float32 in grad_wide; the other is null), past[n, d] float32 or null: what flows past the norm.
// -> grad[n, d] float32 and half[n, d] bf16, the same rounded; grad_weight[parts, d] and grad_bias[parts, d] (null without
// a bias), sums of each part's rows.
void norm_backward(const bf16* grad_h, const float* grad_wide, const float* past, const float* x, const float* inverse,
                   const float* mean, const float* weight, float* grad, bf16* half, float* grad_weight, float* grad_bias,
                   long n, long d, long parts, int n_threads) {
    share(parts, n_threads, [&](long part) {
        float *total = grad_weight + part * d, *level = grad_bias ? grad_bias + part * d : nullptr;
        std::memset(total, 0, d * 4);
        if (level) std::memset(level, 0, d * 4);
        for (long i = n * part / parts; i < n * (part + 1) / parts; i++) {
            float* slope = grad + i * d;
            if (grad_h) {
#pragma omp simd
                for (long j = 0; j < d; j++) slope[j] = widen(grad_h[i * d + j]);
            } else {
                std::memcpy(slope, grad_wide + i * d, d * 4);
            }
            norm_row_backward(slope, past ? past + i * d : nullptr, x + i * d, inverse[i], mean[i], weight, half + i * d,
                              total, level, d);
        }
    });
}
}
