// Bench of npu_control: start, end, every error, watchdog, soft reset, interrupt and counters, cycle by cycle.
#include "Vnpu_control.h"
#include "bench.hpp"
#include "verilated.h"

namespace {

struct Control {
    Bench &bench;
    Vnpu_control unit;

    explicit Control(Bench &b) : bench(b) {
        unit.start = unit.soft_reset = unit.clear_done = unit.interrupt_enable = unit.complete = 0;
        unit.finished = unit.counts = 0;
        unit.fetch_error_valid = unit.load_error_valid = unit.compute_error_valid = unit.store_error_valid = 0;
        unit.fetch_error_code = 1, unit.load_error_code = 2, unit.compute_error_code = 3, unit.store_error_code = 4;
        unit.fetch_error_index = 10, unit.load_error_index = 20, unit.compute_error_index = 30,
            unit.store_error_index = 40;
        unit.watchdog = 1000, unit.quiet = 1;
        unit.rst = 1;
        cycle(unit);
        unit.rst = 0;
        bench.check(unit.busy && unit.clear, "busy after power-on");
        ticks(17);
        bench.check(!unit.busy && !unit.done && !unit.error, "idle");
    }
    void ticks(int n) {
        while (n--) cycle(unit);
    }
    template <class Signal> void pulse(Signal &signal, unsigned value = 1) {
        signal = value;
        cycle(unit);
        signal = 0;
    }
    void start() {
        pulse(unit.start);
        bench.check(unit.busy && !unit.clear && !unit.done, "starts");
    }
    void end() {
        pulse(unit.complete);
        bench.check(!unit.busy && unit.clear && unit.done, "ends");
    }
    void reset() {
        pulse(unit.soft_reset);
        bench.check(unit.busy && !unit.error && !unit.done && unit.error_code == 0 && unit.error_index == 0, "reset");
        ticks(20);
        bench.check(!unit.busy && !unit.error, "idle after reset");
    }
    uint32_t counter(unsigned i) { return unit.counters[i]; }
};

void chain(Bench &bench, Control &c) {
    c.unit.interrupt_enable = bench.chance(50);
    c.start();
    unsigned counts[10] = {};
    const int n = bench.pick(1, 900);
    for (int i = 0; i < n; ++i) {
        c.unit.counts = bench.random();
        c.unit.finished = bench.chance(20) ? bench.pick(1, 3) : 0;
        c.unit.quiet = bench.random();
        c.unit.start = bench.chance(5);  // not heeded
        ++counts[0], counts[9] += c.unit.finished;
        for (int k = 0; k < 8; ++k) counts[k + 1] += c.unit.counts >> k & 1;
        cycle(c.unit);
    }
    c.unit.start = c.unit.counts = c.unit.finished = 0;
    c.unit.quiet = 0;
    c.pulse(c.unit.complete);
    bench.check(c.unit.busy, "waits until the bus is quiet");
    c.unit.quiet = 1;
    c.end();
    counts[0] += 2;
    c.unit.counts = 255;
    c.ticks(5);
    c.unit.counts = 0;
    for (int k = 0; k < 10; ++k) bench.check(c.counter(k) == counts[k], "a counter", k);
    bench.check(c.unit.irq == c.unit.interrupt_enable, "interrupt");
    c.unit.interrupt_enable = 1;
    c.ticks(1);
    bench.check(c.unit.irq, "interrupt as long as done");
    if (bench.chance(50)) {
        c.pulse(c.unit.clear_done);
        bench.check(!c.unit.done && !c.unit.irq, "done is cleared");
    }
}

void errors(Bench &bench, Control &c) {
    const unsigned first = bench.pick(0, 3), others = bench.random() & (15 << first);
    c.unit.interrupt_enable = 1;
    c.start();
    c.ticks(bench.pick(0, 300));
    c.unit.quiet = 0;
    c.unit.fetch_error_valid = first == 0;
    c.unit.load_error_valid = first == 1 || (first < 1 && others & 2);
    c.unit.compute_error_valid = first == 2 || (first < 2 && others & 4);
    c.unit.store_error_valid = first == 3 || (first < 3 && others & 8);
    cycle(c.unit);
    c.unit.fetch_error_valid = c.unit.load_error_valid = c.unit.compute_error_valid = c.unit.store_error_valid = 0;
    bench.check(c.unit.clear && c.unit.busy && !c.unit.irq, "stops at once, tells when quiet");
    c.pulse(first == 0 ? c.unit.store_error_valid : c.unit.fetch_error_valid);
    const bool hangs = bench.chance(30);
    int waited = 0;
    for (; c.unit.busy && waited < 400; ++waited) {
        if (waited == 100 && !hangs) c.unit.quiet = 1;
        cycle(c.unit);
    }
    bench.check(hangs ? waited > 240 && waited < 260 : waited > 99 && waited < 103,
        "until the bus is quiet, not for ever", waited);
    bench.check(c.unit.error && c.unit.irq && !c.unit.done && c.unit.error_code == first + 1
        && c.unit.error_index == 10 * (first + 1), "the first error", first);
    c.pulse(c.unit.start);
    bench.check(!c.unit.busy && c.unit.error, "no start in error");
    if (hangs) {
        c.pulse(c.unit.soft_reset);
        c.ticks(1000);
        bench.check(c.unit.busy && c.unit.clear, "a reset waits for the bus");
    }
    c.unit.quiet = 1;
    c.reset();
}

void watchdog(Bench &bench, Control &c) {
    c.unit.watchdog = bench.pick(1, 500);
    c.start();
    unsigned finished = 0;
    for (int k = bench.pick(0, 5); k; --k) {
        c.ticks(bench.pick(0, c.unit.watchdog - 1));
        const unsigned n = bench.pick(1, 3);
        bench.check(!c.unit.clear, "not yet");
        c.pulse(c.unit.finished, n);
        finished += n;
    }
    c.ticks(c.unit.watchdog - 1);
    bench.check(!c.unit.clear, "not yet", c.unit.watchdog);
    c.ticks(1);
    bench.check(c.unit.clear, "after as many cycles as it says", c.unit.watchdog);
    c.ticks(20);
    bench.check(c.unit.error && c.unit.error_code == 5 && c.unit.error_index == finished,
        "WATCHDOG, behind what finished", finished);
    c.unit.watchdog = 1000;
    c.reset();
}

void resets(Bench &bench, Control &c) {
    c.start();
    c.ticks(bench.pick(0, 50));
    c.unit.quiet = 0;
    c.pulse(c.unit.soft_reset);
    bench.check(c.unit.clear && c.unit.busy, "reset in flight");
    c.ticks(bench.pick(0, 500));
    const bool again = bench.chance(50);
    if (again) c.pulse(c.unit.start);
    c.ticks(bench.pick(0, 50));
    bench.check(c.unit.clear && c.unit.busy, "drains");
    c.unit.quiet = 1;
    c.ticks(20);
    bench.check(again ? c.unit.busy && !c.unit.clear : !c.unit.busy, "a start in the meantime is remembered");
    if (again) c.end();
}

}  // namespace

int main() {
    Bench bench(8);
    Control control(bench);
    for (int i = 0; i < 500; ++i) {
        chain(bench, control);
        errors(bench, control);
        watchdog(bench, control);
        resets(bench, control);
    }
    return bench.report();
}
