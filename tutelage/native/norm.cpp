// Kernels that take one row at a time. Each equals a function of plain.py, which says the same in plain torch:
//
//   norm_forward      rms_norm(x + y, weight), and 1 / rms of each row, which the backward pass needs
//   norm_backward     its gradient: of x + y (on top of what flows past the layer) and of the weight
//
// Rows are shared out among threads in equal, fixed parts; sums over rows are kept by thread and joined by the caller.
#include <cmath>

#include "number.h"

extern "C" {

// x[n, d] float32, y[n, d] bf16 or null -> sum = x + y float32 (unless null), h bf16 (unless null), wide float32 (unless
// null), inverse[n] = 1 / rms.
void norm_forward(const float* x, const bf16* y, const float* weight, float eps, float* sum, bf16* h, float* wide,
                  float* inverse, long n, long d, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const float* row = x + i * d;
        float square = 0;
        if (y) {
            const bf16* more = y + i * d;
            float* total = sum + i * d;
#pragma omp simd reduction(+ : square)
            for (long j = 0; j < d; j++) {
                float s = row[j] + widen(more[j]);
                total[j] = s;
                square += s * s;
            }
            row = total;
        } else {
#pragma omp simd reduction(+ : square)
            for (long j = 0; j < d; j++) square += row[j] * row[j];
        }
        float scale = 1.0f / std::sqrt(square / float(d) + eps);
        inverse[i] = scale;
        if (h) {
#pragma omp simd
            for (long j = 0; j < d; j++) h[i * d + j] = narrow(weight[j] * (row[j] * scale));
        }
        if (wide) {
#pragma omp simd
            for (long j = 0; j < d; j++) wide[i * d + j] = weight[j] * (row[j] * scale);
        }
    }
}

// grad_h[n, d] (bf16, or float32 in grad_wide; the other is null), past[n, d] float32 or null: what flows past the norm.
// -> grad[n, d] float32 and half[n, d] bf16, the same rounded; grad_weight[n_threads, d], sums of each thread's rows.
void norm_backward(const bf16* grad_h, const float* grad_wide, const float* past, const float* x, const float* inverse,
                   const float* weight, float* grad, bf16* half, float* grad_weight, long n, long d, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long part = 0; part < n_threads; part++) {
        float* total = grad_weight + part * d;
        float* slope = new float[d];
        for (long j = 0; j < d; j++) total[j] = 0;
        for (long i = n * part / n_threads; i < n * (part + 1) / n_threads; i++) {
            const float *row = x + i * d, scale = inverse[i];
            float along = 0;
            if (grad_h) {
#pragma omp simd
                for (long j = 0; j < d; j++) slope[j] = widen(grad_h[i * d + j]);
            } else {
                std::memcpy(slope, grad_wide + i * d, d * 4);
            }
#pragma omp simd reduction(+ : along)
            for (long j = 0; j < d; j++) {
                total[j] += slope[j] * (row[j] * scale);
                slope[j] *= weight[j];
                along += slope[j] * row[j];
            }
            along *= scale * scale / float(d);
            if (past) {
#pragma omp simd
                for (long j = 0; j < d; j++) slope[j] = past[i * d + j] + scale * (slope[j] - row[j] * along);
            } else {
#pragma omp simd
                for (long j = 0; j < d; j++) slope[j] = scale * (slope[j] - row[j] * along);
            }
            std::memcpy(grad + i * d, slope, d * 4);
#pragma omp simd
            for (long j = 0; j < d; j++) half[i * d + j] = narrow(slope[j]);
        }
        delete[] slope;
    }
}
}
