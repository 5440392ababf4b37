// Kernels that take one row at a time. Each equals a function of plain.py, which says the same in plain torch:
//
//   norm_forward      rms_norm(x + y, weight), and 1 / rms of each row, which the backward pass needs
//   norm_backward     its gradient: of x + y (on top of what flows past the layer) and of the weight
//   gate_forward      silu(gate) * up
//   gate_backward     its gradient, and silu(gate) * up once more, so that it need not be kept
//   logp_forward      log-probability of a chosen token, logsumexp and entropy of each row of logits
//   logp_backward     the gradient of the log-probability, written over the logits
//
// Rows are shared out among threads in equal, fixed parts; sums over rows are kept by thread and joined by the caller.
#include <cmath>

#include "number.h"

// 1 / (1 + e^-x), without an exponent above 0.
static inline float sigmoid(float x) {
    const float small = fast_exp(x < 0.0f ? x : -x);
    return (x < 0.0f ? small : 1.0f) / (1.0f + small);
}

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

// gate_up[n, 2 f] bf16: gates, then ups -> out[n, f] bf16.
void gate_forward(const bf16* gate_up, bf16* out, long n, long f, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const bf16 *gate = gate_up + i * 2 * f, *up = gate + f;
#pragma omp simd
        for (long j = 0; j < f; j++) {
            float g = widen(gate[j]);
            out[i * f + j] = narrow(g * sigmoid(g) * widen(up[j]));
        }
    }
}

// grad[n, f] bf16 -> grad_gate_up[n, 2 f] bf16, and out[n, f] bf16 as the forward pass gave it.
void gate_backward(const bf16* grad, const bf16* gate_up, bf16* grad_gate_up, bf16* out, long n, long f, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const bf16 *gate = gate_up + i * 2 * f, *up = gate + f, *slope = grad + i * f;
        bf16 *grad_gate = grad_gate_up + i * 2 * f, *grad_up = grad_gate + f;
#pragma omp simd
        for (long j = 0; j < f; j++) {
            float g = widen(gate[j]), u = widen(up[j]), s = widen(slope[j]);
            float open = sigmoid(g), silu = g * open;
            out[i * f + j] = narrow(silu * u);
            grad_up[j] = narrow(s * silu);
            grad_gate[j] = narrow(s * u * (open + silu * (1.0f - open)));
        }
    }
}

// logits[n, v] bf16, token[n] -> logp[n], norm[n] = logsumexp of logits * inverse_temperature, entropy[n] unless null.
void logp_forward(const bf16* logits, const int64_t* token, float inverse_temperature, float* logp, float* norm,
                  float* entropy, long n, long v, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long i = 0; i < n; i++) {
        const bf16* row = logits + i * v;
        float top = -INFINITY, sum = 0, mean = 0;
#pragma omp simd reduction(max : top)
        for (long j = 0; j < v; j++) top = widen(row[j]) > top ? widen(row[j]) : top;
        if (entropy) {
#pragma omp simd reduction(+ : sum, mean)
            for (long j = 0; j < v; j++) {
                float below = (widen(row[j]) - top) * inverse_temperature;
                float weight = fast_exp(below);
                sum += weight;
                mean += weight > 0 ? weight * below : 0.0f;  // 0 x -inf of a forbidden token is 0
            }
            entropy[i] = std::log(sum) - mean / sum;
        } else {
#pragma omp simd reduction(+ : sum)
            for (long j = 0; j < v; j++) sum += fast_exp((widen(row[j]) - top) * inverse_temperature);
        }
        norm[i] = top * inverse_temperature + std::log(sum);
        logp[i] = (widen(row[token[i]]) - top) * inverse_temperature - std::log(sum);
    }
}

// Over the logits: grad[i] * inverse_temperature * (onehot(token) - softmax), bf16.
void logp_backward(bf16* logits, const int64_t* token, const float* norm, const float* grad, float inverse_temperature,
                   long n, long v, int n_threads) {
#pragma omp parallel for num_threads(n_threads) schedule(static)
    for (long i = 0; i < n; i++) {
        bf16* row = logits + i * v;
        float slope = grad[i] * inverse_temperature, below = norm[i];
        float chosen = slope * (1.0f - fast_exp(widen(row[token[i]]) * inverse_temperature - below));
#pragma omp simd
        for (long j = 0; j < v; j++) row[j] = narrow(-slope * fast_exp(widen(row[j]) * inverse_temperature - below));
        row[token[i]] = narrow(chosen);
    }
}
}
