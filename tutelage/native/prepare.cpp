// Before any kernel runs: the system's leave to use the tile registers.
#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

// Without it, the first use of a tile register ends the process. 0 = granted.
extern "C" int prepare() { return int(syscall(SYS_arch_prctl, 0x1023, 18)); }  // ARCH_REQ_XCOMP_PERM, tile data
#else
extern "C" int prepare() { return 0; }
#endif
