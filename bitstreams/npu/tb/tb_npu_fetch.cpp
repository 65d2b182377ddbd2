// Bench of npu_fetch: chains of random descriptors in a memory with latency and stalls, three engines that take and
// finish at random; order, contents and indices, END, and every error.
#include <deque>
#include <vector>

#include "Vnpu_fetch.h"
#include "bench.hpp"
#include "verilated.h"

namespace {

constexpr uint64_t kBase = 0x7F'0000'0040;
constexpr unsigned kEnd = 15, kOpcodes[6] = {1, 2, 3, 4, 5, 6};
constexpr unsigned kFirst[3] = {1, 3, 2};  // an opcode of each engine
constexpr unsigned kOpcode = 1, kBounds = 2, kAxi = 4;
constexpr unsigned kLoad = 0, kCompute = 1, kStore = 2, kNone = 3;

struct Descriptor {
    uint32_t words[16];
    unsigned engine() const { return words[0] % 256 == 1 ? kLoad : words[0] % 256 == 2 ? kStore : kCompute; }
};

struct Fetch {
    Bench &bench;
    unsigned latency, stall;
    Vnpu_fetch unit;
    uint64_t now = 0;
    std::vector<Descriptor> memory;  // region 0
    unsigned chain = 0;              // index in it of the first
    uint64_t bad_beat = ~0ull;       // in error
    std::deque<std::pair<uint64_t, uint64_t>> beats;  // due, beat in the region
    std::deque<unsigned> expected[3];                 // indices of descriptors that an engine is to get
    unsigned running = 0, dispatched[3] = {};
    bool error = false, complete = false;
    unsigned slow = kNone;           // an engine that takes so rarely that its queue is full
    size_t most = 0;

    Fetch(Bench &b, unsigned l, unsigned s) : bench(b), latency(l), stall(s) {}

