// Bench of npu_store (npu_transfer, npu_walk): random descriptors with semaphores, words known by their address on the
// chip, a memory with stalls; every byte in its place, bounds, answers in error, clear at any moment, exact cycles.
#include <cstring>
#include <deque>

#include "Vnpu_store.h"
#include "transfers.hpp"
#include "verilated.h"

namespace {

constexpr unsigned kLanes = sizeof(Vnpu_store::dma_read_data) > 8 ? 16 : 8;
constexpr unsigned kBeats = kLanes / 8;  // of a word
constexpr unsigned kReadLatency = 2;     // of the activation memory

uint64_t contents(unsigned chip, unsigned beat) { return (chip * 2 + beat + 99) * 0x9E3779B97F4A7C15; }

struct Beat {
    uint64_t address, data;
};
struct Burst {
    uint64_t address;
    unsigned beats;
    bool last;  // of its descriptor
};

struct Store {
    Bench &bench;
    unsigned latency, stall, bad_bursts;  // bad_bursts: one in so many is answered with an error
    Vnpu_store unit;
    uint64_t now = 0;
    std::deque<Transfer> queue, started;
    std::deque<Beat> beats;         // expected, in order
    std::deque<uint64_t> ends;      // addresses behind the last beats of descriptors
    std::deque<Burst> open, full;   // whose beats are to come; that wait for their answer
    std::deque<uint64_t> due;       // of `full`
    std::deque<std::pair<uint64_t, unsigned>> reads;
    Semaphores semaphores;
    bool error = false, clearing = false;
    unsigned error_code = 0, error_index = 0, finished = 0, taken = 0, finishing = 0, sent = 0, most = 0;
    uint64_t last_done = 0;
    struct { bool waits; uint64_t payload, more; } aw{}, w{};

    Store(Bench &b, unsigned l, unsigned s, unsigned bad) : bench(b), latency(l), stall(s), bad_bursts(bad) {
        set_regions(unit);
        unit.desc_valid = unit.dma_read_data_valid = unit.m_axi_bvalid = unit.m_axi_wready = unit.m_axi_awready = 0;
        unit.rst = unit.clear = 1;
        cycle(unit);
        unit.rst = 0;
        clear();
    }
    // As npu_control does it: until nothing is owed, at least 16 cycles. No byte may be written after its first cycle.
    void clear() {
        queue.clear();
        clearing = true;
        for (int i = 0; i < 16 || (!unit.idle && i < 5000); ++i) tick();
        tick();
        bench.check(unit.idle && !unit.m_axi_awvalid && !unit.m_axi_wvalid && open.empty() && full.empty(),
            "clear drains");
        clearing = false;
        started.clear(), beats.clear(), reads.clear(), ends.clear();
        semaphores = {};
        error = false, taken = finishing = 0;
    }
    void expect(const Transfer &t) {
        for (unsigned run = 0; run < t.runs; ++run)
            for (unsigned word = 0; word < t.words; ++word)
                for (unsigned beat = 0; beat < kBeats; ++beat)
                    beats.push_back({t.address(run) + word * kLanes + 8 * beat,
                                     contents(t.chip + run * t.chip_step + word, beat)});
        ends.push_back(beats.size() + beats_done);
    }
    uint64_t beats_done = 0, beats_opened = 0;

