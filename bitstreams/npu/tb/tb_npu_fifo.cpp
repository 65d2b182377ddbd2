// Bench of npu_fifo: random pushes and pops against std::deque.
#include <deque>

#include "Vnpu_fifo.h"
#include "bench.hpp"
#include "verilated.h"

int main() {
    Bench bench(1);
    Vnpu_fifo fifo;
    std::deque<uint8_t> model;
    for (int i = 0; i < 100'000; ++i) {
        const unsigned filling = i >> 12 & 1 ? 80 : 30;  // phases in which it is mostly full, then mostly empty
        fifo.rst = i == 0 || bench.chance(1) == 1;
        fifo.in_valid = bench.chance(filling);
        fifo.in_data = bench.random();
        fifo.out_ready = bench.chance(110 - filling);
        cycle(fifo, [&] {
            if (i == 0) return;
            bench.check(fifo.out_valid == !model.empty(), "valid while not empty", i);
            bench.check(fifo.in_ready == (model.size() < 8), "ready while not full", i);
            if (!model.empty()) bench.check(fifo.out_data == model.front(), "in order", i);
        });
        const bool push = fifo.in_valid && model.size() < 8;
        if (fifo.out_ready && !model.empty()) model.pop_front();
        if (push) model.push_back(fifo.in_data);
        if (fifo.rst) model.clear();
    }
    return bench.report();
}
