// Random loops against six nested ones: addresses, coordinates, positions, and which words of a depthwise stream
// complete a window. Loads may follow the last step at once.
#include "Vnpu_agu.h"
#include "bench.hpp"
#include "descriptor.hpp"
#include "verilated.h"

int main() {
    Bench bench(2);
    Vnpu_agu top;
    for (int run = 0; run < 300; run++) {
        auto &words = top.descriptor;
        clear(words);
        const bool depthwise = bench.chance(30);
        int n[6], sy = int(bench.pick(1, 3)), sx = int(bench.pick(1, 3));
        int64_t step[6];
        for (int k = 0; k < 6; k++) {
            n[k] = int(bench.pick(1, k < 4 ? 3 : 6));
            if (depthwise && k >= 1 && k <= 3) n[k] = 1;
            step[k] = int64_t(bench.pick(0, 4000)) - 2000;
            put(words, count_of(k), n[k] - 1), put(words, step_of(k), step[k]);
        }
        const int64_t base = int64_t(bench.pick(0, 200000)) - 100000;
        const int64_t y0 = int64_t(bench.pick(0, 8)) - 4, x0 = int64_t(bench.pick(0, 8)) - 4;
        const int64_t y_b = int64_t(bench.pick(0, 255)), y_e = int64_t(bench.pick(0, 3)), x_c = int64_t(bench.pick(0, 3)),
                      x_f = int64_t(bench.pick(0, 3)), h = int64_t(bench.pick(0, 300)), w = int64_t(bench.pick(0, 9));
        put(words, IN_BASE, base), put(words, Y0, y0), put(words, X0, x0), put(words, IN_H, h), put(words, IN_W, w);
        put(words, Y_B, y_b), put(words, Y_E, y_e), put(words, X_C, x_c), put(words, X_F, x_f);
        put(words, STRIDE_Y, sy), put(words, STRIDE_X, sx);
        top.load = 1, top.advance = bench.chance(50);
        cycle(top);
        top.load = 0;
        for (int i = 0; i < 16; i++) top.current[i] = words[i], words[i] = uint32_t(bench.random());
        top.depthwise = depthwise;

        bool good = true;
        for (int a = 0; a < n[0]; a++)
            for (int b = 0; b < n[1]; b++)
                for (int c = 0; c < n[2]; c++)
                    for (int d = 0; d < n[3]; d++)
                        for (int e = 0, pixel = 0; e < n[4]; e++)
                            for (int f = 0; f < n[5]; f++) {
                                top.advance = 0;
                                while (bench.chance(20)) cycle(top);
                                top.advance = 1;
                                const int64_t at = base + a * step[0] + b * step[1] + c * step[2] + d * step[3] +
                                                   e * step[4] + f * step[5];
                                const int64_t y = y0 + b * y_b + e * y_e, x = x0 + c * x_c + f * x_f;
                                const bool window = e >= 2 && (e - 2) % sy == 0 && f >= 2 && (f - 2) % sx == 0;
                                const bool pass = !b && !c && !d, pass_end = b == n[1] - 1 && c == n[2] - 1 && d == n[3] - 1;
                                cycle(top, [&] {
                                    good &= top.address == (uint64_t(at) & 0xFFFFF);
                                    good &= top.in_plane == (y >= 0 && y < h && x >= 0 && x < w);
                                    good &= top.first_in_row == !f && top.last_in_row == (f == n[5] - 1);
                                    good &= top.first_in_pass == (!e && !f);
                                    good &= top.last_in_pass == (e == n[4] - 1 && f == n[5] - 1);
                                    good &= top.first_pass == pass && top.last_pass == pass_end;
                                    good &= top.first == (!a && pass && !e && !f);
                                    good &= top.last == (a == n[0] - 1 && pass_end && e == n[4] - 1 && f == n[5] - 1);
                                    good &= top.pixel == pixel;
                                    if (depthwise) good &= top.window_ready == window;
                                });
                                pixel += !depthwise || window;
                            }
        bench.check(good, "loops", uint64_t(run));
    }
    return bench.report();
}
