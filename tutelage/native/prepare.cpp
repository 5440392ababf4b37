// What the process needs before any kernel runs: leave to use the tile registers, and memory that is kept.
#if defined(__GLIBC__) || defined(__linux__)
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#include <cstdint>
#include <cstdlib>

// A pass frees and takes the same hundreds of megabytes again and again. Freed memory stays with the process, since new
// pages cost more than what is computed on them, and the next gigabyte and a half is asked for in pages of 2 MiB, since
// with small ones the walk to a page costs more than the read. Nothing is used before it is needed, and `malloc_trim`
// still gives all of it back.
#if defined(__GLIBC__)
static void keep_memory() {
    mallopt(M_MMAP_MAX, 0);
    mallopt(M_TRIM_THRESHOLD, 0x7fffffff);
    const long size = 1536L << 20, page = 4096;  // well below the threshold, so that `free` does not trim it
    if (char* piece = (char*)std::malloc(size)) {
        madvise((void*)(((uintptr_t)piece + page - 1) / page * page), size - 2 * page, MADV_HUGEPAGE);
        std::free(piece);
    }
}
#else
static void keep_memory() {}
#endif

// Without this leave, the first use of a tile register ends the process. 0 = granted.
#if defined(__AMX_BF16__) && defined(__linux__)
static int ask_for_tiles() { return int(syscall(SYS_arch_prctl, 0x1023, 18)); }  // ARCH_REQ_XCOMP_PERM, tile data
#else
static int ask_for_tiles() { return 0; }
#endif

// 0 = ready.
extern "C" int prepare() {
    if (ask_for_tiles() != 0) return 1;
    keep_memory();
    return 0;
}
