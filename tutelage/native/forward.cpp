// Whole sequences through a whole decoder, where nobody asks for a gradient. Equals, to the bit, what layer.py makes of the
// kernels of one step each:
//
//   forward    embedding, the layers (norm, projections, attention within each sequence, MLP), last norm -> hidden states,
//              and, if asked, keys and values in the slots in which the sequences then go on. A slot may hold those of what
//              its sequence begins with: then the rows are the others
//
// A thread takes a few sequences through all layers by itself, so that what one step writes is still near when the next
// one reads it. Where they cannot be dealt out evenly, all threads go through the layers together and deal out rows.
#include <algorithm>
#include <vector>

#include "attention.h"
#include "decoder.h"

static const long NEAR_ROWS = 256;  // that stay near while they go through a layer's steps, for which its weights are read
static const long MOST_KEPT = 32 << 20;  // bytes of what a thread works in that it keeps for the next pass
static const double EVEN = 1.2;     // times its share of rows: the most that a thread should get

// Sequence b holds the rows start[b] to start[b + 1]; trunk and own as in attention.cpp.
struct Packed {
    const int64_t *token, *position, *start, *trunk, *own;
    long n_sequences;
};

// The rows that anything reads behind attention of the last layer, in order; n below 0: all.
struct Chosen {
    const int64_t* row;
    long n;
};

// Which sequences go on in slots: b in slot[from[b]] to slot[from[b + 1]], of which the first holds `after` tokens of it.
struct Going {
    const int64_t *from, *slot;
    long after;
};

// What a pass reads and where it writes: hidden[chosen rows, width] float32; slots may be null.
struct Pass {
    Decoder m;
    Packed packed;
    Chosen chosen;
    Going going;
    const Slots* slots;
    float* hidden;
};

static thread_local Scratch hall;  // of the sequences that a thread, or all together, take through the layers
static thread_local Scratch room;  // of rows that one thread takes through some steps

// Rows of a part: fewer than stay near where the threads would not get some each, and one that is held up does fewer.
static long part_of(long n, int n_threads) {
    const long wanted = std::max(n_threads > 1 ? 2L * n_threads : 1L, (n + NEAR_ROWS - 1) / NEAR_ROWS);
    return std::max(FEW, ((n + wanted - 1) / wanted + FEW - 1) / FEW * FEW);
}

// work(rows, the first of them) for parts of these rows, each with room of its own for what is not kept between the steps.
template <class F>
static void each_part(const Decoder& m, const Rows& rows, int n_threads, F work) {
    const long in = padded(m.width), o = padded(m.heads * m.head_width), step = padded(m.inner), most = part_of(rows.n, n_threads);
    share((rows.n + most - 1) / most, n_threads, [&](long part) {
        const long first = part * most, n = std::min(most, rows.n - first);
        room.reset(most * (in + step) * sizeof(bf16) + 128);
        bf16 *h = room.take<bf16>(most * in), *gated = room.take<bf16>(most * step);
        if (in > m.width) std::memset(h, 0, most * in * sizeof(bf16));
        if (step > m.inner) std::memset(gated, 0, most * step * sizeof(bf16));
        work(Rows{n, rows.x + first * m.width, h, rows.qkv + first * m.columns(), rows.attended + first * o, gated}, first);
    });
}

// Attention of layer l within the sequences `first` to `end`, whose rows these are.
static void attend(const Pass& pass, long l, long first, long end, const Rows& rows, int n_threads) {
    const Decoder& m = pass.m;
    const Packed& p = pass.packed;
    const long o = padded(m.heads * m.head_width), w = padded(m.head_width);
    const Shape shape = {m.heads, m.groups, m.head_width, m.scale, m.head_eps, m.cos, m.sin, m.layer[l].q_norm,
                         m.layer[l].k_norm};
    share((end - first) * m.groups, n_threads, [&](long task) {
        const long b = first + task / m.groups, g = task % m.groups, start = p.start[b], at = start - p.start[first];
        const long after = pass.going.after, count = p.start[b + 1] - start;
        const Sight sight = {p.position + start - after, p.own + start - after, after + count, p.trunk[b], after};
        const int64_t *slot = nullptr, *last = nullptr;
        if (pass.slots) slot = pass.going.slot + pass.going.from[b], last = pass.going.slot + pass.going.from[b + 1];
        const bool goes_on = slot < last;
        bf16* keys = goes_on ? pass.slots->keys[l] + pass.slots->start(*slot, g, m) : nullptr;
        bf16* values = goes_on ? pass.slots->values[l] + pass.slots->start(*slot, g, m) : nullptr;
        forward_task(rows.qkv + at * shape.row(), shape, sight, g, rows.attended + at * o, o, nullptr, keys, values);
        for (const int64_t* other = slot + 1; goes_on && other < last; other++) {
            std::memcpy(pass.slots->keys[l] + pass.slots->start(*other, g, m), keys, sight.n * w * sizeof(bf16));
            std::memcpy(pass.slots->values[l] + pass.slots->start(*other, g, m), values, sight.n * w * sizeof(bf16));
        }
    });
}

