// Random descriptors' outputs: each word at its address, requantised (the lane has a bench of its own: here the scales
// are powers of two), in order and once; `done` with the signal mask at the end of each descriptor, also of one that
// writes nothing; words outside of the memory are an error and are not written.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_output.h"
#include "bench.hpp"
#include "descriptor.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_output::a)>;
constexpr int L = sizeof(Word);
constexpr int MEMORY = 8192;  // words, in both overlays
enum class At { INSIDE, LAST, BEYOND, FAR };  // where a descriptor's words go: LAST ends with the memory's last word

struct Written {
    bool write, done;
    int address, signal;
    std::vector<int8_t> data;
};

struct Driver {
    Bench bench{10};
    Vnpu_output top;
    std::deque<Written> expected;
    std::vector<float> scales = std::vector<float>(L), shadow = std::vector<float>(L);
    bool next_result = false, next_last = false;  // of the word that comes to stage 9
    int errors = 0;

    void step() {
        top.result9 = next_result, top.last9 = next_last, next_result = next_last = false;
        cycle(top, [&] {
            errors += top.error;
            if (!top.write_valid && !top.done) return;
            while (!expected.empty() && !expected[0].write && !expected[0].done) expected.pop_front();
            if (expected.empty()) return bench.check(false, "nothing expected");
            const Written want = expected[0];
            expected.pop_front();
            bool good = top.write_valid == want.write && top.done == want.done;
            if (want.write) good &= top.write_address == want.address && !std::memcmp(&top.write_data, want.data.data(), L);
            if (want.done) good &= top.signal == want.signal;
            bench.check(good, "word", uint64_t(want.address));
        });
        top.row_valid = top.first8 = top.swap8 = top.first_of_block8 = 0;
    }
    void load() {
        for (float &scale : shadow) scale = std::ldexp(1.0F, -int(bench.pick(4, 12)));
        for (int number = 0; number < 4; number++) {
            top.row_valid = 1, top.row_number = number;
            for (int i = 0; i < L / 2; i++) {
                const float value = number < 2 ? 99.0F : shadow[size_t((number - 2) * L / 2 + i)];
                std::memcpy(reinterpret_cast<uint8_t *>(&top.row) + 4 * i, &value, 4);
            }
            step();
        }
    }

    void run(At at) {
        const bool outside = at == At::BEYOND || at == At::FAR, add = bench.chance(30);
        const bool partial = !add && !outside && bench.chance(20);
        const int blocks = int(bench.pick(1, 3)), words = int(bench.pick(1, 6)), stride = int(bench.pick(0, 500));
        const int base = at == At::FAR ? 40000 : at == At::BEYOND ? MEMORY
            : at == At::LAST ? MEMORY - words - (blocks - 1) * stride : int(bench.pick(0, 2000));
        const int zero = add ? 0 : int(bench.pick(0, 255)) - 128, low = -int(bench.pick(0, 128)), high = int(bench.pick(0, 127));
        const int ratio_a = int(bench.pick(0, 1 << 18)), ratio_b = int(bench.pick(0, 1 << 18)), signal = int(bench.pick(0, 255));
        clear(top.current);
        put(top.current, OUT_BASE, base), put(top.current, OUT_STEP, stride), put(top.current, ZERO_POINT, zero);
        put(top.current, ACT_MIN, low), put(top.current, ACT_MAX, high), put(top.current, SIGNAL, signal);
        if (add) {
            put(top.current, RATIO_A, ratio_a), put(top.current, RATIO_B, ratio_b), put(top.current, SHIFT, 18);
            put(top.current, OFFSET_LOW, 1000);
        }
        top.current_index = 5;
        for (int block = 0; block < blocks; block++) {
            load();
            for (int k = 0; k < words; k++) {
                while (bench.chance(20)) step();
                const bool last = block == blocks - 1 && k == words - 1;
                // Stage 8 first; its totals are there in the next cycle, in which another word may be at stage 8.
                top.first8 = !block && !k, top.swap8 = top.first_of_block8 = !k;
                if (top.swap8) scales = shadow;
                step();
                Written want{!partial && !outside, last, base + block * stride + k, signal, std::vector<int8_t>(L)};
                for (int i = 0; i < L; i++) {
                    const int32_t total = int32_t(bench.random()) >> 12;
                    const int8_t a = int8_t(bench.random()), b = int8_t(bench.random());
                    std::memcpy(reinterpret_cast<uint8_t *>(&top.totals) + 4 * i, &total, 4);
                    reinterpret_cast<int8_t *>(&top.a)[i] = a, reinterpret_cast<int8_t *>(&top.b)[i] = b;
                    const double value = add ? std::nearbyint((double(a) * ratio_a + double(b) * ratio_b + 1000) / (1 << 18))
                                             : std::nearbyint(double(float(total) * scales[size_t(i)])) + zero;
                    want.data[size_t(i)] = int8_t(std::min(std::max(value, double(low)), double(high)));
                }
                expected.push_back(want);
                top.add9 = add, next_result = !partial, next_last = last;
            }
        }
        step();
    }
};

int main() {
    Driver d;
    d.top.rst = 1;
    for (int i = 0; i < 20; i++) d.step();
    d.top.rst = 0;
    for (int i = 0; i < 300; i++) d.run(i % 5 ? At::INSIDE : At::LAST);
    for (int i = 0; i < 20; i++) d.step();
    d.bench.check(d.errors == 0 && d.expected.empty(), "all written");
    for (const At at : {At::BEYOND, At::FAR}) {
        d.errors = 0;
        d.run(at);
        for (int i = 0; i < 20; i++) d.step();
        d.bench.check(d.errors > 0 && d.top.error_index == 5, "word outside");
    }
    return d.bench.report();
}
