// Random passes over random numbers of pixels, a pixel again after three cycles at the earliest, pools in between: the
// totals at stage 9, biases taken over from the shadow registers at the right pixel.
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_accumulate.h"
#include "bench.hpp"
#include "verilated.h"

using Lanes = std::remove_reference_t<decltype(Vnpu_accumulate::totals)>;
constexpr int L = sizeof(Lanes) / 4;
using Values = std::vector<uint32_t>;

struct Slot {
    bool valid = false, fresh = false, pool = false, write = false;
    int pixel = 0;
    Values added, total;
};

struct Driver {
    Bench bench{8};
    Vnpu_accumulate top;
    std::vector<Values> memory = std::vector<Values>(16, Values(L));
    Values shadow = Values(L), bias = Values(L);
    std::deque<Slot> stages = std::deque<Slot>(3);  // 7, 8, 9

    Values random() {
        Values values(L);
        for (uint32_t &value : values) value = uint32_t(bench.random());
        return values;
    }
    void step(Slot slot, bool swap, bool maximum = false) {
        if (swap) bias = maximum ? Values(L) : shadow;
        if (slot.valid) {
            slot.added = random(), slot.total = slot.fresh ? bias : memory[size_t(slot.pixel)];
            for (int i = 0; i < L; i++) slot.total[size_t(i)] += slot.added[size_t(i)];
            if (slot.write) memory[size_t(slot.pixel)] = slot.total;
        }
        stages.push_front(slot), stages.pop_back();
        top.swap7 = swap, top.maximum7 = maximum, top.read7 = slot.valid && !slot.fresh, top.pixel7 = slot.pixel;
        const Slot &at8 = stages[1], &at9 = stages[2];
        top.valid8 = at8.valid, top.first8 = at8.fresh, top.pool8 = at8.pool;
        const Values other = random();
        if (at8.valid) std::memcpy(at8.pool ? &top.pool_sums : &top.sums, at8.added.data(), 4 * L);
        if (at8.valid) std::memcpy(at8.pool ? &top.sums : &top.pool_sums, other.data(), 4 * L);
        top.write9 = at9.valid && at9.write, top.pixel9 = at9.pixel;
        cycle(top, [&] {
            if (at9.valid) bench.check(!std::memcmp(&top.totals, at9.total.data(), 4 * L), "totals");
        });
        top.row_valid = 0;
    }
    void load() {
        const Values next = random();
        for (int number = 0; number < 4; number++) {  // 2 and 3 are the scales': none of the block's business
            const Values row = number < 2 ? Values(next.begin() + number * L / 2, next.end()) : random();
            top.row_valid = 1, top.row_number = number;
            std::memcpy(&top.row, row.data(), 2 * L);
            step({}, false);
        }
        shadow = next;
    }
};

int main() {
    Driver d;
    for (int block = 0; block < 300; block++) {
        d.load();
        const int pixels = int(d.bench.pick(1, 16)), passes = int(d.bench.pick(1, 4));
        const bool pool = d.bench.chance(20), maximum = pool && d.bench.chance(50), keep = !pool && block && d.bench.chance(20);
        for (int pass = 0; pass < (pool ? 1 : passes); pass++) {
            for (int pixel = 0; pixel < pixels; pixel++) {
                Slot slot;
                slot.valid = true, slot.fresh = pool || (pass == 0 && !keep), slot.pool = pool;
                slot.write = !pool && (block < 16 || d.bench.chance(90)), slot.pixel = pixel;
                d.step(slot, pass == 0 && pixel == 0, maximum);
                while (d.bench.chance(10)) d.step({}, false);
            }
            for (int i = pixels; i < 3; i++) d.step({}, false);
        }
    }
    for (int i = 0; i < 3; i++) d.step({}, false);
    return d.bench.report();
}
