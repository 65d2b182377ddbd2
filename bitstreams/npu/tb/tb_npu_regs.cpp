// Bench of npu_regs: random reads and writes with stalls and byte strobes, as overlay.toml says what each register is.
#include <map>

#include "Vnpu_regs.h"
#include "bench.hpp"
#include "verilated.h"

namespace {

struct Regs {
    Bench &bench;
    Vnpu_regs unit;
    std::map<unsigned, uint32_t> model;
    unsigned starts = 0, resets = 0, clears = 0, start_writes = 0, reset_writes = 0, clear_writes = 0;

    explicit Regs(Bench &b) : bench(b) {
        unit.s_axi_awvalid = unit.s_axi_wvalid = unit.s_axi_bready = unit.s_axi_arvalid = unit.s_axi_rready = 0;
        unit.rst = 1;
        cycle(unit);
        cycle(unit);
        unit.rst = 0;
        reset();
    }
    void reset() {
        model.clear();
        for (unsigned offset : {0x20, 0x30}) model[offset] = 0;
        model[0x2C] = 16'777'216;
        for (unsigned i = 0; i < 12; ++i) model[0x40 + i / 3 * 16 + i % 3 * 4] = 0;
    }
    void tick() {
        cycle(unit, [&] {
            starts += unit.start, resets += unit.soft_reset, clears += unit.clear_done;
        });
    }
    void write(unsigned offset, uint32_t value, unsigned strobes) {
        const int address_late = bench.pick(0, 2), data_late = bench.pick(0, 2), answer_late = bench.pick(0, 2);
        unit.s_axi_awaddr = offset | bench.pick(0, 3), unit.s_axi_wdata = value, unit.s_axi_wstrb = strobes;
        bool taken = false;
        for (int i = 0; i < 10 && !taken; ++i) {
            unit.s_axi_awvalid = i >= address_late;
            unit.s_axi_wvalid = i >= data_late;
            unit.s_axi_bready = 0;
            unit.clk = 0, unit.eval();
            bench.check(unit.s_axi_awready == unit.s_axi_wready, "address and data are taken together");
            taken = unit.s_axi_awvalid && unit.s_axi_awready;
            tick();
        }
        unit.s_axi_awvalid = unit.s_axi_wvalid = 0;
        for (int i = 0; i < answer_late; ++i) tick();
        bench.check(taken && unit.s_axi_bvalid && unit.s_axi_bresp == 0, "a write is answered", offset);
        unit.s_axi_bready = 1;
        tick();
        unit.s_axi_bready = 0;
        bench.check(!unit.s_axi_bvalid, "answered once", offset);
        apply(offset, value, strobes);
    }
    void apply(unsigned offset, uint32_t value, unsigned strobes) {
        uint32_t mask = 0;
        for (int i = 0; i < 4; ++i) if (strobes >> i & 1) mask |= 0xFFu << 8 * i;
        if (offset == 0x24) clear_writes += value >> 1 & mask >> 1 & 1;
        if (offset == 0x20 && mask & value & 2) {
            ++reset_writes;
            reset();
        } else if (offset == 0x20) {
            start_writes += value & mask & 1;
            if (mask & 1) model[offset] = value & 4;
        } else if (model.count(offset)) {
            uint32_t writable = 0xFFFFFFFF;
            if (offset == 0x30 || (offset >= 0x40 && offset % 16 == 0)) writable = ~63u;
            if (offset >= 0x40 && offset % 16 == 4) writable = 0xFF;
            model[offset] = ((model[offset] & ~mask) | (value & mask)) & writable;
        }
    }
    uint32_t read(unsigned offset) {
        unit.s_axi_araddr = offset | bench.pick(0, 3), unit.s_axi_arvalid = 1, unit.s_axi_rready = 0;
        tick();
        unit.s_axi_arvalid = 0;
        for (int late = bench.pick(0, 2); late; --late) tick();
        bench.check(unit.s_axi_rvalid && unit.s_axi_rresp == 0, "a read is answered", offset);
        const uint32_t value = unit.s_axi_rdata;
        unit.s_axi_rready = 1;
        tick();
        unit.s_axi_rready = 0;
        bench.check(!unit.s_axi_rvalid, "answered once", offset);
        return value;
    }
    void outputs() {
        bool same = unit.chain == model[0x30] && unit.watchdog == model[0x2C]
            && unit.interrupt_enable == (model[0x20] >> 2);
        for (unsigned i = 0; i < 4; ++i) {
            const uint64_t base = model[0x40 + 16 * i] | uint64_t(model[0x44 + 16 * i]) << 32;
            for (unsigned bit = 0, at = 40 * i; bit < 40; ++bit, ++at)
                same &= (unit.region_base[at / 32] >> at % 32 & 1) == (base >> bit & 1);
            same &= unit.region_bytes[i] == model[0x48 + 16 * i];
        }
        bench.check(same, "what the core sees");
    }
};

uint32_t status(const Vnpu_regs &unit) {
    return unit.error_code << 8 | unit.error << 2 | unit.done << 1 | unit.busy;
}

}  // namespace

int main() {
    Bench bench(7);
    Regs regs(bench);
    const uint32_t lanes = regs.read(0x08);
    bench.check(lanes == 16 || lanes == 8, "ARRAY", lanes);
    bench.check(regs.read(0x00) == 0x4F564C4E, "ID");
    bench.check(regs.read(0x04) == 1 && regs.read(0x0C) == 100'000'000, "VERSION and CLOCK_HZ");
    bench.check(regs.read(0x10) == 8192 && regs.read(0x14) == (lanes == 16 ? 6144 : 4096), "memories");
    bench.check(regs.read(0x18) == 512 && regs.read(0x1C) == 512, "accumulators and line");
    for (int i = 0; i < 20'000; ++i) {
        for (int word = 0; word < 10; ++word) regs.unit.counters[word] = bench.random();
        regs.unit.busy = bench.random() & 1, regs.unit.done = bench.random() & 1, regs.unit.error = bench.random() & 1;
        regs.unit.error_code = bench.random(), regs.unit.error_index = bench.random();
        const unsigned offset = 4 * (bench.chance(90) ? bench.pick(8, 42) : bench.pick(0, 1023));
        const unsigned strobes = bench.chance(50) ? 15 : bench.pick(0, 15);
        if (bench.chance(50) && offset != 0x20) regs.write(offset, bench.random(), strobes);
        else if (offset == 0x20) regs.write(offset, bench.random() & (bench.chance(90) ? ~2u : ~0u), strobes);
        regs.outputs();
        const uint32_t value = regs.read(offset);
        if (regs.model.count(offset)) bench.check(value == regs.model[offset], "reads what was written", offset);
        else if (offset == 0x24) bench.check(value == status(regs.unit), "STATUS");
        else if (offset == 0x28) bench.check(value == regs.unit.error_index, "ERROR_INDEX");
        else if (offset >= 0x80 && offset <= 0xA4) bench.check(value == regs.unit.counters[(offset - 0x80) / 4],
            "a counter", offset);
        else if (offset > 0x1C) bench.check(value == 0, "no register reads 0", offset);
    }
    bench.check(regs.starts == regs.start_writes && regs.starts > 50, "a start for each write", regs.starts);
    bench.check(regs.resets == regs.reset_writes && regs.resets > 5, "a reset for each write", regs.resets);
    bench.check(regs.clears == regs.clear_writes && regs.clears > 50, "done cleared by each write", regs.clears);
    return bench.report();
}
