// The threads behind `share`. They hold up nobody: a thread that waits spins for a moment, then gives its core away, and
// the caller waits only for parts that a thread has begun. So a neighbour who takes a core costs that core, not more,
// where a fork-join pool would wait for the sleeping thread at every step.
//
// One word says all about the work at hand: its number, how many threads may take part, the next part, how many there
// are. A part is taken by adding one to the word, so nobody can take a part of work that is over.
#include "crew.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "tile.h"

namespace {

const long SPINS = 1000;  // pauses before a thread gives its core away, some 50 us
const int BITS = 20;      // of the next part, and of the number of parts
const long MOST_PARTS = 1L << BITS;

void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

uint64_t number(uint64_t word) { return word >> (2 * BITS + 8); }
int allowed(uint64_t word) { return int(word >> (2 * BITS) & 0xff); }
long next(uint64_t word) { return long(word >> BITS & (MOST_PARTS - 1)); }
long parts_of(uint64_t word) { return long(word & (MOST_PARTS - 1)); }

struct Crew {
    std::atomic<uint64_t> word{0};
    std::atomic<long> done{0};
    std::atomic<bool> is_busy{false};
    std::atomic<int> n_asleep{0};
    Work work = nullptr;  // this and `what` stand still from the first part's beginning to the last one's end
    void* what = nullptr;
    int n_workers = 0;  // besides the caller; changed by the caller alone
    std::mutex door;
    std::condition_variable bell;

    // Takes parts of this work until none is left.
    void take(uint64_t of) {
        Tiles tiles;
        uint64_t now = word.load();
        while (number(now) == of && next(now) < parts_of(now))
            if (word.compare_exchange_weak(now, now + uint64_t(MOST_PARTS))) {
                work(what, next(now));
                done.fetch_add(1);
                now = word.load();
            }
    }

    // A worker's life: index counts from 1, the caller is 0.
    void serve(int index) {
        uint64_t last = 0;
        for (;;) {
            for (long i = 0; i < SPINS && number(word.load()) == last; i++) rest();
            if (number(word.load()) == last) {
                std::unique_lock<std::mutex> lock(door);
                n_asleep.fetch_add(1);
                bell.wait(lock, [&] { return number(word.load()) != last; });
                n_asleep.fetch_sub(1);
            }
            const uint64_t now = word.load();
            last = number(now);
            if (index < allowed(now)) take(last);
        }
    }

    void run(long parts, int n_threads, Work new_work, void* new_what) {
        for (; n_workers < n_threads - 1; n_workers++) std::thread(&Crew::serve, this, n_workers + 1).detach();
        work = new_work;
        what = new_what;
        done.store(0);
        const uint64_t of = (number(word.load()) + 1) & 0xffff;
        word.store(of << (2 * BITS + 8) | uint64_t(n_threads) << (2 * BITS) | uint64_t(parts));
        if (n_asleep.load()) {
            std::lock_guard<std::mutex> lock(door);
            bell.notify_all();
        }
        take(of);
        for (long i = 0; done.load() < parts; i++)
            if (i < SPINS)
                rest();
            else
                sched_yield();
    }
};

Crew* crew = new Crew;  // never taken down: threads may wait in it when the process ends

// A child has the memory of its parent but not its threads.
const int with_forks = pthread_atfork(nullptr, nullptr, [] { crew = new Crew; });

}  // namespace

void share(long parts, int n_threads, Work work, void* what) {
    bool is_free = false;
    n_threads = n_threads < 255 ? n_threads : 255;
    if (n_threads > 1 && parts > 1 && parts < MOST_PARTS && crew->is_busy.compare_exchange_strong(is_free, true)) {
        crew->run(parts, n_threads < parts ? n_threads : int(parts), work, what);
        crew->is_busy.store(false);
        return;
    }
    Tiles tiles;  // alone: little to do, or another thread of this process has the crew
    for (long part = 0; part < parts; part++) work(what, part);
}
