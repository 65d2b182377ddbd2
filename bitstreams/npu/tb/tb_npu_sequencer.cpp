// Random descriptors with a made-up address generator and loader: what is taken from the semaphores and when, that words
// are issued only with their weights and (DRAIN) after everything before has finished, one a cycle otherwise, that
// `current` stays until a descriptor's first word is at stage 8, the words' tags, and every error with its index.
#include <algorithm>
#include <vector>

#include "Vnpu_sequencer.h"
#include "bench.hpp"
#include "descriptor.hpp"
#include "verilated.h"

constexpr int PIXEL_BITS = 10;  // 512 accumulators

struct Work {
    int opcode, flags, wait, words;  // words: one pass
};

struct Driver {
    Bench bench{11};
    Vnpu_sequencer top;
    long now = 0;

    void reset() {
        top.rst = 1, top.desc_valid = 0;
        cycle(top);
        top.rst = 0;
        top.loader_error = top.output_error = top.finished = 0, top.loader_idle = 1, top.loader_ready = 0;
        top.clear = 1;
        cycle(top);
        top.clear = 0;
        bool early = false;
        for (int i = 0; i < 31; i++) cycle(top, [&] { early |= top.running && i < 30; });
        bench.check(!early && top.running && !top.busy, "reset");
    }
    void show(const Work &work, int index) {
        clear(top.desc);
        put(top.desc, OPCODE, work.opcode), put(top.desc, FLAGS, work.flags), put(top.desc, WAIT, work.wait);
        put(top.desc, count_of(5), work.opcode == ADD ? 1 : work.words - 1);
        top.desc_valid = 1, top.desc_index = index;
    }

    void run(const std::vector<Work> &chain) {
        std::vector<long> endings;  // cycles in which descriptors will finish
        size_t shown = 0, active = 0, finished = 0;
        bool running = false, accepted = false, good = true;
        int word = 0, load_left = -1;  // load_left: cycles until the loader is ready; -1 nothing to load
        long first_issue = -100;
        show(chain[0], 0);
        for (int limit = 0; finished < chain.size() && limit < 100000; limit++, now++) {
            const Work *work = running ? &chain[active] : nullptr;
            top.sem_available = uint8_t(bench.random() | bench.random());
            top.first = running && word == 0, top.last = running && word == work->words - 1;
            top.first_in_pass = top.first_pass = top.first, top.last_in_pass = top.last_pass = top.last;
            top.first_in_row = word % 2 == 0, top.last_in_row = word % 2 == 1;
            top.address = bench.pick(0, 60) * 4 + (running && work->flags & PACKED ? bench.pick(0, 1) : 0);
            top.in_plane = bench.chance(70), top.pixel = word, top.window_ready = bench.chance(50);
            top.loader_ready = load_left == 0, top.loader_idle = load_left < 0;
            top.finished = !endings.empty() && endings[0] <= now;
            const size_t in_flight = endings.size();
            bool popped = false, took = false, issued = false;
            cycle(top, [&] {
                if (top.sem_take_valid) {
                    good &= shown < chain.size() && !accepted && load_left < 0 && top.loader_start;
                    good &= top.sem_take == chain[shown].wait && !(chain[shown].wait & ~top.sem_available);
                }
                if (running) {
                    const bool weights = word == 0 && work->opcode != ADD;
                    const bool drain = word == 0 && work->flags & DRAIN && in_flight > 0;
                    good &= top.issue == !(drain || (weights && load_left != 0));
                    good &= top.count_drain == drain && top.count_weight == (!drain && weights && load_left != 0);
                    good &= top.loader_take == (top.issue && weights);
                } else {
                    good &= !top.issue;
                }
                good &= top.advance == top.issue && top.count_issue == top.issue;
                if (top.issue) tags(*work, good);
                if (top.desc_ready) {
                    good &= accepted && (!running || (top.issue && top.last)) && now >= first_issue + 8;
                    popped = true;
                }
                took = top.sem_take_valid, issued = top.issue;
                good &= top.busy == (accepted || running || in_flight > 0) && !top.error_valid;
            });
            if (top.finished) endings.erase(endings.begin()), finished++;
            if (load_left > 0) load_left--;
            if (issued) {
                if (word == 0) first_issue = now;
                if (word == 0 && work->opcode != ADD) load_left = -1;
                if (++word == work->words) {
                    running = false;
                    endings.push_back(std::max(now + long(bench.pick(16, 20)), endings.empty() ? 0 : endings.back() + 1));
                }
            }
            if (took) {
                accepted = true;
                if (chain[shown].opcode != ADD) load_left = int(bench.pick(1, 20));
            }
            if (popped) {
                accepted = false, running = true, active = shown++, word = 0;
                top.desc_valid = 0;
                if (shown < chain.size()) show(chain[shown], int(shown));
            }
            good &= !running || top.current_index == active;
        }
        bench.check(good && finished == chain.size() && shown == chain.size(), "chain", chain.size());
    }

