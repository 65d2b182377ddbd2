// Random passes of CONV and DEPTHWISE, back to back with gaps, the extreme weights and activations among them: the sums
// four cycles after stage 4, while the rows of the next pass arrive.
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_array.h"
#include "bench.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_array::word)>;
constexpr int L = sizeof(Word);

struct Weights {
    bool depthwise = false;
    int8_t conv[L][L] = {};  // [output][input]
    int8_t taps[10][L] = {};
};

struct Driver {
    Bench bench{7};
    Vnpu_array top;
    Weights active, next;
    int row = 0;                            // of `next`, the one to come
    std::deque<std::pair<int, std::vector<int>>> stages = std::deque<std::pair<int, std::vector<int>>>(5);  // {1 + depthwise, sums}

    int8_t value() {
        const uint64_t kind = bench.pick(0, 9);
        return kind == 0 ? -128 : kind == 1 ? 127 : kind == 2 ? -1 : int8_t(bench.random());
    }
    int rows() const { return next.depthwise ? 5 : L / 2; }
    void prepare() {
        next.depthwise = bench.chance(50), row = 0;
        for (auto &line : next.conv)
            for (int8_t &weight : line) weight = value();
        for (auto &tap : next.taps)
            for (int8_t &weight : tap) weight = value();
    }
    void load_row() {
        const bool valid = row < rows() && bench.chance(80);
        top.row_valid = valid, top.row_depthwise = next.depthwise, top.row_number = row;
        if (!valid) return;
        int8_t *bytes = reinterpret_cast<int8_t *>(&top.row);
        std::memcpy(bytes, next.depthwise ? next.taps[2 * row] : next.conv[2 * row], L);
        std::memcpy(bytes + L, next.depthwise ? next.taps[2 * row + 1] : next.conv[2 * row + 1], L);
        std::vector<uint32_t> high(9 * L / 32 + 2);
        for (int i = 0; i < L; i++) {
            const uint32_t above = uint32_t(bytes[L + i] - (bytes[i] < 0)) & 0x1FF;
            for (int bit = 0; bit < 9; bit++) high[size_t(9 * i + bit) / 32] |= (above >> bit & 1) << (9 * i + bit) % 32;
        }
        std::memcpy(&top.high_weights, high.data(), sizeof top.high_weights);
        row++;
    }
    void step(bool valid, bool swap) {
        load_row();
        int8_t window[9][L], *word = window[8];
        for (auto &tap : window)
            for (int8_t &byte : tap) byte = value();
        std::memcpy(&top.word, word, L), std::memcpy(&top.window, window, sizeof window);
        if (swap) active = next;
        std::vector<int> sums(L);
        for (int o = 0; o < L; o++)
            for (int k = 0; k < (active.depthwise ? 9 : L); k++)
                sums[size_t(o)] += active.depthwise ? active.taps[k][o] * window[k][o] : active.conv[o][k] * word[k];
        stages.push_front({valid ? 1 + active.depthwise : 0, sums}), stages.pop_back();
        top.swap4 = swap, top.depthwise4 = active.depthwise, top.valid4 = valid;
        top.valid5 = stages[1].first > 0, top.valid6 = stages[2].first > 0, top.valid7 = stages[3].first > 0;
        top.depthwise6 = stages[2].first == 2;
        cycle(top, [&] {
            if (stages[4].first) bench.check(!std::memcmp(&top.sums, stages[4].second.data(), 4 * L), "sums");
        });
    }
};

int main() {
    Driver d;
    d.prepare();
    while (d.row < d.rows()) d.step(false, false);
    for (int pass = 0; pass < 200; pass++) {
        d.step(false, false);
        d.step(d.bench.chance(80), true);
        d.prepare();
        for (int i = int(d.bench.pick(0, 20)); i > 0 || d.row < d.rows(); i--) d.step(d.bench.chance(80), false);
    }
    return d.bench.report();
}
