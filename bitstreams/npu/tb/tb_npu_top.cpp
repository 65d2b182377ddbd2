// Bench of npu_top without the datapath: chains of LOAD and STORE in two halves of the activation memory, that overlap
// as double buffering lets them, against a model that runs them one by one; errors; watchdog; soft reset at any
// moment.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "../../../simulator/overlay/ddr.hpp"
#include "Vnpu_top.h"
#include "bench.hpp"
#include "verilated.h"

namespace {

constexpr uint64_t kMemory = 0x12'3456'0000;
constexpr unsigned kRegionBytes = 1 << 16;
constexpr unsigned kLoad = 1, kStore = 2, kEnd = 15;
constexpr unsigned kWeights = 8;
constexpr unsigned kLoadStore = 1 << 4, kStoreLoad = 1 << 5;
constexpr unsigned kControl = 0x20, kStatus = 0x24, kErrorIndex = 0x28, kWatchdog = 0x2C, kChain = 0x30;
constexpr unsigned kRegion = 0x40, kCycles = 0x80, kReadBeats = 0x9C, kWriteBeats = 0xA0, kDescriptors = 0xA4;
constexpr unsigned kBusy = 1, kDone = 2, kError = 4;
constexpr unsigned kOpcode = 1, kBounds = 2, kAxi = 4, kHung = 5;

struct Transfer {
    unsigned opcode = kEnd, flags = 0, waits = 0, signals = 0, region = 0, chip = 0, runs = 0, words = 0, chip_step = 0;
    uint32_t offset = 0, region_step = 0;

    void encode(uint8_t *to) const {
        const uint32_t word[16] = {opcode | flags << 8 | waits << 16 | signals << 24, offset, region, chip, runs, words,
                                   region_step, chip_step};
        std::memcpy(to, word, sizeof word);
    }
};

class Core {
  public:
    Core(Bench &bench, const axi::Timing &timing) : ddr(timing), bench_(bench), memory(4 * kRegionBytes + 256) {
        for (auto &byte : memory) byte = bench.random();
        ddr.map(kMemory, memory.size(), memory.data());
        Vnpu_top &t = *core_;
        t.s_axi_awvalid = t.s_axi_wvalid = t.s_axi_bready = t.s_axi_arvalid = t.s_axi_rready = 0;
        t.m_axi_arready = t.m_axi_rvalid = t.m_axi_awready = t.m_axi_wready = t.m_axi_bvalid = 0;
        t.aresetn = 0;
        for (int i = 0; i < 4; ++i) cycle(t);
        t.aresetn = 1;
        lanes = read(8);
        configure();
    }
    ~Core() { bench_.check(ddr.violation().empty(), ddr.violation().c_str()); }

    void configure() {
        for (unsigned i = 0; i < 4; ++i) {
            const uint64_t base = kMemory + 64 + i * kRegionBytes;
            write(kRegion + 16 * i, uint32_t(base));
            write(kRegion + 16 * i + 4, base >> 32);
            write(kRegion + 16 * i + 8, kRegionBytes);
        }
    }
    uint8_t *region(unsigned i) { return memory.data() + 64 + i * kRegionBytes; }

