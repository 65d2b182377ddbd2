// Bench of npu_load (npu_transfer, npu_walk): random descriptors with semaphores, a memory whose beats are known by
// their address, stalls on both sides; every word in its order and place, bounds, answers in error, exact cycles.
#include <deque>

#include "Vnpu_load.h"
#include "transfers.hpp"
#include "verilated.h"

namespace {

constexpr unsigned kLanes = sizeof(Vnpu_load::dma_write_data) > 8 ? 16 : 8;
constexpr unsigned kBeats = kLanes / 8;  // of a word
constexpr unsigned kFlagWeights = 8;

uint64_t contents(uint64_t address) { return (address ^ 0x5555) * 0x9E3779B97F4A7C15; }
uint64_t beat_of(const Vnpu_load &unit, bool weights, unsigned i) {
    uint64_t value;
    const void *data = weights ? static_cast<const void *>(&unit.dma_weight_data) : &unit.dma_write_data;
    std::memcpy(&value, static_cast<const char *>(data) + 8 * i, 8);
    return value;
}

struct Word {
    uint64_t address;  // in memory
    unsigned chip;
    bool weights, last;
};

struct Load {
    Bench &bench;
    unsigned latency, stall, bad_beats;  // bad_beats: one beat in so many is answered with an error
    Vnpu_load unit;
    uint64_t now = 0;
    std::deque<Transfer> queue, started;
    std::deque<Word> words;
    std::deque<std::pair<uint64_t, uint64_t>> beats;  // due, address
    std::deque<uint64_t> addresses;                   // of every beat, as bursts ask for them
    Semaphores semaphores;
    bool error = false;
    unsigned error_code = 0, error_index = 0, finished = 0;
    uint64_t first_seen = 0, last_done = 0;

    Load(Bench &b, unsigned l, unsigned s, unsigned bad) : bench(b), latency(l), stall(s), bad_beats(bad) {
        set_regions(unit);
        unit.desc_valid = unit.data_valid = 0;
        clear();
    }
    void clear() {
        unit.clear = 1;
        for (int i = 0; i < 16; ++i) cycle(unit);  // as long as npu_control holds it at least
        unit.clear = 0;
        queue.clear(), started.clear(), words.clear(), beats.clear(), addresses.clear();
        semaphores = {};
        error = false;
    }
    void expect(const Transfer &t) {
        for (unsigned run = 0; run < t.runs; ++run)
            for (unsigned word = 0; word < t.words; ++word) {
                const uint64_t address = t.address(run) + word * kLanes;
                words.push_back({address, t.chip + run * t.chip_step + word, (t.flags & kFlagWeights) != 0,
                                 run + 1 == t.runs && word + 1 == t.words});
                for (unsigned beat = 0; beat < kBeats; ++beat) addresses.push_back(address + 8 * beat);
            }
    }
    void tick() {
        if (stall && bench.chance(20)) semaphores.add(1u << bench.pick(0, 7), 1);
        unit.desc_valid = !queue.empty();
        if (unit.desc_valid) queue.front().present(unit);
        unit.sem_available = semaphores.available();
        unit.burst_ready = !bench.chance(stall);
        unit.dma_write_ready = !bench.chance(stall);
        unit.data_valid = !beats.empty() && now >= beats.front().first && !bench.chance(stall / 2);
        if (unit.data_valid) {
            unit.data = contents(beats.front().second);
            unit.data_error = bad(beats.front().second);
        }
        cycle(unit, [&] { look(); });
        ++now;
    }
    void look() {
        if (unit.desc_ready) {
            started.push_back(queue.front());
            queue.pop_front();
        }
        if (unit.sem_take_valid) {
            const Transfer &t = started.at(taken++);
            bench.check(unit.sem_take == t.waits && (t.waits & ~unit.sem_available) == 0,
                "takes what it waits for", now);
            bench.check(t.inside(kLanes, limit(t)), "starts what is inside", now);
            semaphores.add(t.waits, -1);
            expect(t);
        }
        if (unit.burst_valid && unit.burst_ready) {
            const uint64_t address = uint64_t(unit.burst_address) << 3;
            bench.check(unit.burst_beats >= 1 && address / 128 == (address + 8 * unit.burst_beats - 1) / 128,
                "burst in a block", now);
            for (unsigned beat = 0; beat < unit.burst_beats; ++beat) {
                bench.check(!addresses.empty() && addresses.front() == address + 8 * beat, "burst's address", now);
                if (!addresses.empty()) addresses.pop_front();
                beats.push_back({now + 1 + latency, address + 8 * beat});
            }
        }
        if (unit.data_valid && unit.data_ready) beats.pop_front();
        const bool written = (unit.dma_write_valid && unit.dma_write_ready) || unit.dma_weight_valid;
        if (unit.done) {
            bench.check(finishing, "done after the last word", now);
            bench.check(unit.sem_give_valid && unit.sem_give == started.front().signals, "gives what it signals", now);
            started.pop_front(), --taken;
            ++finished;
            last_done = now;
        } else bench.check(!finishing && !unit.sem_give_valid, "no signal without an end", now);
        finishing = false;
        if (written) {
            bench.check(!words.empty(), "a word that is expected", now);
            if (words.empty()) return;
            const Word &word = words.front();
            bench.check(unit.dma_weight_valid == word.weights && unit.dma_write_valid == !word.weights, "memory", now);
            bench.check((word.weights ? unit.dma_weight_address : unit.dma_write_address) == word.chip,
                "address on the chip", now);
            for (unsigned i = 0; i < kBeats; ++i) {
                bench.check(beat_of(unit, word.weights, i) == contents(word.address + 8 * i), "data", now);
                bench.check(!bad(word.address + 8 * i), "no word in error is written", now);
            }
            finishing = word.last;
            words.pop_front();
        }
        if (!error && unit.error_valid) {
            error = true, error_code = unit.error_code, error_index = unit.error_index;
            const Transfer &t = error_code == kBounds ? started.at(taken) : started.front();
            bench.check(error_index == t.index, "the index in error", now);
            if (error_code == kBounds) bench.check(!t.inside(kLanes, limit(t)), "in error only outside", t.index);
            else {
                const uint64_t address = words.front().address;
                bench.check(error_code == kAxi && (bad(address) || bad(address + 8 * (kBeats - 1))),
                    "in error for a bad beat", now);
            }
        }
    }
    bool bad(uint64_t address) const { return bad_beats && contents(address + 1) / 4096 % bad_beats == 0; }
    unsigned limit(const Transfer &t) const { return t.flags & kFlagWeights ? weight_words : kActivationWords; }

