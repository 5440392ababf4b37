// The gradient of a linear layer's weight: grad^T x, summed in float32 and written so, where torch would round it to bf16
// for each microbatch.
//
// A part is some of the rows of the result, so the number of threads changes no bit.
#include "crew.h"
#include "tile.h"

static const long TOKENS = 512, ROWS = 256;  // at most taken together, so that what is at work stays in the cache

// A copy of the last n rows, which lie `step` numbers apart, with rows of zeros below them: 32 in all.
static const bf16* zero_padded(bf16* buffer, const bf16* x, long step, long n, long columns) {
    for (long i = 0; i < n; i++) std::memcpy(buffer + i * columns, x + i * step, columns * sizeof(bf16));
    std::memset(buffer + n * columns, 0, (32 - n) * columns * sizeof(bf16));
    return buffer;
}

// Rows `first` to `end` of the result.
static void some_rows(const bf16* grad, long step, const bf16* x, float* out, long n, long rows, long columns, bool add,
                      long first, long end) {
    const long block = TOKENS * 16 + 32, widest = rows > columns ? rows : columns;
    scratch.reset((ROWS * apart(TOKENS) + columns / 16 * block + 2 * 32 * widest) * 2 + 1024);
    bf16 *left = scratch.take<bf16>(ROWS * apart(TOKENS)), *right = scratch.take<bf16>(columns / 16 * block);
    bf16 *last_x = scratch.take<bf16>(32 * widest), *last_grad = scratch.take<bf16>(32 * widest);
    for (long token = 0; token < n; token += TOKENS) {
        const long k = n - token < TOKENS ? n - token : TOKENS, even = k & ~31L, whole = padded(k);
        const bf16 *g = grad + token * step, *y = x + token * columns;
        pair_rows(right, block, y, columns, even, columns);
        if (even < whole)
            pair_rows(right + even * 16, block, zero_padded(last_x, y + even * columns, columns, k - even, columns), columns,
                      32, columns);
        if (even < whole) zero_padded(last_grad, g + even * step, step, k - even, rows);
        for (long r = first; r < end; r += ROWS) {
            const long m = end - r < ROWS ? end - r : ROWS;
            transpose(left, apart(TOKENS), g + r, step, even, m);
            if (even < whole) transpose(left + even, apart(TOKENS), last_grad + r, rows, 32, m);
            product(out + r * columns, columns, left, apart(TOKENS), right, block, m, columns, whole, add || token > 0);
        }
    }
}

extern "C" {

// grad[n, rows], its rows `step` numbers apart, and x[n, columns] in bf16 -> out[rows, columns] float32, added to what is
// there if asked; rows and columns are multiples of 32.
void weight_gradient(const bf16* grad, long step, const bf16* x, float* out, long n, long rows, long columns, int add,
                     int n_threads) {
    // Each part pairs all of x for itself; two a thread, so that one that is held up does less, only where that is little.
    const long twice = rows >= 2 * n_threads * ROWS ? 2 : 1, wanted = n_threads > 1 ? twice * n_threads : 1;
    const long blocks = rows / 32, parts = wanted < blocks ? wanted : blocks;
    share(parts, n_threads, [&](long part) {
        some_rows(grad, step, x, out, n, rows, columns, add, blocks * part / parts * 32, blocks * (part + 1) / parts * 32);
    });
}
}
