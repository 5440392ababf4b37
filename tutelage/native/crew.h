// Threads that share the parts of one piece of work: whoever is free takes the next part.
#pragma once

typedef void (*Work)(void* what, long part);

// Runs work(what, part) for each part, on at most n_threads threads of which the caller is one.
void share(long parts, int n_threads, Work work, void* what);

// The same with a function object. Parts may run in any order and at once, so each writes what no other part touches.
template <class F>
static inline void share(long parts, int n_threads, F&& f) {
    share(parts, n_threads, [](void* what, long part) { (*(F*)what)(part); }, (void*)&f);
}