    unsigned taken = 0;
    bool finishing = false;
    static constexpr unsigned weight_words = kLanes == 16 ? 2 * 6144 : 2 * 4096;
};

void random_runs(Bench &bench, unsigned latency, unsigned stall, unsigned outside, unsigned bad_beats, int rounds) {
    Load load(bench, latency, stall, bad_beats);
    for (int round = 0; round < rounds; ++round) {
        load.clear(), load.taken = 0, load.finishing = false;
        const unsigned n = bench.pick(1, 30), before = load.finished;
        bool any_outside = false;
        for (unsigned i = 0; i < n; ++i) {
            const bool weights = bench.chance(30);
            Transfer t = random_transfer(bench, kLanes, weights ? load.weight_words : kActivationWords, outside);
            t.flags = weights ? kFlagWeights : 0;
            any_outside |= !t.inside(kLanes, load.limit(t));
            t.index = bench.pick(0, 65535);
            if (stall && bench.chance(40)) t.waits = 1u << bench.pick(0, 7);
            t.signals = bench.random() & 255;
            load.queue.push_back(t);
        }
        const uint64_t limit = load.now + 60'000;
        while (load.now < limit && !load.error && load.finished - before < n) load.tick();
        if (!bad_beats) bench.check(load.error == any_outside, "an error when one is outside", round);
        if (!load.error) {
            bench.check(load.finished - before == n && load.words.empty(), "all finish", round);
            load.tick(), load.tick();
            bench.check(!load.unit.busy, "not busy at the end");
        }
    }
}

// What only a sum that sticks tells from a transfer inside.
void wraps(Bench &bench) {
    Transfer start, step, lost, chip, chip_lost, many;
    start.offset = 0xFFFFFFF8, start.runs = 2, start.region_step = 8;
    step.offset = 0x10000, step.runs = 4, step.region_step = 0x55555558;
    lost.runs = 3, lost.region_step = 0x80000000;
    chip.chip = 0xFFFF, chip.words = 0xFFFF, chip.runs = 4, chip.chip_step = 2;
    chip_lost.runs = 5, chip_lost.chip_step = 0x8000;
    many.runs = 0xFFFF, many.region_step = 0x10008, many.chip_step = 0xFFFF;
    for (Transfer t : {start, step, lost, chip, chip_lost, many}) {
        for (t.region = 0; t.region < 4; ++t.region) {
            Load load(bench, 10, 0, 0);
            t.index = bench.pick(0, 65535);
            load.queue.push_back(t);
            for (int i = 0; i < 100 && !load.error; ++i) load.tick();
            bench.check(load.error && load.error_code == kBounds, "a sum that wraps", t.region_step);
        }
    }
}

// Cycles from the one in which the queue shows the first descriptor to the one in which the last is done.
uint64_t cycles(Bench &bench, unsigned latency, const std::vector<Transfer> &transfers) {
    Load load(bench, latency, 0, 0);
    load.taken = 0;
    for (const auto &t : transfers) load.queue.push_back(t);
    const uint64_t seen = load.now;
    while (load.finished < transfers.size() && load.now < seen + 100'000) load.tick();
    return load.last_done - seen;
}

void exact_cycles(Bench &bench) {
    for (unsigned latency : {2u, 40u, 77u}) {
        for (unsigned words : {1u, 2u, 7u, 64u, 1000u}) {
            Transfer t;
            t.words = words, t.offset = 24;
            const uint64_t beats = words * kBeats;
            bench.check(cycles(bench, latency, {t}) == latency + beats + 4, "LOAD: latency + beats + 4", words);
            t.offset = 0;
            bench.check(cycles(bench, latency, {t, t, t}) == latency + 3 * beats + 4,
                "LOADs in a row: latency once", words);
            t.runs = 6, t.words = words % 10 + 1, t.region_step = 1024, t.chip_step = 11;
            bench.check(cycles(bench, latency, {t}) == latency + 6 * t.words * kBeats + 4 + 3,
                "runs: bits of runs - 1 more", words);
        }
    }
}

}  // namespace

int main() {
    Bench bench(4);
    exact_cycles(bench);
    wraps(bench);
    random_runs(bench, 40, 0, 0, 0, 60);
    random_runs(bench, 10, 40, 0, 0, 60);
    random_runs(bench, 40, 20, 30, 0, 150);
    random_runs(bench, 5, 0, 2, 0, 600);
    random_runs(bench, 20, 30, 0, 500, 100);
    return bench.report();
}
