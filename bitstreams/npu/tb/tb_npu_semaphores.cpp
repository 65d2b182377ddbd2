// Bench of npu_semaphores: three engines take (only what is there) and give at random, in the same cycles.
#include "Vnpu_semaphores.h"
#include "bench.hpp"
#include "verilated.h"

int main() {
    Bench bench(2);
    Vnpu_semaphores unit;
    unsigned count[8] = {};
    unit.load_take_valid = unit.compute_take_valid = unit.store_take_valid = 0;
    for (int i = 0; i < 200'000; ++i) {
        const unsigned giving = i >> 10 & 1 ? 60 : 10;
        unit.clear = i == 0 || bench.pick(0, 2000) == 0;
        unit.load_give_valid = bench.chance(giving), unit.load_give = bench.random();
        unit.compute_give_valid = bench.chance(giving), unit.compute_give = bench.random();
        unit.store_give_valid = bench.chance(giving), unit.store_give = bench.random();
        unsigned free = 0;
        for (unsigned s = 0; s < 8; ++s) free |= (count[s] != 0) << s;
        if (i) bench.check(unit.available == free, "available", i);
        const auto take = [&](auto &valid, auto &mask) {
            mask = bench.random() & bench.random();
            valid = (mask & ~free) == 0 && bench.chance(70);
        };
        take(unit.load_take_valid, unit.load_take);
        take(unit.compute_take_valid, unit.compute_take);
        take(unit.store_take_valid, unit.store_take);
        cycle(unit);
        for (unsigned s = 0; s < 8; ++s) {
            count[s] += unit.load_give_valid && unit.load_give >> s & 1;
            count[s] += unit.compute_give_valid && unit.compute_give >> s & 1;
            count[s] += unit.store_give_valid && unit.store_give >> s & 1;
            count[s] -= (unit.load_take_valid && unit.load_take >> s & 1)
                        || (unit.compute_take_valid && unit.compute_take >> s & 1)
                        || (unit.store_take_valid && unit.store_take >> s & 1);
            if (unit.clear) count[s] = 0;
        }
    }
    return bench.report();
}
