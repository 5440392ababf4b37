// The gradient of a linear layer's weight: grad^T x, summed in float32 and written so, where torch would round it to bf16
// for each microbatch.
//
// A thread takes a part of the rows of the result, so the number of threads changes no bit.
#include "tile.h"

static const long TOKENS = 256, ROWS = 256;  // at most taken together, so that what is at work stays in the cache

// A copy of the last rows with rows of zeros below them.
static const bf16* zero_padded(bf16* buffer, const bf16* x, long n, long rows, long columns) {
    std::memcpy(buffer, x, n * columns * sizeof(bf16));
    std::memset(buffer + n * columns, 0, (rows - n) * columns * sizeof(bf16));
    return buffer;
}

extern "C" {

// grad[n, rows] and x[n, columns] in bf16 -> out[rows, columns] float32, added to what is there if asked; rows and
// columns are multiples of 32.
void weight_gradient(const bf16* grad, const bf16* x, float* out, long n, long rows, long columns, int add,
                     int n_threads) {
    const long least = (rows + ROWS - 1) / ROWS, parts = least > n_threads ? least : n_threads;
    const long block = TOKENS * 16 + 32, widest = rows > columns ? rows : columns;
#pragma omp parallel num_threads(n_threads)
    {
        Tiles tiles;
        scratch.reset((ROWS * apart(TOKENS) + columns / 16 * block + TOKENS * widest) * 2 + 1024);
        bf16 *left = scratch.take<bf16>(ROWS * apart(TOKENS)), *right = scratch.take<bf16>(columns / 16 * block);
        bf16* buffer = scratch.take<bf16>(TOKENS * widest);
        for (long token = 0; token < n; token += TOKENS) {
            const long k = n - token < TOKENS ? n - token : TOKENS, whole = padded(k);
            const bf16 *g = grad + token * rows, *y = x + token * columns;
            pair_rows(right, block, k == whole ? y : zero_padded(buffer, y, k, whole, columns), columns, whole, columns);
            if (k < whole) g = zero_padded(buffer, g, k, whole, rows);
#pragma omp for schedule(static)
            for (long part = 0; part < parts; part++) {
                const long first = rows / 32 * part / parts * 32, m = rows / 32 * (part + 1) / parts * 32 - first;
                transpose(left, apart(TOKENS), g + first, rows, whole, m);
                product(out + first * columns, columns, left, apart(TOKENS), right, block, m, columns, whole,
                        add || token > 0);
            }
        }
    }
}
}
