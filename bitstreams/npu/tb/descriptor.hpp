// Fields of a compute descriptor for the benches of blocks that look into one: {word, low bit, bits}.
#pragma once

#include <cstdint>

struct Field {
    int word, low, bits;
};

constexpr Field OPCODE{0, 0, 8}, FLAGS{0, 8, 8}, WAIT{0, 16, 8}, SIGNAL{0, 24, 8}, IN_BASE{1, 0, 20};
constexpr Field Y0{8, 0, 12}, X0{8, 12, 12}, PAD_VALUE{8, 24, 8}, IN_H{9, 0, 12}, IN_W{9, 12, 12}, ZERO_POINT{9, 24, 8};
constexpr Field Y_B{10, 0, 8}, Y_E{10, 8, 8}, X_C{10, 16, 8}, X_F{10, 24, 8}, OUT_BASE{11, 0, 16}, OUT_STEP{11, 16, 16};
constexpr Field WEIGHT_ROW{12, 0, 16}, ACT_MIN{12, 16, 8}, ACT_MAX{12, 24, 8}, STRIDE_Y{13, 0, 8}, STRIDE_X{13, 8, 8};
constexpr Field RATIO_A{13, 0, 24}, SHIFT{13, 24, 8}, RATIO_B{14, 0, 24}, OFFSET_HIGH{14, 24, 8}, OFFSET_LOW{15, 0, 32};
constexpr int CONV = 3, DEPTHWISE = 4, POOL = 5, ADD = 6;
constexpr int DRAIN = 1, PACKED = 2, MAX = 4, KEEP = 16, PARTIAL = 32;

// Loops A to F are 0 to 5; counts are stored less one.
constexpr Field count_of(int loop) { return {2 + loop, 0, 12}; }
constexpr Field step_of(int loop) { return {2 + loop, 12, 20}; }

template <class Words> void put(Words &words, Field field, int64_t value) {
    const uint32_t mask = uint32_t((uint64_t{1} << field.bits) - 1) << field.low;
    words[field.word] = (words[field.word] & ~mask) | (uint32_t(value) << field.low & mask);
}
template <class Words> void clear(Words &words) {
    for (int i = 0; i < 16; i++) words[i] = 0;
}
