// One product of small matrices, spelled three ways: AMX tiles, AVX512 bf16 dot products, plain loops.
//
// C[M, N] = A[M, K] B[K, N] (added to C if asked), A and B in bf16, sums in float32; N and K are multiples of 32, M of
// ROW_STEP. A row of C depends on its row of A alone, to the bit, whatever M is.
// A lies row by row. B lies *paired*: columns in blocks of 16, and within a block the two numbers of rows 2k and 2k+1
// side by side, [N / 16][K / 2][16][2], since a bf16 dot product takes two numbers of the inner dimension at once.
#pragma once
#include <cstdlib>

#include "number.h"
#if defined(__AMX_BF16__) || defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// sum[l] + a[2 l] b[2 l] + a[2 l + 1] b[2 l + 1], for 16 pairs of bf16.
static inline Floats add_pairs(Floats sum, Lanes a, Lanes b) {
#if defined(__AVX512BF16__)
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
    return sum + (Floats)(a << 16) * (Floats)(b << 16) + (Floats)(a & 0xffff0000u) * (Floats)(b & 0xffff0000u);
#endif
}

// beside: called at each step, if at all. Tiles are multiplied while the processor does other work, which so takes no time.

#if defined(__AMX_BF16__)

static const long ROW_STEP = 16;  // the number of rows of A is a multiple of this

// The compiler does not know that tile instructions read memory: whatever was written before must be there by now.
static inline void settle(const void* x) { asm volatile("" : : "r"(x) : "memory"); }

// Holds the tile registers' shape while a kernel runs, and gives back what oneDNN had set.
struct Tiles {
    alignas(64) unsigned char before[64];
    Tiles() {
        _tile_storeconfig(before);
        alignas(64) unsigned char shape[64] = {1};
        for (int i = 0; i < 8; i++) {
            shape[16 + 2 * i] = 64;  // bytes a row
            shape[48 + i] = 16;      // rows
        }
        settle(shape);
        _tile_loadconfig(shape);
    }
    ~Tiles() { _tile_loadconfig(before); }
};

