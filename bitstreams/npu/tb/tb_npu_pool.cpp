// Random windows (sums, maxima) and pairs, with gaps: results four and five cycles after their last word's stage 4.
#include <algorithm>
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_pool.h"
#include "bench.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_pool::word)>;
constexpr int L = sizeof(Word);
using Bytes = std::vector<int8_t>;

struct Slot {
    bool valid = false, first = false, maximum = false, result = false, pair = false;
    std::vector<int> sums;
    Bytes a, b;
};

int main() {
    Bench bench(9);
    Vnpu_pool top;
    std::deque<Slot> stages(6);  // 4 to 9
    auto step = [&](const Slot &slot) {
        stages.push_front(slot), stages.pop_back();
        top.valid4 = stages[0].valid, top.valid5 = stages[1].valid, top.valid6 = stages[2].valid;
        top.valid7 = stages[3].valid, top.first7 = stages[3].first, top.maximum7 = stages[3].maximum;
        top.add8 = stages[4].valid && stages[4].pair && stages[4].result;
        cycle(top, [&] {
            const Slot &at8 = stages[4], &at9 = stages[5];
            if (at8.result && !at8.pair) bench.check(!std::memcmp(&top.sums, at8.sums.data(), 4 * L), "sums");
            if (at9.result && at9.pair)
                bench.check(!std::memcmp(&top.a, at9.a.data(), L) && !std::memcmp(&top.b, at9.b.data(), L), "pair");
        });
    };
    for (int run = 0; run < 2000; run++) {
        const bool pair = bench.chance(40), maximum = !pair && bench.chance(50);
        const int words = pair ? 2 : int(bench.pick(1, 12));
        std::vector<int> sums(L, 0), highest(L, -128);
        Bytes first(L);
        for (int k = 0; k < words; k++) {
            while (bench.chance(10)) step({});
            Bytes word(L);
            for (int i = 0; i < L; i++) {
                word[size_t(i)] = bench.chance(10) ? -128 : int8_t(bench.random());
                sums[size_t(i)] += word[size_t(i)];
                highest[size_t(i)] = std::max(highest[size_t(i)], int(word[size_t(i)]));
            }
            if (k == 0) first = word;
            std::memcpy(&top.word, word.data(), L);
            step({true, k == 0, maximum, k == words - 1, pair, maximum ? highest : sums, first, word});
        }
    }
    return bench.report();
}
