// Bench of npu_read: two clients that ask at random, a memory that answers in order; clear at random; 32 bursts under
// way.
#include <deque>

#include "Vnpu_read.h"
#include "bench.hpp"
#include "verilated.h"

namespace {

struct Burst {
    bool fetch;
    uint64_t address;
    unsigned beats;
};

uint64_t contents(uint64_t address) { return address * 0x9E3779B97F4A7C15; }

void run(Bench &bench, unsigned stall, unsigned latency, bool clears) {
    Vnpu_read unit;
    std::deque<Burst> asked, taken;  // by the clients; by the memory
    std::deque<uint64_t> due;
    size_t most = 0;
    unsigned beat = 0;
    uint64_t held = 0;
    bool holding = false, rvalid = false;
    unit.rst = 1, unit.clear = 1, unit.m_axi_arready = 0, unit.m_axi_rvalid = 0;
    cycle(unit);
    unit.rst = 0;
    for (uint64_t now = 0; now < 40'000; ++now) {
        unit.clear = clears && now % 3000 > 2900;
        unit.fetch_valid = bench.chance(10);
        unit.fetch_address = bench.random() & 0x1F'FFFF'FFF8;
        unit.load_valid = bench.chance(clears ? 30 : 95);
        unit.load_beats = bench.pick(1, clears ? 16 : 2);
        unit.load_address = bench.random() & 0x1F'FFFF'FFF0;
        unit.load_data_ready = !bench.chance(stall);
        unit.m_axi_arready = !bench.chance(stall);
        if (!rvalid && !taken.empty() && now >= due.front() && !bench.chance(stall)) {
            rvalid = true;
            unit.m_axi_rdata = contents(taken.front().address + 8 * beat);
            unit.m_axi_rresp = contents(taken.front().address) >> 60 == 7 ? 2 : 0;
            unit.m_axi_rlast = beat + 1 == taken.front().beats;
        }
        unit.m_axi_rvalid = rvalid;
        cycle(unit, [&] {
            bench.check(unit.idle == (asked.empty() && taken.empty()), "idle when nothing is under way", now);
            if (unit.clear) bench.check(!unit.fetch_ready && !unit.load_ready && !unit.fetch_data_valid
                && !unit.load_data_valid, "clear", now);
            if (holding) bench.check(unit.m_axi_arvalid && unit.m_axi_araddr == held, "an address stays", now);
            holding = unit.m_axi_arvalid && !unit.m_axi_arready;
            held = unit.m_axi_araddr;
            if (unit.m_axi_arvalid && unit.m_axi_arready) {
                bench.check(!asked.empty() && unit.m_axi_araddr == asked.front().address
                    && unit.m_axi_arlen + 1u == asked.front().beats, "address", now);
                taken.push_back(asked.front());
                due.push_back(now + latency);
                asked.pop_front();
            }
            if (rvalid) {
                const bool fetch = taken.front().fetch;
                if (!unit.clear) {
                    bench.check(unit.fetch_data_valid == fetch && unit.load_data_valid == !fetch,
                        "the right client's", now);
                    bench.check(unit.data == contents(taken.front().address + 8 * beat), "data", now);
                    bench.check(unit.data_error == (contents(taken.front().address) >> 60 == 7), "error", now);
                }
                bench.check(unit.m_axi_rready == (unit.clear || fetch || unit.load_data_ready),
                    "taken when it can be", now);
                if (unit.m_axi_rready) {
                    rvalid = false;
                    if (++beat == taken.front().beats) beat = 0, taken.pop_front(), due.pop_front();
                }
            }
            if (unit.fetch_valid && unit.fetch_ready) asked.push_back({true, uint64_t(unit.fetch_address) << 3, 8});
            else if (unit.load_valid && unit.load_ready)
                asked.push_back({false, uint64_t(unit.load_address) << 3, unit.load_beats});
            bench.check(!(unit.fetch_valid && unit.load_ready), "the fetch goes first", now);
        });
        most = std::max(most, asked.size() + taken.size());
    }
    bench.check(most <= 32, "at most 32 under way", most);
    if (latency >= 60) bench.check(most == 32, "32 under way", most);
}

}  // namespace

int main() {
    Bench bench(3);
    run(bench, 0, 80, false);
    run(bench, 30, 5, true);
    run(bench, 0, 40, true);
    run(bench, 60, 1, true);
    return bench.report();
}