    void tick() {
        if (stall && bench.chance(20)) semaphores.add(1u << bench.pick(0, 7), 1);
        unit.clear = clearing;
        unit.desc_valid = !queue.empty();
        if (unit.desc_valid) queue.front().present(unit);
        unit.sem_available = semaphores.available();
        unit.dma_read_ready = !bench.chance(stall);
        unit.dma_read_data_valid = !reads.empty() && reads.front().first == now;
        if (unit.dma_read_data_valid) {
            for (unsigned i = 0; i < kBeats; ++i) {
                const uint64_t value = contents(reads.front().second, i);
                std::memcpy(reinterpret_cast<char *>(&unit.dma_read_data) + 8 * i, &value, 8);
            }
            reads.pop_front();
        }
        unit.m_axi_awready = !bench.chance(stall);
        unit.m_axi_wready = !open.empty() && !bench.chance(stall);
        unit.m_axi_bvalid = !full.empty() && now >= due.front() && !bench.chance(stall);
        if (unit.m_axi_bvalid) unit.m_axi_bresp = bad_bursts && (full.front().address >> 3) % bad_bursts == 0 ? 2 : 0;
        cycle(unit, [&] { look(); });
        ++now;
    }
    template <class Held> void stable(Held &held, bool valid, bool ready, uint64_t payload, uint64_t more,
        const char *what) {
        if (held.waits) bench.check(valid && payload == held.payload && more == held.more, what, now);
        held = {valid && !ready, payload, more};
    }
    void look() {
        if (unit.desc_ready) {
            started.push_back(queue.front());
            queue.pop_front();
        }
        if (unit.sem_take_valid && !clearing) {
            const Transfer &t = started.at(taken++);
            bench.check(unit.sem_take == t.waits && (t.waits & ~unit.sem_available) == 0,
                "takes what it waits for", now);
            bench.check(t.inside(kLanes, kActivationWords), "starts what is inside", now);
            semaphores.add(t.waits, -1);
            expect(t);
        }
        if (unit.dma_read_valid && unit.dma_read_ready) reads.push_back({now + kReadLatency, unit.dma_read_address});
        done();
        answered();
        stable(aw, unit.m_axi_awvalid, unit.m_axi_awready, unit.m_axi_awaddr, unit.m_axi_awlen, "an address stays");
        stable(w, unit.m_axi_wvalid, unit.m_axi_wready, unit.m_axi_wdata, unit.m_axi_wstrb << 1 | unit.m_axi_wlast,
            "a beat stays");
        if (unit.m_axi_wvalid && unit.m_axi_wready) written();
        if (unit.m_axi_awvalid && unit.m_axi_awready) {
            const unsigned n = unit.m_axi_awlen + 1;
            bench.check(n <= 16 && unit.m_axi_awaddr / 128 == (unit.m_axi_awaddr + 8 * n - 1) / 128,
                "burst in a block", now);
            beats_opened += n;
            open.push_back({unit.m_axi_awaddr, n, !ends.empty() && beats_opened == ends.front()});
            if (open.back().last) ends.pop_front();
        }
        most = std::max<unsigned>(most, open.size() + full.size());
    }
    void done() {
        if (clearing) return;
        bench.check(unit.done == finishing && unit.sem_give_valid == finishing, "done after the last answer", now);
        if (unit.done) {
            bench.check(unit.sem_give == started.front().signals, "gives what it signals", now);
            started.pop_front(), --taken;
            ++finished;
            last_done = now;
        }
        finishing = 0;
    }
    void answered() {
        if (unit.m_axi_bvalid && unit.m_axi_bready) {
            if (!clearing && !error && unit.m_axi_bresp) {
                error = true, error_code = unit.error_code;
                bench.check(unit.error_valid && error_code == kAxi && unit.error_index == started.front().index,
                    "answer in error", now);
            } else finishing = full.front().last && !clearing && !error;
            full.pop_front(), due.pop_front();
        } else if (unit.error_valid && !error && !clearing) {
            error = true, error_code = unit.error_code;
            bench.check(error_code == kBounds && unit.error_index == started.at(taken).index, "bounds", now);
            bench.check(!started.at(taken).inside(kLanes, kActivationWords), "in error only outside", now);
        }
    }
    void written() {
        Burst &burst = open.front();
        const uint64_t address = burst.address + 8 * sent;
        if (unit.m_axi_wstrb) {
            bench.check(unit.m_axi_wstrb == 0xFF && !beats.empty() && beats.front().address == address,
                "a beat's address", now);
            if (!beats.empty()) bench.check(beats.front().data == unit.m_axi_wdata, "a beat's data", now);
        } else bench.check(clearing, "all bytes are written", now);
        if (!beats.empty()) beats.pop_front();
        ++beats_done;
        bench.check(unit.m_axi_wlast == (++sent == burst.beats), "the last beat is told", now);
        if (sent == burst.beats) {
            sent = 0;
            full.push_back(burst), due.push_back(now + std::max(1u, latency));
            open.pop_front();
        }
    }
};

void random_runs(Bench &bench, unsigned latency, unsigned stall, unsigned outside, unsigned bad_bursts, int rounds) {
    Store store(bench, latency, stall, bad_bursts);
    for (int round = 0; round < rounds; ++round) {
        const unsigned n = bench.pick(1, 30), before = store.finished;
        bool any_outside = false;
        for (unsigned i = 0; i < n; ++i) {
            Transfer t = random_transfer(bench, kLanes, kActivationWords, outside);
            any_outside |= !t.inside(kLanes, kActivationWords);
            t.opcode = kStore;
            t.index = bench.pick(0, 65535);
            t.flags = bench.random() & 255;
            if (stall && bench.chance(40)) t.waits = 1u << bench.pick(0, 7);
            t.signals = bench.random() & 255;
            store.queue.push_back(t);
        }
        const bool stopped = bench.chance(20);
        const uint64_t limit = store.now + (stopped ? bench.pick(0, 1000) : 60'000);
        while (store.now < limit && !store.error && store.finished - before < n) store.tick();
        if (!bad_bursts && !stopped) bench.check(store.error == any_outside, "an error when one is outside", round);
        if (!store.error && !stopped) {
            bench.check(store.finished - before == n && store.beats.empty(), "all finish", round);
            store.tick(), store.tick();
            bench.check(!store.unit.busy && store.unit.idle, "idle at the end");
        }
        store.clear();
        store.beats_opened = store.beats_done = 0;
    }
    bench.check(store.most <= 16, "at most 16 bursts under way", store.most);
}

// Cycles from the one in which the queue shows the first descriptor to the one in which the last is done.
uint64_t cycles(Bench &bench, unsigned latency, const std::vector<Transfer> &transfers) {
    Store store(bench, latency, 0, 0);
    for (const auto &t : transfers) store.queue.push_back(t);
    const uint64_t seen = store.now;
    while (store.finished < transfers.size() && store.now < seen + 100'000) store.tick();
    return store.last_done - seen;
}

void exact_cycles(Bench &bench) {
    for (unsigned latency : {1u, 10u, 40u}) {
        for (unsigned words : {1u, 2u, 7u, 64u, 1000u}) {
            Transfer t;
            t.words = words;
            const uint64_t beats = words * kBeats;
            bench.check(cycles(bench, latency, {t}) == latency + beats + 7, "STORE: latency + beats + 7", words);
            if (words >= 64) bench.check(cycles(bench, latency, {t, t, t}) == latency + 3 * beats + 7,
                "STOREs in a row: latency once", words);
            t.runs = 6, t.words = 16, t.region_step = 1024, t.chip_step = 11;
            bench.check(cycles(bench, latency, {t}) == latency + 96 * kBeats + 7 + 3,
                "runs: bits of runs - 1 more", words);
        }
    }
}

}  // namespace

int main() {
    Bench bench(5);
    exact_cycles(bench);
    random_runs(bench, 10, 0, 0, 0, 60);
    random_runs(bench, 40, 40, 0, 0, 60);
    random_runs(bench, 3, 20, 30, 0, 150);
    random_runs(bench, 0, 0, 2, 0, 600);
    random_runs(bench, 20, 30, 0, 50, 150);
    return bench.report();
}
