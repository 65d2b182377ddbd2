// The memory behind the core's AXI4 master: latency, stalls, faults, and a check of every rule that the core must keep.
//
// Stricter than a real controller where that finds bugs: a read sees memory as it was when its address was taken, a
// write is seen only once its response has been offered, and memory that nobody mapped answers DECERR.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <string>

namespace axi {

constexpr unsigned kBeatBytes = 8;
constexpr unsigned kMaxBeats = 16;
constexpr unsigned kBlockBytes = kBeatBytes * kMaxBeats;  // bursts never cross an aligned block of this size
constexpr unsigned kDepth = 8;                            // bursts taken and not yet answered, per direction
constexpr uint8_t kOkay = 0, kSlaveError = 2, kDecodeError = 3;

struct Timing {
    uint32_t read_latency;   // cycles from the address handshake to the first beat
    uint32_t write_latency;  // cycles from the last beat to the response
    uint32_t stall_permille; // chance of a stall, each cycle, on each of the five channels
    uint64_t seed;
};

// What goes wrong, and after how many more bursts; kNever: nothing.
struct Fault {
    static constexpr uint32_t kNever = UINT32_MAX;
    uint32_t error_after = kNever;
    uint32_t hang_after = kNever;

    // Called for each burst: must it be answered with an error?
    bool error() { return error_after != kNever && error_after-- == 0; }
    // Called for each burst: has the bus hung by now?
    bool hang() { return hang_after != kNever && (hang_after == 0 || hang_after-- == 0); }
};

struct Burst {
    uint64_t address;
    uint64_t due;  // cycle from which on it is answered
    uint8_t beats;
    uint8_t response;
    bool hung;
    uint64_t data[kMaxBeats];
    uint8_t strobes[kMaxBeats];
};

struct Queue {
    Burst burst[kDepth];
    unsigned head = 0, count = 0;

    bool full() const { return count == kDepth; }
    Burst &front() { return burst[head]; }
    Burst &at(unsigned i) { return burst[(head + i) % kDepth]; }
    Burst &push() { return at(count++); }
    void pop() { head = (head + 1) % kDepth, --count; }
};

class Ddr {
  public:
    Fault read_fault, write_fault;
    uint64_t read_bursts = 0, write_bursts = 0;

    explicit Ddr(const Timing &timing) : timing_(timing), random_(timing.seed * 2 + 1) {}

    // `bytes` of the caller's memory from `address` on, until `unmap`.
    void map(uint64_t address, uint64_t bytes, uint8_t *data) { ranges_[address] = {bytes, data}; }
    void unmap(uint64_t address) { ranges_.erase(address); }

    // The first rule that the core broke; empty: none.
    const std::string &violation() const { return violation_; }

    // The bus comes back: what hung is answered.
    void clear_faults() {
        read_fault = write_fault = Fault();
        for (auto &burst : reads_.burst) burst.hung = false;
        for (auto &burst : writes_.burst) burst.hung = false;
    }

    // What the memory drives in cycle `now`.
    template <class Core> void drive(Core &core, uint64_t now) {
        core.m_axi_arready = !reads_.full() && !stall();
        core.m_axi_awready = !writes_.full() && !stall();
        core.m_axi_wready = filling_ < writes_.count && !stall();
        if (r_taken_) core.m_axi_rvalid = 0;
        if (b_taken_) core.m_axi_bvalid = 0;
        r_taken_ = b_taken_ = false;
        if (!core.m_axi_rvalid && reads_.count) {
            Burst &burst = reads_.front();
            if (now >= burst.due && !burst.hung && !stall()) {
                core.m_axi_rvalid = 1;
                core.m_axi_rdata = burst.data[read_beat_];
                core.m_axi_rresp = burst.response;
                core.m_axi_rlast = read_beat_ + 1 == burst.beats;
            }
        }
        if (!core.m_axi_bvalid && filling_) {
            Burst &burst = writes_.front();
            if (now >= burst.due && !burst.hung && !stall()) {
                commit(burst);
                core.m_axi_bvalid = 1;
                core.m_axi_bresp = burst.response;
            }
        }
    }

    // What the core drives in cycle `now`, settled: takes addresses and data, ends handshakes.
    template <class Core> void observe(Core &core, uint64_t now) {
        if (core.m_axi_arvalid | ar_.waits) {
            check_stable(ar_, core.m_axi_arvalid, core.m_axi_arready, core.m_axi_araddr, core.m_axi_arlen, "AR", now);
            if (core.m_axi_arvalid && core.m_axi_arready)
                take_read(core.m_axi_araddr, core.m_axi_arlen, core.m_axi_arsize, core.m_axi_arburst, now);
        }
        if (core.m_axi_awvalid | aw_.waits) {
            check_stable(aw_, core.m_axi_awvalid, core.m_axi_awready, core.m_axi_awaddr, core.m_axi_awlen, "AW", now);
            if (core.m_axi_awvalid && core.m_axi_awready)
                take_write(core.m_axi_awaddr, core.m_axi_awlen, core.m_axi_awsize, core.m_axi_awburst, now);
        }
        if (core.m_axi_wvalid | w_.waits) {
            check_stable(w_, core.m_axi_wvalid, core.m_axi_wready, core.m_axi_wdata,
                         core.m_axi_wstrb | core.m_axi_wlast << 8, "W", now);
            if (core.m_axi_wvalid && core.m_axi_wready)
                take_beat(core.m_axi_wdata, core.m_axi_wstrb, core.m_axi_wlast, now);
        }
        if (core.m_axi_rvalid && core.m_axi_rready) {
            r_taken_ = true;
            if (++read_beat_ == reads_.front().beats) {
                reads_.pop();
                read_beat_ = 0;
            }
        }
        if (core.m_axi_bvalid && core.m_axi_bready) {
            b_taken_ = true;
            writes_.pop();
            --filling_;
        }
    }