    void tick() {
        tick([] {});
    }
    void write(unsigned offset, uint32_t value) {
        Vnpu_top &t = *core_;
        t.s_axi_awaddr = offset, t.s_axi_wdata = value, t.s_axi_wstrb = 15;
        t.s_axi_awvalid = t.s_axi_wvalid = t.s_axi_bready = 1;
        bus([&] { return t.s_axi_awready && t.s_axi_wready; });
        t.s_axi_awvalid = t.s_axi_wvalid = 0;
        bus([&] { return t.s_axi_bvalid; });
        t.s_axi_bready = 0;
    }
    uint32_t read(unsigned offset) {
        Vnpu_top &t = *core_;
        t.s_axi_araddr = offset, t.s_axi_arvalid = t.s_axi_rready = 1;
        bus([&] { return t.s_axi_arready; });
        t.s_axi_arvalid = 0;
        uint32_t value = 0;
        bus([&] { return value = t.s_axi_rdata, t.s_axi_rvalid; });
        t.s_axi_rready = 0;
        return value;
    }
    bool interrupt() const { return core_->irq; }
    bool run(unsigned cycles) {
        while (cycles-- && !interrupt()) tick();
        return interrupt();
    }
    bool start(unsigned chain, unsigned cycles) {
        write(kChain, chain);
        write(kControl, 5);
        return run(cycles);
    }
    bool reset() {
        write(kControl, 2);
        for (int i = 0; i < 2000 && read(kStatus); ++i) {}
        const bool quiet = read(kStatus) == 0;
        configure();
        return quiet;
    }

    axi::Ddr ddr;
    unsigned lanes = 0;
    uint64_t now = 0;

  private:
    template <class Look> void tick(Look look) {
        ddr.drive(*core_, now);
        cycle(*core_, [&] { ddr.observe(*core_, now), look(); });
        ++now;
    }
    // Cycles until one in which `taken` holds.
    template <class Taken> void bus(Taken taken) {
        bool took = false;
        for (int i = 0; i < 20 && !took; ++i) tick([&] { took = taken(); });
        bench_.check(took, "the register bus answers");
    }

    Bench &bench_;
    VerilatedContext context_;
    std::unique_ptr<Vnpu_top> core_{std::make_unique<Vnpu_top>(&context_)};

