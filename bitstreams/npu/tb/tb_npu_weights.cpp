// Random descriptors and takers of passes: the rows come in the order that the array needs, three cycles after their turn
// and none missing; a pass is ready in the cycle of its last row, and that of the next follows at once. Writes of other
// rows go on meanwhile. Rows outside of the memory are an error.
#include <cstring>
#include <deque>
#include <type_traits>
#include <vector>

#include "Vnpu_weights.h"
#include "bench.hpp"
#include "descriptor.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_weights::write_data)>;
constexpr int L = sizeof(Word);
constexpr int ROWS = 900;

struct Row {
    bool read, parameters;
    int row, number;
    bool depthwise = false;
};

struct Driver {
    Bench bench{6};
    Vnpu_weights top;
    std::vector<uint8_t> memory = std::vector<uint8_t>(size_t(ROWS) * 2 * L);
    std::deque<Row> arriving = std::deque<Row>(4, Row{false, false, 0, 0});
    bool depthwise = false, known = true;

    void write(int address) {
        top.write_valid = 1, top.write_address = address;
        for (int i = 0; i < L; i++) {
            const uint8_t byte = uint8_t(bench.random());
            reinterpret_cast<uint8_t *>(&top.write_data)[i] = byte;
            if (address < 2 * ROWS) memory[size_t(address) * L + i] = byte;
        }
    }
    // A cycle in which `row` should be read (or none), and the row of three cycles ago arrives.
    template <class Look> void step(Row row, Look look) {
        row.depthwise = depthwise;
        arriving.push_front(row), arriving.pop_back();
        const Row now = arriving[3];
        bool good = true;
        cycle(top, [&] {
            look();
            good &= top.row_weights == (now.read && !now.parameters) && top.row_parameters == (now.read && now.parameters);
            if (!now.read) return;
            const uint8_t *data = &memory[size_t(now.row) * 2 * L];
            good &= top.row_number == now.number && !std::memcmp(&top.row, data, 2 * L);
            if (!now.parameters) good &= top.row_depthwise == now.depthwise;
            for (int i = 0; i < L; i++) {
                int above = 0;
                for (int bit = 9 * i + 8; bit >= 9 * i; bit--) {
                    uint32_t word;
                    std::memcpy(&word, reinterpret_cast<uint8_t *>(&top.high_weights) + bit / 32 * 4, 4);
                    above = above << 1 | (word >> bit % 32 & 1);
                }
                good &= above == ((int8_t(data[L + i]) - (int8_t(data[i]) < 0)) & 0x1FF);
            }
        });
        top.write_valid = 0;
        if (known) bench.check(good, "row", uint64_t(now.row));
    }
    void idle(int cycles) {
        for (int i = 0; i < cycles; i++) step({false, false, 0, 0}, [] {});
    }

    void run(int opcode) {
        int n[4] = {int(bench.pick(1, 3)), int(bench.pick(1, 3)), int(bench.pick(1, 2)), int(bench.pick(1, 3))};
        if (opcode == DEPTHWISE) n[1] = n[2] = n[3] = 1;
        const int passes = opcode == POOL ? 1 : n[0] * n[1] * n[2] * n[3], block = opcode == POOL ? 1 : passes / n[0];
        const int rows = opcode == CONV ? L / 2 : opcode == DEPTHWISE ? 5 : 2;
        const int start = int(bench.pick(0, 100));
        auto begin = [&] {
            clear(top.descriptor);
            put(top.descriptor, OPCODE, opcode), put(top.descriptor, WEIGHT_ROW, start);
            for (int k = 0; k < 4; k++) put(top.descriptor, count_of(k), n[k] - 1);
            top.start = 1;
        };
        begin();
        bool good = true;
        step({false, false, 0, 0}, [&] { good &= top.idle && !top.ready; });
        top.start = 0, depthwise = opcode == DEPTHWISE;
        for (int pass = 0, next = start; pass < passes; pass++) {
            std::vector<Row> order;
            const bool first = pass % block == 0;
            const int weights = next + (first ? 4 : 0);
            for (int i = 0; i < rows; i++) order.push_back({opcode != POOL, false, weights + i, i});
            for (int i = 0; i < (first ? 4 : 0); i++) order.push_back({true, true, next + i, i});
            next = weights + rows;
            const int late = bench.chance(50) ? 0 : int(bench.pick(1, 6));  // cycles until the pass is taken
            for (size_t i = 0; i < order.size(); i++) {
                const bool last = i + 1 == order.size();
                top.take = last && late == 0;
                if (bench.chance(30)) write(int(bench.pick(2 * ROWS, 2 * ROWS + 99)));
                step(order[i], [&] { good &= top.ready == last && !top.idle; });
            }
            for (int i = 1; i <= late; i++) {
                top.take = i == late;
                step({false, false, 0, 0}, [&] { good &= top.ready && !top.idle; });
            }
            top.take = 0;
        }
        if (bench.chance(50)) step({false, false, 0, 0}, [&] { good &= top.idle && !top.ready; });
        bench.check(good, "passes", uint64_t(opcode));
    }

    void error() {
        clear(top.descriptor);
        put(top.descriptor, OPCODE, CONV), put(top.descriptor, WEIGHT_ROW, 65530);
        top.index = 77, top.start = 1, known = false;
        int errors = 0;
        for (int i = 0; i < 2 * L; i++) {
            step({false, false, 0, 0}, [&] { errors += top.error && top.error_index == 77; });
            top.start = 0;
        }
        bench.check(errors > 0, "row outside");
        top.rst = 1;
        idle(1);
        top.rst = 0;
        idle(4);
        known = true;
        bench.check(top.idle, "reset");
    }
};

int main() {
    Driver d;
    d.known = false;
    d.top.rst = 1;
    d.idle(4);
    d.top.rst = 0;
    for (int address = 0; address < 2 * ROWS; address++) {
        d.write(address);
        d.idle(1);
    }
    d.known = true;
    for (int i = 0; i < 200; i++) d.run(int(d.bench.pick(CONV, POOL)));
    d.error();
    d.run(CONV);
    // An addition has nothing to load.
    clear(d.top.descriptor);
    put(d.top.descriptor, OPCODE, ADD);
    d.top.start = 1;
    d.idle(1);
    d.top.start = 0;
    d.idle(1);
    d.bench.check(d.top.idle, "addition");
    return d.bench.report();
}