  private:
    struct Range {
        uint64_t bytes;
        uint8_t *data;
    };
    struct Held {  // a payload that waits for its handshake
        bool waits = false;
        uint64_t payload = 0;
        uint32_t more = 0;
    };

    Timing timing_;
    uint64_t random_;
    std::map<uint64_t, Range> ranges_;
    Queue reads_, writes_;
    unsigned read_beat_ = 0;   // next beat of the front read
    unsigned filling_ = 0;     // writes whose data are complete; the one at this index takes the next beat
    unsigned write_beat_ = 0;  // next beat of that one
    bool r_taken_ = false, b_taken_ = false;  // the response that is driven was taken
    Held ar_, aw_, w_;
    std::string violation_;

    bool stall() {
        if (!timing_.stall_permille) return false;
        random_ ^= random_ << 13, random_ ^= random_ >> 7, random_ ^= random_ << 17;
        return (random_ >> 20) % 1000 < timing_.stall_permille;
    }

    void violate(const char *what, uint64_t address, uint64_t now) {
        if (!violation_.empty()) return;
        char text[160];
        std::snprintf(text, sizeof text, "%s (at 0x%llx, cycle %llu)", what, (unsigned long long)address,
                      (unsigned long long)now);
        violation_ = text;
    }

    void check_stable(Held &held, bool valid, bool ready, uint64_t payload, uint32_t more, const char *name, uint64_t now) {
        if (held.waits && (!valid || payload != held.payload || more != held.more))
            violate((std::string(name) + " changed or was withdrawn before its handshake").c_str(), held.payload, now);
        held.waits = valid && !ready;
        held.payload = payload;
        held.more = more;
    }

    // Where a burst's bytes lie; null when they are not all mapped.
    uint8_t *host(const Burst &burst) {
        auto range = ranges_.upper_bound(burst.address);
        if (range == ranges_.begin()) return nullptr;
        --range;
        const uint64_t offset = burst.address - range->first;
        return offset + burst.beats * kBeatBytes <= range->second.bytes ? range->second.data + offset : nullptr;
    }

    void open(Burst &burst, uint64_t address, unsigned len, unsigned size, unsigned kind, uint64_t now) {
        const unsigned bytes = (len + 1) * kBeatBytes;
        if (len >= kMaxBeats) violate("a burst of more than 16 beats", address, now);
        if (size != 3 || kind != 1) violate("a burst that is not INCR with 8-byte beats", address, now);
        if (address % kBeatBytes) violate("an address that is not a multiple of 8", address, now);
        if (address % kBlockBytes + bytes > kBlockBytes) violate("a burst across a 128-byte block", address, now);
        burst.beats = len + 1 > kMaxBeats ? kMaxBeats : len + 1;
        burst.address = address & ~uint64_t(kBeatBytes - 1);
        burst.response = host(burst) ? kOkay : kDecodeError;
    }

    void take_read(uint64_t address, unsigned len, unsigned size, unsigned kind, uint64_t now) {
        Burst &burst = reads_.push();
        open(burst, address, len, size, kind, now);
        burst.due = now + timing_.read_latency;
        burst.hung = read_fault.hang();
        if (read_fault.error()) burst.response = kSlaveError;
        if (burst.response == kOkay)
            std::memcpy(burst.data, host(burst), burst.beats * kBeatBytes);
        else
            std::memset(burst.data, 0x5A, sizeof burst.data);
        ++read_bursts;
    }

    void take_write(uint64_t address, unsigned len, unsigned size, unsigned kind, uint64_t now) {
        Burst &burst = writes_.push();
        open(burst, address, len, size, kind, now);
        burst.hung = write_fault.hang();
        if (write_fault.error()) burst.response = kSlaveError;
        ++write_bursts;
    }

    void take_beat(uint64_t data, uint8_t strobes, bool last, uint64_t now) {
        Burst &burst = writes_.at(filling_);
        burst.data[write_beat_] = data;
        burst.strobes[write_beat_] = strobes;
        const bool complete = ++write_beat_ == burst.beats;
        if (last != complete) violate("WLAST on another beat than the last", 0, now);
        if (complete) {
            burst.due = now + timing_.write_latency;
            write_beat_ = 0;
            ++filling_;
        }
    }

    void commit(const Burst &burst) {
        uint8_t *to = host(burst);
        if (burst.response != kOkay || !to) return;
        for (unsigned beat = 0; beat < burst.beats; ++beat, to += kBeatBytes) {
            if (burst.strobes[beat] == 0xFF) {
                std::memcpy(to, &burst.data[beat], kBeatBytes);
                continue;
            }
            for (unsigned byte = 0; byte < kBeatBytes; ++byte)
                if (burst.strobes[beat] >> byte & 1) to[byte] = uint8_t(burst.data[beat] >> 8 * byte);
        }
    }
};

}  // namespace axi