// Moves the chosen ones of the rows, of which the first is row `start` of the pass, to the front.
static void gather(const Decoder& m, Rows& rows, const int64_t* row, long n, long start) {
    const long d = m.width, o = padded(m.heads * m.head_width);
    for (long i = 0; i < n; i++) {
        std::memmove(rows.x + i * d, rows.x + (row[i] - start) * d, d * 4);
        std::memmove(rows.attended + i * o, rows.attended + (row[i] - start) * o, o * sizeof(bf16));
    }
    rows.n = n;
}

// hidden[rows] = norm(x), float32.
static void close(const Decoder& m, const Rows& rows, float* hidden) {
    const Norm norm = {m.last_norm, m.last_bias, m.eps};
    float inverse, mean;
    for (long i = 0; i < rows.n; i++)
        norm_row(rows.x + i * m.width, nullptr, norm, nullptr, nullptr, hidden + i * m.width, &inverse, &mean, m.width);
}

// The sequences `first` to `end` through all layers.
static void run(const Pass& pass, long first, long end, int n_threads) {
    const Decoder& m = pass.m;
    const long start = pass.packed.start[first], n = pass.packed.start[end] - start, whole = whole_steps(n);
    const long d = m.width, o = padded(m.heads * m.head_width);
    hall.reset(whole * (d * 4 + (o + m.columns()) * sizeof(bf16)) + 256);
    Rows rows = {n, hall.take<float>(whole * d), nullptr, hall.take<bf16>(whole * m.columns()), hall.take<bf16>(whole * o),
                 nullptr};
    if (o > m.heads * m.head_width) std::memset(rows.attended, 0, whole * o * sizeof(bf16));
    each_part(m, rows, n_threads, [&](const Rows& part, long row) {
        embed(m, pass.packed.token + start + row, pass.packed.position + start + row, part);
        open_layer(m, 0, part, 1);
    });
    for (long l = 0; l + 1 < m.layers; l++) {
        attend(pass, l, first, end, rows, n_threads);
        each_part(m, rows, n_threads, [&](const Rows& part, long) {
            close_layer(m, l, part, 1);
            open_layer(m, l + 1, part, 1);
        });
    }
    attend(pass, m.layers - 1, first, end, rows, n_threads);
    long out = start;
    if (pass.chosen.n >= 0) {
        const int64_t *all = pass.chosen.row, *from = std::lower_bound(all, all + pass.chosen.n, start);
        out = from - all;
        gather(m, rows, from, std::lower_bound(from, all + pass.chosen.n, start + n) - from, start);
    }
    each_part(m, rows, n_threads, [&](const Rows& part, long row) {
        close_layer(m, m.layers - 1, part, 1);
        close(m, part, pass.hidden + (out + row) * d);
    });
    hall.drop_above(MOST_KEPT);
}

// Borders between at most `n_runs` runs of whole sequences, as even as their lengths allow.
static std::vector<long> runs_of(const Packed& packed, long n_runs) {
    const long n = packed.start[packed.n_sequences];
    std::vector<long> border = {0};
    for (long b = 1; b <= packed.n_sequences; b++)
        if (packed.start[b] * n_runs >= n * long(border.size())) border.push_back(b);
    return border;
}

// The most rows that one of the threads gets if each takes the next run as soon as it is free.
static long most_rows(const Packed& packed, const std::vector<long>& border, int n_threads) {
    std::vector<long> load(n_threads);
    for (size_t i = 0; i + 1 < border.size(); i++)
        *std::min_element(load.begin(), load.end()) += packed.start[border[i + 1]] - packed.start[border[i]];
    return *std::max_element(load.begin(), load.end());
}

extern "C" {

void forward(const Pass* pass, int n_threads) {
    const Packed& packed = pass->packed;
    const long n = packed.start[packed.n_sequences], even = (n + n_threads - 1) / n_threads;
    // As many for each thread, of about NEAR_ROWS.
    const std::vector<long> alone = runs_of(packed, n_threads * std::max(1L, (even + NEAR_ROWS / 2) / NEAR_ROWS));
    if (most_rows(packed, alone, n_threads) <= EVEN * even) {
        share(long(alone.size()) - 1, n_threads, [&](long i) { run(*pass, alone[i], alone[i + 1], 1); });
        return;
    }
    const long most = NEAR_ROWS * PARTS * n_threads;
    const std::vector<long> together = runs_of(packed, (n + most - 1) / most);
    for (size_t i = 0; i + 1 < together.size(); i++) run(*pass, together[i], together[i + 1], n_threads);
}
}
