// What the benches of the front end share: a tally, random numbers, clock edges.
#pragma once

#include <cstdint>
#include <cstdio>
#include <random>

struct Bench {
    std::mt19937_64 random;
    int passed = 0, failed = 0;

    explicit Bench(uint64_t seed) : random(seed) {}

    // Uniform in [low, high].
    uint64_t pick(uint64_t low, uint64_t high) { return low + random() % (high - low + 1); }
    bool chance(unsigned percent) { return random() % 100 < percent; }

    void check(bool ok, const char *what, uint64_t detail = 0) {
        ++(ok ? passed : failed);
        if (!ok && failed <= 20) std::printf("FAILED: %s (%llu)\n", what, (unsigned long long)detail);
    }
    int report() const {
        std::printf("%d passed, %d failed\n", passed, failed);
        return failed != 0 || passed == 0;
    }
};

// Inputs are set before the call; `look` sees what the cycle's outputs are; then the edge comes.
template <class Model, class Look> void cycle(Model &model, Look look) {
    model.clk = 0;
    model.eval();
    look();
    model.clk = 1;
    model.eval();
}
template <class Model> void cycle(Model &model) {
    cycle(model, [] {});
}
