// Random reads and writes of the datapath and of the DMA side at once, often of the same banks, against a plain array:
// data after the promised latency, and the DMA side waiting only where its bank is taken.
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_activations.h"
#include "bench.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_activations::word0)>;
constexpr size_t L = sizeof(Word);
constexpr int WORDS = 256;
using Bytes = std::vector<uint8_t>;

static Bytes bytes(const Word &word) {
    Bytes out(L);
    std::memcpy(out.data(), &word, L);
    return out;
}

int main() {
    Bench bench(4);
    Vnpu_activations top;
    std::vector<Bytes> memory(WORDS + 1, Bytes(L));
    auto fill = [&](Word &word) {
        for (size_t i = 0; i < L; i++) reinterpret_cast<uint8_t *>(&word)[i] = uint8_t(bench.random());
    };
    struct Read {
        bool zero = false, one = false;
        int address = 0;
        Bytes first, second;
    };
    std::deque<Read> reads(4);        // by stage
    std::deque<std::pair<bool, Bytes>> dma(3);
    top.rst = 1;
    cycle(top);
    top.rst = 0;
    for (int i = 0; i < 20000; i++) {
        const bool filling = i < WORDS;
        Read read;
        read.zero = !filling && bench.chance(60), read.one = read.zero && bench.chance(30);
        read.address = int(bench.pick(0, WORDS - 2));
        top.request0 = read.zero, top.request1 = read.one, top.request_address = read.address;
        top.write_valid = filling || bench.chance(40);
        top.write_address = filling ? i : int(bench.pick(0, WORDS - 1));
        fill(top.write_data);
        top.dma_write_valid = !filling && bench.chance(50);
        top.dma_write_address = int(bench.pick(0, WORDS - 1));
        if (top.dma_write_address == top.write_address) top.dma_write_valid = 0;
        fill(top.dma_write_data);
        top.dma_read_valid = !filling && bench.chance(50);
        top.dma_read_address = int(bench.pick(0, WORDS - 1));
        reads.push_front(read), reads.pop_back();
        dma.push_front({false, {}}), dma.pop_back();
        bool good = true;
        cycle(top, [&] {
            Read &now = reads[1];  // addresses the banks in this cycle
            auto taken = [&](int address) {
                return (now.zero && (address & 3) == (now.address & 3)) || (now.one && (address & 3) == ((now.address + 1) & 3));
            };
            good &= top.dma_read_ready == !taken(top.dma_read_address);
            good &= top.dma_write_ready == !(top.write_valid && (top.write_address & 3) == (top.dma_write_address & 3));
            if (now.zero) now.first = memory[size_t(now.address)];
            if (now.one) now.second = memory[size_t(now.address) + 1];
            if (top.dma_read_valid && top.dma_read_ready) dma[0] = {true, memory[top.dma_read_address]};
            if (top.write_valid) memory[top.write_address] = bytes(top.write_data);
            if (top.dma_write_valid && top.dma_write_ready) memory[top.dma_write_address] = bytes(top.dma_write_data);
            if (reads[3].zero) good &= bytes(top.word0) == reads[3].first;
            if (reads[3].one) good &= bytes(top.word1) == reads[3].second;
            good &= top.dma_read_data_valid == dma[2].first;
            if (dma[2].first) good &= bytes(top.dma_read_data) == dma[2].second;
        });
        bench.check(good, "access", uint64_t(i));
    }
    return bench.report();
}
