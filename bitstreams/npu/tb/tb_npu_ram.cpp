// Random writes and reads: a word read is that written last, the old one when it is written in the same cycle, and it
// stays until the next read.
#include <vector>

#include "Vnpu_ram.h"
#include "bench.hpp"
#include "verilated.h"

int main() {
    Bench bench(1);
    Vnpu_ram top;
    std::vector<uint32_t> memory(512);
    uint32_t expected = 0;
    bool known = false;
    for (int i = 0; i < 20000; i++) {
        top.write = i < 512 || bench.chance(50);
        top.write_address = i < 512 ? i : uint32_t(bench.pick(0, 511));
        top.write_data = uint32_t(bench.random());
        top.read = i >= 512 && bench.chance(50);
        top.read_address = bench.chance(30) ? top.write_address : uint32_t(bench.pick(0, 511));
        if (top.read) expected = memory[top.read_address], known = true;
        if (top.write) memory[top.write_address] = top.write_data;
        cycle(top);
        if (known) bench.check(top.read_data == expected, "read", uint64_t(i));
    }
    return bench.report();
}