// 16 rows of A and 32 columns of B.
template <class F>
static inline void narrow_product(float* c, long c_row, const bf16* a, long a_row, const bf16* b, long b_block, long k,
                                  bool add, F& beside) {
    if (add) {
        _tile_loadd(0, c, c_row * 4);
        _tile_loadd(1, c + 16, c_row * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
    }
    for (long l = 0; l < k; l += 32) {
        beside();
        _tile_loadd(4, a + l, a_row * 2);
        _tile_loadd(6, b + l * 16, 64);
        _tile_loadd(7, b + b_block + l * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
    }
    _tile_stored(0, c, c_row * 4);
    _tile_stored(1, c + 16, c_row * 4);
}

// 32 rows of A and 32 columns of B.
template <class F>
static inline void wide_product(float* c, long c_row, const bf16* a, long a_row, const bf16* b, long b_block, long k,
                                bool add, F& beside) {
    if (add) {
        _tile_loadd(0, c, c_row * 4);
        _tile_loadd(1, c + 16, c_row * 4);
        _tile_loadd(2, c + 16 * c_row, c_row * 4);
        _tile_loadd(3, c + 16 * c_row + 16, c_row * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (long l = 0; l < k; l += 32) {
        beside();
        _tile_loadd(4, a + l, a_row * 2);
        _tile_loadd(5, a + 16 * a_row + l, a_row * 2);
        _tile_loadd(6, b + l * 16, 64);
        _tile_loadd(7, b + b_block + l * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, c, c_row * 4);
    _tile_stored(1, c + 16, c_row * 4);
    _tile_stored(2, c + 16 * c_row, c_row * 4);
    _tile_stored(3, c + 16 * c_row + 16, c_row * 4);
}

// b_block: numbers between two column blocks of B. a_row and c_row: numbers between two rows of A and of C.
template <class F>
static inline void product(float* c, long c_row, const bf16* a, long a_row, const bf16* b, long b_block, long m, long n, long k,
                           bool add, F beside) {
    settle(a);
    for (long i = 0; i < m; i += 32)
        for (long j = 0; j < n; j += 32)
            if (m - i >= 32)
                wide_product(c + i * c_row + j, c_row, a + i * a_row, a_row, b + j / 16 * b_block, b_block, k, add, beside);
            else
                narrow_product(c + i * c_row + j, c_row, a + i * a_row, a_row, b + j / 16 * b_block, b_block, k, add, beside);
    settle(c);
}

#else

static const long ROW_STEP = 4;

struct Tiles {
    Tiles() {}
    ~Tiles() {}
};

template <class F>
static inline void product(float* c, long c_row, const bf16* a, long a_row, const bf16* b, long b_block, long m, long n, long k,
                           bool add, F beside) {
    (void)beside;  // nothing works by itself here
    for (long i = 0; i < m; i += 4)
        for (long j = 0; j < n; j += 16) {
            Floats sum[4] = {};
            if (add)
                for (int r = 0; r < 4; r++) sum[r] = *(const Floats*)(c + (i + r) * c_row + j);
            for (long l = 0; l < k; l += 2)
                for (int r = 0; r < 4; r++) {
                    uint32_t two;
                    std::memcpy(&two, a + (i + r) * a_row + l, 4);
                    sum[r] = add_pairs(sum[r], Lanes{} + two, *(const Lanes*)(b + j / 16 * b_block + l * 16));
                }
            for (int r = 0; r < 4; r++) *(Floats*)(c + (i + r) * c_row + j) = sum[r];
        }
}

#endif

static inline void product(float* c, long c_row, const bf16* a, long a_row, const bf16* b, long b_block, long m, long n, long k,
                           bool add) {
    product(c, c_row, a, a_row, b, b_block, m, n, k, add, [] {});
}

#define UP_TO_8(F) F(0), F(1), F(2), F(3), F(4), F(5), F(6), F(7)
#define UP_TO_16(F) UP_TO_8(F), F(8), F(9), F(10), F(11), F(12), F(13), F(14), F(15)
#define UP_TO_32(F) \
    UP_TO_16(F), F(16), F(17), F(18), F(19), F(20), F(21), F(22), F(23), F(24), F(25), F(26), F(27), F(28), F(29), F(30), F(31)

// Swaps the corners of two rows that lie S apart: lane l of the first with lane l - S of the second where l has bit S.
template <int S>
static inline void swap_corners(Lanes* row) {
#define FIRST(l) ((l)&S ? 16 + (l)-S : (l))
#define SECOND(l) ((l)&S ? 16 + (l) : (l) + S)
    for (int i = 0; i < 16; i++)
        if (!(i & S)) {
            Lanes a = row[i], b = row[i + S];
            row[i] = __builtin_shufflevector(a, b, UP_TO_16(FIRST));
            row[i + S] = __builtin_shufflevector(a, b, UP_TO_16(SECOND));
        }
#undef FIRST
#undef SECOND
}

// A square of 16 x 16 words, transposed where it stands.
static inline void transpose_square(Lanes* row) {
    swap_corners<1>(row);
    swap_corners<2>(row);
    swap_corners<4>(row);
    swap_corners<8>(row);
}

typedef uint16_t Eight __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint16_t Words __attribute__((vector_size(64), aligned(2), may_alias));
typedef uint64_t Longs __attribute__((vector_size(64), aligned(2), may_alias));

// Below, A[rows, columns] has `step` numbers between two rows, and both counts are multiples of 32.

// A -> B, paired over its rows, with `block` numbers between two column blocks.
static inline void pair_rows(bf16* b, long block, const bf16* a, long step, long rows, long columns) {
#define LEFT(l) ((l) / 2 + (l) % 2 * 32)
#define RIGHT(l) (LEFT(l) + 16)
    for (long k = 0; k < rows; k += 2)
        for (long j = 0; j < columns; j += 32) {
            const Words upper = *(const Words*)(a + k * step + j), lower = *(const Words*)(a + (k + 1) * step + j);
            *(Words*)(b + j / 16 * block + k * 16) = __builtin_shufflevector(upper, lower, UP_TO_32(LEFT));
            *(Words*)(b + (j / 16 + 1) * block + k * 16) = __builtin_shufflevector(upper, lower, UP_TO_32(RIGHT));
        }
#undef LEFT
#undef RIGHT
}

// A -> B = A^T, paired over the columns of A, so that X A^T is a product; column blocks lie `columns` * 16 apart.
static inline void pair_columns(bf16* b, const bf16* a, long step, long rows, long columns) {
    Lanes row[16];
    for (long i = 0; i < rows; i += 16)
        for (long k = 0; k < columns; k += 32) {
            for (int l = 0; l < 16; l++) row[l] = *(const Lanes*)(a + (i + l) * step + k);  // a word is two neighbours
            transpose_square(row);
            for (int l = 0; l < 16; l++) *(Lanes*)(b + i * columns + (k + 2 * l) * 16) = row[l];
        }
}

// 8 numbers of each of four rows, 8 rows apart.
static inline Words four_rows(const bf16* a, long step) {
    Eight row[4];
    for (int i = 0; i < 4; i++) row[i] = *(const Eight*)(a + 8 * i * step);
#define AS_IT_IS(l) (l)
    const Halves upper = __builtin_shufflevector(row[0], row[1], UP_TO_16(AS_IT_IS));
    const Halves lower = __builtin_shufflevector(row[2], row[3], UP_TO_16(AS_IT_IS));
    return __builtin_shufflevector(upper, lower, UP_TO_32(AS_IT_IS));
#undef AS_IT_IS
}

// 32 rows and 8 columns of A -> 8 rows and 32 columns of A^T.
static inline void transpose_strip(bf16* out, long out_step, const bf16* a, long step) {
// Number l of those that two vectors give in turns, from the lower or the upper half of each 16 bytes of them. n: numbers in
// 16 bytes.
#define IN_TURNS(l, n, upper) ((l) / (n) * (n) + (l) % (n) / 2 + (upper) * (n) / 2 + (l) % 2 * 4 * (n))
#define LOW_1(l) IN_TURNS(l, 8, 0)
#define HIGH_1(l) IN_TURNS(l, 8, 1)
#define LOW_2(l) IN_TURNS(l, 4, 0)
#define HIGH_2(l) IN_TURNS(l, 4, 1)
#define LOW_4(l) IN_TURNS(l, 2, 0)
#define HIGH_4(l) IN_TURNS(l, 2, 1)
    Words row[8];  // 16 bytes of it are a row of 8 columns, then of two rows' 4 columns, of four rows' 2, of eight rows' 1
    Lanes two[8];
    Longs four[8];
    for (int i = 0; i < 8; i++) row[i] = four_rows(a + i * step, step);
    for (int i = 0; i < 8; i += 2) {
        two[i] = (Lanes)__builtin_shufflevector(row[i], row[i + 1], UP_TO_32(LOW_1));
        two[i + 1] = (Lanes)__builtin_shufflevector(row[i], row[i + 1], UP_TO_32(HIGH_1));
    }
    for (int i = 0; i < 8; i += 4)
        for (int l = 0; l < 2; l++) {
            four[i + 2 * l] = (Longs)__builtin_shufflevector(two[i + l], two[i + 2 + l], UP_TO_16(LOW_2));
            four[i + 2 * l + 1] = (Longs)__builtin_shufflevector(two[i + l], two[i + 2 + l], UP_TO_16(HIGH_2));
        }
    for (int c = 0; c < 4; c++) {
        *(Longs*)(out + 2 * c * out_step) = __builtin_shufflevector(four[c], four[4 + c], UP_TO_8(LOW_4));
        *(Longs*)(out + (2 * c + 1) * out_step) = __builtin_shufflevector(four[c], four[4 + c], UP_TO_8(HIGH_4));
    }
#undef IN_TURNS
#undef LOW_1
#undef HIGH_1
#undef LOW_2
#undef HIGH_2
#undef LOW_4
#undef HIGH_4
}

// A -> A^T[columns, rows], row by row, with `out_step` numbers between its rows.
static inline void transpose(bf16* out, long out_step, const bf16* a, long step, long rows, long columns) {
    for (long k = 0; k < rows; k += 32)
        for (long j = 0; j < columns; j += 8) transpose_strip(out + j * out_step + k, out_step, a + k * step + j, step);
}

static inline long padded(long n) { return (n + 31) / 32 * 32; }

// Numbers between two rows of n, so that rows at a distance of a power of two do not fight for one place in the cache.
static inline long apart(long n) { return n + 32; }

// Memory of one thread, kept from call to call. `take` cuts pieces off it; the caller knows how much it needs in all.
struct Scratch {
    char* start = nullptr;
    long size = 0, used = 0;
    void reset(long bytes) {
        if (bytes > size) {
            std::free(start);
            size = (bytes + 63) / 64 * 64;
            start = (char*)std::aligned_alloc(64, size);
        }
        used = 0;
    }
    template <class T>
    T* take(long n) {
        T* piece = (T*)(start + used);
        used += (n * long(sizeof(T)) + 63) / 64 * 64;
        return piece;
    }
    // Gives large memory back to the system.
    void drop_above(long bytes) {
        if (size <= bytes) return;
        std::free(start);
        start = nullptr;
        size = 0;
    }
    ~Scratch() { std::free(start); }
};

static thread_local Scratch scratch;