    void tags(const Work &work, bool &good) {
        const bool packed = work.opcode == CONV && work.flags & PACKED, partial = work.flags & PARTIAL && work.opcode <= DEPTHWISE;
        const bool keep = work.flags & KEEP, add = work.opcode == ADD, pool = work.opcode == POOL;
        good &= top.pool == pool && top.add == add && top.depthwise == (work.opcode == DEPTHWISE);
        good &= top.maximum == (pool && work.flags & MAX);
        good &= top.request0 == (top.in_plane || add);
        if (!packed) good &= top.word_address == top.address && !top.shift && !top.request1;
        if (packed) good &= top.request1 == (top.request0 && top.shift) && top.shift == (top.address & 1);
        good &= top.swap_parameters == top.first && top.first_of_block == top.first;
        const bool fresh = pool ? top.first : add ? top.first_in_row : work.opcode == DEPTHWISE ? !keep : top.first && !keep;
        const bool counted = pool ? top.last : add ? top.last_in_row : work.opcode == DEPTHWISE ? top.window_ready : 1;
        good &= top.fresh == fresh && top.counted == counted;
        good &= top.result == (counted && !partial && (work.opcode != CONV || top.last));
    }

    // One descriptor (behind another) that must end in an error.
    template <class Cause> void error(int opcode, int code, int index, const char *what, Cause cause) {
        reset();
        top.first = top.last = top.first_in_pass = top.first_pass = 1, top.address = 0, top.in_plane = 1, top.pixel = 0;
        top.loader_ready = 1, top.loader_idle = 1, top.sem_available = 255;
        show({opcode, 0, 0, 1}, index);
        cause();
        int errors = 0, seen = 0, at = 0;
        long issued = 0;
        for (int i = 0; i < 40; i++) {
            bool popped = false;
            cycle(top, [&] {
                popped = top.desc_ready;
                issued += errors && top.issue;
                if (top.error_valid) errors++, seen = top.error_code, at = top.error_index;
            });
            if (popped) show({ADD, 0, 0, 2}, index + 1), top.address = 0, top.pixel = 0;
            if (popped) cause();
            top.loader_error = top.output_error = 0;
        }
        bench.check(errors == 1 && seen == code && at == index && issued == 0, what, uint64_t(seen * 1000 + at));
    }
};

int main() {
    Driver d;
    d.reset();
    for (int i = 0; i < 300; i++) {
        std::vector<Work> chain(d.bench.pick(1, 8));
        for (Work &work : chain) {
            work = {int(d.bench.pick(CONV, ADD)), 0, int(d.bench.random() & d.bench.random() & d.bench.random() & 255), 0};
            for (int flag : {DRAIN, PACKED, MAX, KEEP, PARTIAL}) work.flags |= d.bench.chance(30) ? flag : 0;
            work.words = d.bench.chance(30) ? 1 : int(d.bench.pick(1, 40));
            if (work.opcode == ADD) work.words = 2 * int(d.bench.pick(1, 10));
        }
        d.run(chain);
    }
    auto &top = d.top;
    d.error(9, 1, 3, "opcode", [] {});
    d.error(ADD, 1, 4, "addition of three", [&] {
        if (top.desc_index == 4) put(top.desc, count_of(5), 2);
    });
    d.error(DEPTHWISE, 3, 5, "row too long", [&] {
        if (top.desc_index == 5) put(top.desc, count_of(5), 4095);
    });
    d.error(CONV, 2, 6, "read outside", [&] { top.address = 0xFFFFF; });
    d.error(CONV, 3, 7, "too many pixels", [&] { top.pixel = (1 << PIXEL_BITS) - 1; });
    d.error(CONV, 2, 8, "loader", [&] { top.loader_error = top.desc_index == 8, top.loader_error_index = 8; });
    d.error(CONV, 2, 9, "output", [&] { top.output_error = top.desc_index == 9, top.output_error_index = 9; });
    d.reset();
    d.run({{ADD, 0, 0, 4}, {CONV, DRAIN, 0, 3}});
    return d.bench.report();
}
