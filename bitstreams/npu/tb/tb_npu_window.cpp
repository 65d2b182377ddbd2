// Shifted and padded words, and the window of random depthwise streams (with gaps, other words between the planes)
// against the words that came before.
#include <cstring>
#include <type_traits>
#include <vector>

#include "Vnpu_window.h"
#include "bench.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_window::word0)>;
constexpr size_t L = sizeof(Word);
using Bytes = std::vector<uint8_t>;

struct Driver {
    Bench bench{5};
    Vnpu_window top;
    uint8_t pad = 0;
    bool valid4 = false, depthwise4 = false;

    // A word through stage 3; what it is at stage 4.
    Bytes step(bool valid, bool depthwise, bool first_in_row, bool new_pad) {
        uint8_t both[2 * L];
        for (uint8_t &byte : both) byte = uint8_t(bench.random());
        std::memcpy(&top.word0, both, L), std::memcpy(&top.word1, both + L, L);
        const int shift = depthwise ? 0 : int(bench.pick(0, L / 4 - 1));
        top.valid3 = valid, top.in_plane3 = bench.chance(80), top.shift3 = shift, top.depthwise3 = depthwise;
        top.first_in_row3 = first_in_row, top.load_pad3 = new_pad, top.pad_value = uint8_t(bench.random());
        top.valid4 = valid4, top.depthwise4 = depthwise4;
        if (valid && new_pad) pad = top.pad_value;
        Bytes word(both + 4 * shift, both + 4 * shift + L);
        if (!top.in_plane3) word.assign(L, pad);
        cycle(top);
        valid4 = valid, depthwise4 = depthwise;
        top.valid4 = valid4, top.depthwise4 = depthwise4, top.valid3 = 0, top.clk = 0;
        top.eval();
        if (valid) bench.check(!std::memcmp(&top.word, word.data(), L), "word");
        return word;
    }
};

int main() {
    Driver d;
    for (int run = 0; run < 60; run++) {
        for (int i = int(d.bench.pick(0, 20)); i > 0; i--)
            d.step(d.bench.chance(70), false, d.bench.chance(30), run == 0 || d.bench.chance(10));
        const int rows = int(d.bench.pick(3, 8)), columns = int(d.bench.pick(3, 20));
        std::vector<Bytes> plane;
        for (int y = 0; y < rows; y++)
            for (int x = 0; x < columns; x++) {
                while (d.bench.chance(10)) d.step(false, true, d.bench.chance(50), false);
                plane.push_back(d.step(true, true, x == 0, x + y == 0));
                if (y < 2 || x < 2) continue;
                bool good = true;
                for (int t = 0; t < 9; t++) {
                    const Bytes &tap = plane[size_t((y - 2 + t / 3) * columns + x - 2 + t % 3)];
                    good &= !std::memcmp(reinterpret_cast<uint8_t *>(&d.top.window) + size_t(t) * L, tap.data(), L);
                }
                d.bench.check(good, "window", uint64_t(run));
            }
    }
    return d.bench.report();
}
