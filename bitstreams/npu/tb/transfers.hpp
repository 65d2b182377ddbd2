// LOAD and STORE descriptors, and the regions that the benches of npu_load and npu_store give them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "bench.hpp"

constexpr unsigned kLoad = 1, kStore = 2;
constexpr unsigned kBounds = 2, kAxi = 4;
constexpr unsigned kActivationWords = 8192;
constexpr uint64_t kBase[4] = {0x12'3456'0040, 0xFF'0000'0000, 0x00'8000'1FC0, 0x00'0000'0080};
constexpr uint32_t kBytes[4] = {0x20000, 0xFFFFFFFF, 0x9000, 0x7FFFF};  // the second is as large as can be

struct Transfer {
    unsigned opcode = kLoad, flags = 0, waits = 0, signals = 0, region = 0, chip = 0, runs = 1, words = 1,
        chip_step = 0;
    uint32_t offset = 0, region_step = 0;
    unsigned index = 0;

    // Both ends inside, computed without the limits of 32 bits.
    bool inside(unsigned lanes, unsigned chip_words) const {
        const uint64_t end = offset + uint64_t(runs - 1) * region_step + uint64_t(words) * lanes;
        const uint64_t chip_end = chip + uint64_t(runs - 1) * chip_step + words;
        return runs && words && offset % 8 == 0 && region_step % 8 == 0 && end <= kBytes[region]
            && chip_end <= chip_words;
    }
    uint64_t address(unsigned run) const { return kBase[region] + offset + uint64_t(run) * region_step; }

    template <class Model> void present(Model &model) const {
        const uint32_t word[8] = {opcode | flags << 8 | waits << 16 | signals << 24, offset, region, chip, runs, words,
                                  region_step, chip_step};
        for (int i = 0; i < 8; ++i) model.desc[i] = word[i];
        model.desc_index = index;
    }
};

template <class Model> void set_regions(Model &model) {
    for (int bit = 0; bit < 160; ++bit) {
        const uint32_t mask = 1u << bit % 32;
        const bool one = kBase[bit / 40] >> bit % 40 & 1;
        model.region_base[bit / 32] = one ? model.region_base[bit / 32] | mask : model.region_base[bit / 32] & ~mask;
    }
    for (int i = 0; i < 4; ++i) model.region_bytes[i] = kBytes[i];
}

// Mostly inside; one in `outside` has its numbers from anywhere. At most some hundred words.
inline Transfer random_transfer(Bench &bench, unsigned lanes, unsigned chip_words, unsigned outside) {
    Transfer t;
    do {
        t.region = bench.pick(0, 3);
        t.words = bench.chance(50) ? bench.pick(1, 5) : bench.pick(1, 80);
        t.runs = bench.chance(50) ? 1 : bench.pick(2, t.words > 5 ? 4 : 40);
        t.chip_step = bench.pick(0, bench.chance(50) ? 100 : 2 * chip_words / t.runs);
        t.region_step = 8 * bench.pick(0, bench.chance(50) ? 100 : 0x1FFFFFFF);
        if (bench.chance(60)) t.region_step %= 8 * (uint64_t(kBytes[t.region]) / t.runs / 8 + 1);
        t.offset = 8 * bench.pick(0, bench.chance(20) ? 0x1FFFFFFF : kBytes[t.region] / 8);
        t.chip = bench.pick(0, chip_words);
        if (outside && bench.pick(1, outside) == 1) {
            const auto far = [&](uint32_t top) {
                return bench.chance(50) ? bench.pick(0, top) : (1u << bench.pick(0, 31)) & top;
            };
            switch (bench.pick(0, 5)) {
                case 0: t.offset = far(0xFFFFFFFF); break;
                case 1: t.region_step = far(0xFFFFFFFF); break;
                case 2: t.chip = far(0xFFFF); break;
                case 3: t.chip_step = far(0xFFFF); break;
                case 4: t.runs = far(0xFFFF); break;
                default: t.words = far(0xFFFF);
            }
            if (!t.inside(lanes, chip_words)) return t;
        }
    } while (!t.inside(lanes, chip_words) || t.runs * t.words > 1000);
    return t;
}

// Eight counting semaphores as an engine sees them.
struct Semaphores {
    unsigned count[8] = {};

    unsigned available() const {
        unsigned mask = 0;
        for (int s = 0; s < 8; ++s) mask |= (count[s] != 0) << s;
        return mask;
    }
    void add(unsigned mask, int what) {
        for (int s = 0; s < 8; ++s) if (mask >> s & 1) count[s] += what;
    }
};
