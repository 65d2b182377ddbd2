// The core with its memory as a library for ctypes (simulator/overlay/rtl.py): one `Twin` is one overlay.
#include <cstdint>
#include <memory>
#include <vector>

#include "Vnpu_top.h"
#include "ddr.hpp"
#include "verilated.h"

#define TWIN_API extern "C" __attribute__((visibility("default")))

namespace {

constexpr unsigned kBusLimit = 4096;       // cycles that a register may take to answer
constexpr size_t kMaxEnds = 1 << 20;       // ends of compute descriptors that are remembered
constexpr unsigned kResetCycles = 8;

class Twin {
  public:
    explicit Twin(const axi::Timing &timing) : ddr(timing), core_(make(context_, timing.seed)) {
        Vnpu_top &core = *core_;  // its inputs are random, too
        core.s_axi_awvalid = core.s_axi_wvalid = core.s_axi_bready = core.s_axi_arvalid = core.s_axi_rready = 0;
        core.m_axi_arready = core.m_axi_rvalid = core.m_axi_awready = core.m_axi_wready = core.m_axi_bvalid = 0;
        core.aresetn = 0;  // its outputs mean nothing yet: the memory does not look
        for (unsigned i = 0; i < 2 * kResetCycles; ++i) {
            core.clk = i & 1;
            core.eval();
        }
        core.aresetn = 1;
    }
    ~Twin() { core_->final(); }

    bool read(uint32_t offset, uint32_t *value) {
        Vnpu_top &core = *core_;
        core.s_axi_araddr = offset;
        core.s_axi_arvalid = 1;
        core.s_axi_rready = 1;
        const bool ok = until([&] {
            if (took_ar_) core.s_axi_arvalid = 0;
            return took_r_;
        });
        *value = data_;
        core.s_axi_arvalid = core.s_axi_rready = 0;
        return ok;
    }

    bool write(uint32_t offset, uint32_t value) {
        Vnpu_top &core = *core_;
        core.s_axi_awaddr = offset;
        core.s_axi_wdata = value;
        core.s_axi_wstrb = 0xF;
        core.s_axi_awvalid = core.s_axi_wvalid = core.s_axi_bready = 1;
        const bool ok = until([&] {
            if (took_aw_) core.s_axi_awvalid = 0;
            if (took_w_) core.s_axi_wvalid = 0;
            return took_b_;
        });
        core.s_axi_awvalid = core.s_axi_wvalid = core.s_axi_bready = 0;
        return ok;
    }

    // Runs until the core interrupts, at most `cycles`. Returns whether it interrupts.
    bool run(uint64_t cycles) {
        for (; cycles && !core_->irq; --cycles) tick();
        return core_->irq;
    }

    void start_count() {
        ends.clear();
        started_ = now;
    }

    axi::Ddr ddr;
    std::vector<uint64_t> ends;  // cycles since start_count at which compute descriptors ended
    uint64_t now = 0;

  private:
    VerilatedContext context_;
    std::unique_ptr<Vnpu_top> core_;
    uint64_t started_ = 0;
    bool took_ar_ = false, took_r_ = false, took_aw_ = false, took_w_ = false, took_b_ = false;
    uint32_t data_ = 0;

    // What no reset sets starts at random, as it may on a chip.
    static Vnpu_top *make(VerilatedContext &context, uint64_t seed) {
        context.randReset(2);
        context.randSeed(int(seed & 0x7FFFFFFF));
        return new Vnpu_top(&context);
    }

    void tick() {
        Vnpu_top &core = *core_;
        ddr.drive(core, now);
        core.clk = 0;
        core.eval();  // settles what depends on inputs without a clock
        ddr.observe(core, now);
        if (core.trace_compute_done && ends.size() < kMaxEnds) ends.push_back(now - started_);
        core.clk = 1;
        core.eval();
        ++now;
    }

    // Ticks with the handshakes of the register port noted, until `done` says so.
    template <class Done> bool until(Done done) {
        Vnpu_top &core = *core_;
        for (unsigned i = 0; i < kBusLimit; ++i) {
            core.clk = 0;
            core.eval();
            took_ar_ = core.s_axi_arvalid && core.s_axi_arready;
            took_r_ = core.s_axi_rvalid && core.s_axi_rready;
            took_aw_ = core.s_axi_awvalid && core.s_axi_awready;
            took_w_ = core.s_axi_wvalid && core.s_axi_wready;
            took_b_ = core.s_axi_bvalid && core.s_axi_bready;
            data_ = core.s_axi_rdata;
            tick();
            if (done()) return true;
        }
        return false;
    }
};

}  // namespace

TWIN_API Twin *twin_open(uint32_t read_latency, uint32_t write_latency, uint32_t stall_permille, uint64_t seed) {
    return new Twin({read_latency, write_latency, stall_permille, seed});
}
TWIN_API void twin_close(Twin *twin) { delete twin; }
TWIN_API void twin_map(Twin *twin, uint64_t address, uint64_t bytes, uint8_t *data) { twin->ddr.map(address, bytes, data); }
TWIN_API void twin_unmap(Twin *twin, uint64_t address) { twin->ddr.unmap(address); }
TWIN_API bool twin_read(Twin *twin, uint32_t offset, uint32_t *value) { return twin->read(offset, value); }
TWIN_API bool twin_write(Twin *twin, uint32_t offset, uint32_t value) { return twin->write(offset, value); }
TWIN_API void twin_start_count(Twin *twin) { twin->start_count(); }
TWIN_API bool twin_run(Twin *twin, uint64_t cycles) { return twin->run(cycles); }
TWIN_API uint64_t twin_cycles(const Twin *twin) { return twin->now; }
TWIN_API uint64_t twin_ends(const Twin *twin, const uint64_t **ends) {
    *ends = twin->ends.data();
    return twin->ends.size();
}
TWIN_API const char *twin_violation(const Twin *twin) { return twin->ddr.violation().c_str(); }
// Bursts that still pass before an error answer or a hang; UINT32_MAX: none.
TWIN_API void twin_fault(Twin *twin, uint32_t read_error, uint32_t read_hang, uint32_t write_error, uint32_t write_hang) {
    twin->ddr.clear_faults();
    twin->ddr.read_fault = {read_error, read_hang};
    twin->ddr.write_fault = {write_error, write_hang};
}
