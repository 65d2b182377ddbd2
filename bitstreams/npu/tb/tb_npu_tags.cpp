// Random tags with gaps: each fact is seen at its stage, that many cycles after the issue, and nothing of a word that
// was not issued or was dropped by a reset.
#include <deque>

#include "Vnpu_tags.h"
#include "bench.hpp"
#include "verilated.h"

struct Tag {
    bool issue, in_plane, first_in_row, weights, parameters, first, block, fresh, counted, result, last, maximum;
    int kind, shift, pixel;  // kind: 0 convolution, 1 depthwise, 2 pool, 3 addition
};

int main() {
    Bench bench(3);
    Vnpu_tags top;
    std::deque<Tag> stages(10, Tag{});
    top.rst = 1;
    cycle(top);
    for (int i = 0; i < 20000; i++) {
        Tag t{};
        auto maybe = [&] { return bench.chance(50); };
        t = {bench.chance(70), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(), maybe(),
             maybe(), int(bench.pick(0, 3)), int(bench.pick(0, 1)), int(bench.pick(0, 255))};
        t.result = t.result && t.counted;
        const bool reset = bench.chance(1);
        top.rst = reset;
        top.issue = t.issue, top.in_plane = t.in_plane, top.shift = t.shift, top.first_in_row = t.first_in_row;
        top.depthwise = t.kind == 1, top.pool = t.kind == 2, top.add = t.kind == 3, top.maximum = t.maximum;
        top.swap_weights = t.weights, top.swap_parameters = t.parameters, top.first = t.first;
        top.first_of_block = t.block, top.fresh = t.fresh, top.counted = t.counted, top.result = t.result;
        top.last = t.last, top.pixel = t.pixel;
        stages.push_front(t), stages.pop_back();  // stages[n] is at stage n
        bool good = true;
        cycle(top, [&] {
            auto at = [&](int stage) -> const Tag & { return stages[size_t(stage)]; };
            auto sum = [&](int n) { return at(n).issue && at(n).counted && at(n).kind < 2; };
            auto plain = [&](int n) { return at(n).issue && at(n).kind > 1; };
            const Tag &t3 = at(3), &t4 = at(4), &t7 = at(7), &t8 = at(8), &t9 = at(9);
            good &= top.valid3 == t3.issue && top.valid4 == t4.issue;
            if (t3.issue) {
                good &= top.in_plane3 == t3.in_plane && top.first_in_row3 == t3.first_in_row && top.shift3 == t3.shift;
                good &= top.depthwise3 == (t3.kind == 1) && top.first3 == t3.first;
            }
            if (t4.issue) good &= top.depthwise4 == (t4.kind == 1);
            good &= top.swap4 == (t4.issue && t4.weights);
            good &= top.sum4 == sum(4) && top.sum5 == sum(5) && top.sum6 == sum(6) && top.sum7 == sum(7);
            good &= top.plain4 == plain(4) && top.plain5 == plain(5) && top.plain6 == plain(6) && top.plain7 == plain(7);
            if (at(6).issue) good &= top.depthwise6 == (at(6).kind == 1);
            good &= top.swap7 == (t7.issue && t7.parameters) && top.read7 == (sum(7) && !t7.fresh);
            if (t7.issue) good &= top.fresh7 == t7.fresh && top.maximum7 == t7.maximum && top.pixel7 == t7.pixel;
            good &= top.total8 == (t8.issue && t8.counted && t8.kind != 3);
            good &= top.add8 == (t8.issue && t8.counted && t8.kind == 3);
            if (t8.issue) good &= top.fresh8 == (t8.fresh || t8.kind == 2) && top.pool8 == (t8.kind == 2);
            good &= top.first8 == (t8.issue && t8.first) && top.swap8 == (t8.issue && t8.parameters);
            good &= top.first_of_block8 == (t8.issue && t8.block);
            good &= top.store9 == (sum(9) && !t9.result) && top.result9 == (t9.issue && t9.result);
            good &= top.last9 == (t9.issue && t9.last);
            if (t9.issue) good &= top.pixel9 == t9.pixel && top.add9 == (t9.kind == 3);
        });
        if (reset)
            for (Tag &tag : stages) tag.issue = false;
        bench.check(good, "stages", uint64_t(i));
    }
    return bench.report();
}