    Descriptor random(unsigned opcode) {
        Descriptor d;
        for (auto &word : d.words) word = bench.random();
        d.words[0] = (d.words[0] & ~255u) | opcode;
        return d;
    }
    void begin(unsigned region_descriptors) {
        unit.clear = 1;
        unit.chain = chain;
        unit.region_base = kBase;
        unit.region_bytes = region_descriptors * 64 + bench.pick(0, 63);
        unit.data_valid = unit.request_ready = unit.finished = 0;
        unit.load_ready = unit.compute_ready = unit.store_ready = 0;
        for (int i = 0; i < 3; ++i) cycle(unit);
        unit.clear = 0;
        beats.clear();
        for (auto &queue : expected) queue.clear();
        unsigned index = 0;
        for (unsigned at = chain; at < region_descriptors && memory[at].words[0] % 256 <= 6; ++at, ++index)
            expected[memory[at].engine()].push_back(index);
        running = 0, error = complete = false;
    }
    template <class Desc> void take(unsigned engine, bool valid, bool ready, const Desc &desc, unsigned index,
        int words) {
        if (!valid || !ready) return;
        bench.check(!expected[engine].empty(), "no more than are expected", now);
        if (expected[engine].empty()) return;
        bench.check(index == expected[engine].front() % 65536, "order", now);
        bool same = true;
        for (int i = 0; i < words; ++i) same &= desc[i] == memory[chain + expected[engine].front()].words[i];
        bench.check(same, "contents", now);
        expected[engine].pop_front();
        ++running;
    }
    bool takes(unsigned engine) { return !bench.chance(engine == slow ? 98 : stall); }
    void tick() {
        unit.request_ready = !bench.chance(stall);
        unit.load_ready = unit.load_valid && takes(kLoad);
        unit.compute_ready = unit.compute_valid && takes(kCompute);
        unit.store_ready = unit.store_valid && takes(kStore);
        unit.finished = stall && running ? bench.pick(0, std::min(running, 3u)) : std::min(running, 3u);
        unit.data_valid = !beats.empty() && now >= beats.front().first && !bench.chance(stall / 2);
        if (unit.data_valid) {
            const uint64_t beat = beats.front().second;
            unit.data = memory[beat / 8].words[beat % 8 * 2] | uint64_t(memory[beat / 8].words[beat % 8 * 2 + 1]) << 32;
            unit.data_error = beat == bad_beat;
            beats.pop_front();
        }
        cycle(unit, [&] {
            running -= unit.finished;
            if (unit.request_valid && unit.request_ready) {
                const uint64_t at = (uint64_t(unit.request_address) << 3) - kBase;
                bench.check(at % 64 == 0 && at / 64 < memory.size() && at + 64 <= unit.region_bytes,
                    "inside region 0", at);
                for (unsigned i = 0; i < 8; ++i) beats.push_back({now + 1 + latency, at / 8 + i});
                most = std::max(most, beats.size());
            }
            take(kLoad, unit.load_valid, unit.load_ready, unit.load_desc, unit.load_index, 8);
            take(kCompute, unit.compute_valid, unit.compute_ready, unit.compute_desc, unit.compute_index, 16);
            take(kStore, unit.store_valid, unit.store_ready, unit.store_desc, unit.store_index, 8);
            if (unit.complete) bench.check(running == 0 && expected[0].empty() && expected[1].empty()
                && expected[2].empty(), "END comes last", now);
            error |= unit.error_valid, complete |= unit.complete;
        });
        ++now;
    }
    void run() {
        const uint64_t limit = now + 2'000'000;
        while (!error && !complete && now < limit) tick();
    }
};

void random_runs(Bench &bench, unsigned latency, unsigned stall, int rounds) {
    Fetch fetch(bench, latency, stall);
    for (int round = 0; round < rounds; ++round) {
        const unsigned n = bench.pick(0, 60), spare = bench.pick(0, 12), kind = bench.pick(0, 9);
        fetch.memory.clear();
        fetch.chain = bench.pick(0, 5);
        fetch.slow = bench.pick(kLoad, kNone);
        for (unsigned i = 0; i < fetch.chain + n; ++i) {
            const bool its = fetch.slow != kNone && bench.chance(50);
            fetch.memory.push_back(fetch.random(its ? kFirst[fetch.slow] : kOpcodes[bench.pick(0, 5)]));
        }
        unsigned last = kEnd;
        if (kind == 1) do last = bench.random() & 255; while (last == kEnd || (last >= 1 && last <= 6));
        fetch.memory.push_back(fetch.random(last));
        for (unsigned i = 0; i < spare; ++i) fetch.memory.push_back(fetch.random(bench.random() & 255));
        const unsigned bad = bench.pick(0, n);
        fetch.bad_beat = kind == 2 ? 8 * (fetch.chain + bad) + bench.pick(0, 7)
            : kind == 3 ? 8 * (fetch.chain + n + 1) : ~0ull;
        fetch.begin(kind == 4 ? fetch.chain + n : fetch.memory.size());
        fetch.run();
        const bool fails = kind == 1 || kind == 2 || kind == 4;
        bench.check(fetch.error == fails && fetch.complete == !fails, "END or an error", kind);
        if (!fails) continue;
        bench.check(fetch.unit.error_code == (kind == 1 ? kOpcode : kind == 2 ? kAxi : kBounds), "code", kind);
        bench.check(fetch.unit.error_index == (kind == 2 ? bad : n), "index", kind);
    }
    bench.check(fetch.most <= 64, "eight descriptors ahead at most", fetch.most);
}

// 65,536 descriptors before END are a chain, one more is not.
void longest(Bench &bench) {
    Fetch fetch(bench, 2, 0);
    fetch.memory.assign(65'538, fetch.random(3));
    fetch.memory[65'536].words[0] = fetch.memory[65'537].words[0] = kEnd;
    fetch.begin(fetch.memory.size());
    fetch.run();
    bench.check(fetch.complete && !fetch.error, "65,536 descriptors");
    fetch.memory[65'536].words[0] = 3;
    fetch.begin(fetch.memory.size());
    fetch.run();
    bench.check(fetch.error && fetch.unit.error_code == kBounds && fetch.unit.error_index == 0xFFFF,
        "65,537 descriptors");
}

// Cycles from the first one without clear to the one in which a queue shows its descriptor.
void exact_cycles(Bench &bench) {
    for (unsigned latency : {2u, 40u}) {
        Fetch fetch(bench, latency, 0);
        for (int i = 0; i < 30; ++i) fetch.memory.push_back(fetch.random(3));
        fetch.begin(30);
        const uint64_t begin = fetch.now;
        for (unsigned i = 0; i < 8; ++i) {
            do fetch.tick(); while (fetch.expected[kCompute].size() > 29 - i);
            bench.check(fetch.now - 1 - begin == latency + 11 + 8 * i,
                "latency + 11, then one in eight cycles", fetch.now - 1 - begin);
        }
    }
}

}  // namespace

int main() {
    Bench bench(6);
    exact_cycles(bench);
    random_runs(bench, 40, 0, 200);
    random_runs(bench, 5, 50, 200);
    random_runs(bench, 60, 20, 200);
    longest(bench);
    return bench.report();
}