  public:
    std::vector<uint8_t> memory;
};

// A LOAD or STORE of one half of the activation memory, its runs anywhere in the region.
Transfer random_transfer(Bench &bench, unsigned opcode, unsigned half, unsigned region, unsigned lanes) {
    const unsigned words = 4096;  // of a half
    Transfer t;
    t.opcode = opcode, t.region = region;
    t.words = bench.chance(50) ? bench.pick(1, 6) : bench.pick(1, 90);
    t.runs = bench.chance(40) ? 1 : bench.pick(2, bench.chance(50) ? 4 : 20);
    t.chip_step = bench.pick(0, (words - t.words) / t.runs);
    t.region_step = bench.pick(0, (kRegionBytes - t.words * lanes) / t.runs / 8) * 8;
    if (bench.chance(60)) t.region_step = std::min<unsigned>(t.region_step, t.words * lanes);
    t.chip = half * words + bench.pick(0, words - (t.runs - 1) * t.chip_step - t.words);
    t.offset = 8 * bench.pick(0, (kRegionBytes - (t.runs - 1) * t.region_step - t.words * lanes) / 8);
    return t;
}

struct Model {
    std::vector<uint8_t> chip, memory;
    void run(const Transfer &t, unsigned lanes) {
        for (unsigned run = 0; run < t.runs; ++run) {
            uint8_t *on_chip = &chip[(t.chip + run * t.chip_step) * lanes];
            uint8_t *outside = &memory[64 + t.region * kRegionBytes + t.offset + run * t.region_step];
            const unsigned bytes = t.words * lanes;
            t.opcode == kLoad ? std::memcpy(on_chip, outside, bytes) : std::memcpy(outside, on_chip, bytes);
        }
    }
};

std::vector<Transfer> random_chain(Bench &bench, unsigned lanes) {
    std::vector<Transfer> chain;
    const unsigned batches = bench.pick(1, 6);
    for (unsigned b = 0; b < batches; ++b) {
        const unsigned loads = bench.pick(1, 5), stores = bench.pick(1, 5), half = b & 1;
        for (unsigned i = 0; i < loads; ++i) {
            chain.push_back(random_transfer(bench, kLoad, half, bench.chance(50) ? 1 : 2 + half, lanes));
            if (i == 0 && b >= 2) chain.back().waits = kStoreLoad;
            if (i == loads - 1) chain.back().signals = kLoadStore;
        }
        for (unsigned i = 0; i < stores; ++i) {
            chain.push_back(random_transfer(bench, kStore, half, 2 + half, lanes));
            if (i == 0) chain.back().waits = kLoadStore;
            if (i == stores - 1) chain.back().signals = kStoreLoad;
        }
    }
    chain.emplace_back();
    return chain;
}

void put(Core &core, const std::vector<Transfer> &chain, unsigned offset) {
    for (size_t i = 0; i < chain.size(); ++i) chain[i].encode(core.region(0) + offset + 64 * i);
}

unsigned put(Bench &bench, Core &core, const std::vector<Transfer> &chain) {
    const unsigned offset = 64 * bench.pick(0, kRegionBytes / 64 - chain.size());
    put(core, chain, offset);
    return offset;
}

// One chain to its end; the memory and the counters against the model.
void copy(Bench &bench, Core &core, Model &model) {
    const auto chain = random_chain(bench, core.lanes);
    const unsigned offset = put(bench, core, chain);
    model.memory = core.memory;
    uint64_t read = 0, written = 0;
    for (const auto &t : chain) {
        model.run(t, core.lanes);
        (t.opcode == kLoad ? read : written) += t.runs * t.words * core.lanes / 8;
    }
    bench.check(core.start(offset, 100'000), "the chain ends", chain.size());
    bench.check(core.read(kStatus) == kDone, "status done", core.read(kStatus));
    bench.check(core.memory == model.memory, "memory as the model's", chain.size());
    bench.check(core.read(kDescriptors) == chain.size() - 1, "descriptors counted", core.read(kDescriptors));
    bench.check(core.read(kWriteBeats) == written, "beats written", core.read(kWriteBeats));
    bench.check(core.read(kReadBeats) >= read + 8 * chain.size(), "beats read", core.read(kReadBeats));
    core.write(kStatus, kDone);
    bench.check(core.read(kStatus) == 0 && !core.interrupt(), "done is cleared");
}

// A chain whose descriptor `index` fails; then the core is reset and works.
void failure(Bench &bench, Core &core, Model &model, const std::vector<Transfer> &chain, unsigned code, unsigned index,
             const char *what) {
    const unsigned offset = put(bench, core, chain);
    bench.check(core.start(offset, 100'000), what, code);
    bench.check(core.read(kStatus) == (kError | code << 8), what, core.read(kStatus));
    bench.check(core.read(kErrorIndex) == index, what, core.read(kErrorIndex));
    core.ddr.clear_faults();
    core.write(kControl, 5);
    bench.check(core.read(kStatus) & kError, "no start in error");
    bench.check(core.reset(), "reset after an error");
    model.chip.assign(model.chip.size(), 0);
    Transfer all;  // the model's chip is not known after a chain that was stopped
    all.opcode = kStore, all.region = 3, all.runs = 1, all.words = 2048;
    for (unsigned at = 0; at < 8192; at += 2048) {
        all.chip = at;
        const unsigned chain_at = put(bench, core, {all, Transfer()});
        bench.check(core.start(chain_at, 20'000), "a chain after an error");
        std::memcpy(&model.chip[at * core.lanes], core.region(3), 2048 * core.lanes);
    }
    copy(bench, core, model);
}

void failures(Bench &bench, Core &core, Model &model) {
    Transfer good;
    good.opcode = kLoad, good.region = 1, good.chip = 5, good.runs = 3, good.words = 7, good.region_step = 256,
        good.chip_step = 9;
    const unsigned last = kRegionBytes - 7 * core.lanes;
    const auto bad = [&](auto change, unsigned code, const char *what) {
        for (unsigned opcode : {kLoad, kStore}) {
            Transfer t = good;
            t.opcode = opcode;
            change(t);
            const unsigned before = bench.pick(0, 12);
            std::vector<Transfer> chain(before, good);
            chain.push_back(t);
            chain.resize(before + 1 + bench.pick(0, 12), good);
            chain.emplace_back();
            failure(bench, core, model, chain, code, before, what);
        }
    };
    bad([&](Transfer &t) { t.opcode = 0x10 + t.opcode; }, kOpcode, "opcode");
    bad([&](Transfer &t) { t.runs = 0; }, kBounds, "no runs");
    bad([&](Transfer &t) { t.words = 0; }, kBounds, "no words");
    bad([&](Transfer &t) { t.offset = 4; }, kBounds, "offset's alignment");
    bad([&](Transfer &t) { t.region_step = 12; }, kBounds, "step's alignment");
    bad([&](Transfer &t) { t.offset = last + 8; t.runs = 1; }, kBounds, "a word outside the region");
    bad([&](Transfer &t) { t.offset = last - 504; t.region_step = 256; }, kBounds, "a run outside the region");
    bad([&](Transfer &t) { t.offset = 0xFFFFFFF8; t.runs = 1; }, kBounds, "an offset that wraps");
    bad([&](Transfer &t) { t.region_step = 0x80000000; }, kBounds, "a step that wraps");
    bad([&](Transfer &t) { t.region_step = 0x55555558; t.runs = 4; }, kBounds, "a product that wraps");
    bad([&](Transfer &t) { t.runs = 65535; t.region_step = 0x10008; t.words = 1; t.chip_step = 0; }, kBounds,
        "many runs");
    bad([&](Transfer &t) { t.chip = 8192 - 24; t.offset = 0; }, kBounds, "a word outside the chip");
    bad([&](Transfer &t) { t.chip_step = 0x8000; t.offset = 0; }, kBounds, "a step outside the chip");
    bad([&](Transfer &t) { t.chip_step = 0x5556; t.runs = 4; t.chip = 0; }, kBounds, "a chip product that wraps");
    Transfer weights = good;
    weights.flags = kWeights, weights.runs = 1, weights.chip = core.read(0x14) * 2 - 6;
    failure(bench, core, model, {good, weights, Transfer()}, kBounds, 1, "a weight outside the chip");

    // Just inside, at all four ends.
    Transfer edge = good;
    edge.offset = last - 512, edge.chip = 8192 - 7 - 18;
    Transfer edge_weights = weights;
    edge_weights.chip -= 1;
    const unsigned chain = put(bench, core, {edge, edge_weights, Transfer()});
    model.memory = core.memory;
    model.run(edge, core.lanes);
    bench.check(core.start(chain, 10'000) && core.read(kStatus) == kDone, "the last words are inside");

    core.write(kRegion + 8, 64 * 20);
    std::vector<Transfer> endless(20, good);
    for (int i = 0; i < 20; ++i) good.encode(core.region(0) + 64 * i);
    bench.check(core.start(64 * 13, 10'000), "a chain without end");
    bench.check(core.read(kStatus) == (kError | kBounds << 8) && core.read(kErrorIndex) == 7,
        "fetch outside", core.read(kErrorIndex));
    core.reset();

    Transfer waiting = good;
    waiting.waits = 1;
    core.write(kWatchdog, 500);
    failure(bench, core, model, {good, good, waiting, good, Transfer()}, kHung, 2, "watchdog");
}

// Errors and silence of the memory.
void faults(Bench &bench, Core &core, Model &model) {
    Transfer load, store;
    load.opcode = kLoad, load.region = 1, load.runs = 4, load.words = 33, load.region_step = 1024, load.chip_step = 33;
    store = load;
    store.opcode = kStore, store.region = 2, store.waits = kLoadStore;
    const std::vector<Transfer> both = {load, load, store, store, load, store, Transfer()};
    for (int i = 0; i < 4; ++i) {
        const bool error = i & 1, write = i & 2;
        auto &fault = write ? core.ddr.write_fault : core.ddr.read_fault;
        (error ? fault.error_after : fault.hang_after) = bench.pick(0, write ? 12 : 25);
        core.write(kWatchdog, 3000);
        auto chain = both;
        for (auto &t : chain) t.opcode == kLoad ? t.signals = kLoadStore : 0;
        const unsigned offset = kRegionBytes - 64 * chain.size();  // at the end: nothing is fetched that is not run
        put(core, chain, offset);
        bench.check(core.start(offset, 50'000), "a fault ends", i);
        const uint32_t status = core.read(kStatus);
        bench.check(status == (kError | (error ? kAxi : kHung) << 8), "a fault is told", status);
        for (int wait = bench.pick(0, 300); wait; --wait) core.tick();
        if (!error) {
            core.write(kControl, 2);
            for (int wait = 0; wait < 200; ++wait) core.tick();
            bench.check(core.read(kStatus) == kBusy, "reset waits for the bus");
        }
        core.ddr.clear_faults();
        for (int wait = 0; wait < 400; ++wait) core.tick();
        bench.check(core.reset(), "reset after a fault");
        failure(bench, core, model, {Transfer{0x33}, Transfer()}, kOpcode, 0, "opcode after a fault");
    }
}

// A chain is reset at any moment; the next one finds the core as new.
void resets(Bench &bench, Core &core, Model &model) {
    const auto chain = random_chain(bench, core.lanes);
    const unsigned offset = put(bench, core, chain);
    core.start(offset, bench.pick(0, 900));
    if (bench.chance(50)) bench.check(core.reset(), "reset in flight");
    else core.write(kControl, 2), core.configure();
    failure(bench, core, model, {Transfer{0x33}, Transfer()}, kOpcode, 0, "opcode after a reset");
}

// CYCLES of one LOAD or STORE and END at the end of region 0 (nothing is fetched in vain), without stalls.
void exact_cycles(Bench &bench, unsigned read_latency, unsigned write_latency) {
    Core core(bench, {read_latency, write_latency, 0, 1});
    for (unsigned words : {1u, 5u, 100u}) {
        Transfer t;
        t.runs = 1, t.words = words, t.region = 1;
        const unsigned beats = words * core.lanes / 8, chain = kRegionBytes - 128;
        t.opcode = kLoad;
        put(core, {t, Transfer()}, chain);
        core.start(chain, 10'000);
        bench.check(core.read(kCycles) == 2 * read_latency + beats + 17, "cycles of a LOAD", core.read(kCycles));
        t.opcode = kStore;
        put(core, {t, Transfer()}, chain);
        core.start(chain, 10'000);
        bench.check(core.read(kCycles) == read_latency + write_latency + beats + 20,
            "cycles of a STORE", core.read(kCycles));
    }
}

void run(Bench &bench, const axi::Timing &timing, int rounds) {
    Core core(bench, timing);
    Model model;
    model.chip.resize(8192 * core.lanes);
    Transfer fill;
    fill.opcode = kLoad, fill.region = 1, fill.runs = 1, fill.words = 2048;
    std::vector<Transfer> chain;
    for (fill.chip = 0; fill.chip < 8192; fill.chip += 2048) chain.push_back(fill);
    model.memory = core.memory;
    for (const auto &t : chain) model.run(t, core.lanes);
    chain.emplace_back();
    bench.check(core.start(put(bench, core, chain), 100'000), "the chip is filled");
    for (int i = 0; i < rounds; ++i) copy(bench, core, model);
    failures(bench, core, model);
    faults(bench, core, model);
    for (int i = 0; i < rounds; ++i) resets(bench, core, model);
}

}  // namespace

int main() {
    Bench bench(20);
    exact_cycles(bench, 40, 40);
    exact_cycles(bench, 7, 1);
    run(bench, {40, 10, 0, 1}, 30);
    run(bench, {2, 0, 0, 2}, 20);
    run(bench, {25, 30, 300, 3}, 30);
    run(bench, {0, 0, 600, 4}, 20);
    return bench.report();
}
