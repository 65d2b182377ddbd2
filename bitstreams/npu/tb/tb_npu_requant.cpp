// Bench of npu_requant: random and corner cases against float arithmetic of the host (build with -ffp-contract=off)
// and 64-bit integers. One case a cycle with random gaps; prints "N passed, N failed".
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <random>

#include "Vnpu_requant.h"
#include "verilated.h"

namespace {

constexpr int kLatency = 9;
constexpr int kCases = 3'000'000;

struct Case {
  bool add;
  int32_t acc;
  float scale;
  int a, b;
  uint32_t ratio_a, ratio_b;
  int64_t offset;
  int shift, zero_point, low, high;
};

int clamp(double value, int low, int high) { return static_cast<int>(std::min<double>(std::max<double>(value, low), high)); }

int expected(const Case& c) {
  if (!c.add) {
    volatile float product = static_cast<float>(c.acc) * c.scale;
    return clamp(std::nearbyint(static_cast<double>(product)) + c.zero_point, c.low, c.high);
  }
  const int64_t sum = int64_t{c.a} * c.ratio_a + int64_t{c.b} * c.ratio_b + c.offset;
  const int64_t whole = sum >> c.shift, rest = sum - (whole << c.shift), half = int64_t{1} << (c.shift - 1);
  return clamp(static_cast<double>(whole + (rest > half || (rest == half && (whole & 1)))), c.low, c.high);
}

class Source {
 public:
  Case next() {
    Case c{};
    c.low = pick(-128, 127);
    c.high = pick(c.low, 127);
    if (pick(0, 2)) c.low = -128, c.high = 127;
    c.zero_point = pick(-128, 127);
    c.add = pick(0, 2) == 0;
    // The inputs of the other mode hold anything.
    c.acc = static_cast<int32_t>(engine_());
    c.scale = std::ldexp(1.0F + static_cast<float>(pick(0, (1 << 23) - 1)) * 0x1p-23F, pick(-59, 28));
    c.a = pick(-128, 127), c.b = pick(-128, 127);
    c.ratio_a = pick(0, (1 << 24) - 1), c.ratio_b = pick(0, (1 << 24) - 1);
    c.shift = pick(16, 24);
    c.offset = sign_extend(engine_() >> 24);
    if (c.add) {
      addition(c);
    } else {
      convolution(c);
    }
    return c;
  }

 private:
  std::mt19937_64 engine_{20};
  int pick(int low, int high) { return low + static_cast<int>(engine_() % static_cast<uint64_t>(high - low + 1)); }
  static int64_t sign_extend(uint64_t value) { return static_cast<int64_t>(value << 24) >> 24; }

  // A sum near half a unit of the output, or anywhere; within 40 bits.
  void addition(Case& c) {
    if (pick(0, 3) == 0) c.ratio_a = 1U << pick(14, 23);
    if (pick(0, 3) == 0) c.ratio_b = 1U << pick(14, 23);
    const int64_t products = int64_t{c.a} * c.ratio_a + int64_t{c.b} * c.ratio_b;
    const int64_t halves = int64_t{pick(-540, 540)} << (c.shift - 1);
    if (pick(0, 3)) c.offset = halves - products + (pick(0, 1) ? pick(-2, 2) : pick(-(1 << 15), 1 << 15));
    const int64_t limit = (int64_t{1} << 39) - 1;
    c.offset = std::max(-limit - 1 - std::min<int64_t>(products, 0), std::min(limit - std::max<int64_t>(products, 0), c.offset));
  }

  void convolution(Case& c) {
    const int bits = pick(0, 31);
    c.acc >>= bits;
    switch (pick(0, 9)) {
      case 0: c.acc = static_cast<int32_t>((1U << pick(0, 31)) + pick(-2, 2)); break;
      case 1: c.acc = -static_cast<int32_t>((1U << pick(0, 30)) + pick(-2, 2)); break;
      case 2: c.acc = pick(-2, 2); break;
      case 3: c.acc = pick(0, 1) ? INT32_MIN + pick(0, 300) : INT32_MAX - pick(0, 300); break;
      default: break;
    }
    if (pick(0, 9) == 0) return;
    // Most scales bring the product near half a unit of the output.
    const double target = (pick(-560, 560) + (pick(0, 3) ? 0 : 0.25)) / 2.0;
    const double wanted = c.acc ? std::fabs(target / c.acc) : 1.0;
    c.scale = static_cast<float>(std::min(std::max(wanted, 0x1p-59), 0x1p29));
    if (pick(0, 1)) c.scale = std::nextafterf(c.scale, pick(0, 1) ? 1e30F : 0.0F);
    if (pick(0, 7) == 0) c.scale = std::ldexp(1.0F, std::ilogb(c.scale));
  }
};

void drive(Vnpu_requant& dut, const Case& c) {
  uint32_t scale = 0;
  std::memcpy(&scale, &c.scale, sizeof scale);
  dut.in_add = c.add;
  dut.acc = static_cast<uint32_t>(c.acc);
  dut.scale = scale;
  dut.a = c.a & 0xFF, dut.b = c.b & 0xFF;
  dut.ratio_a = c.ratio_a, dut.ratio_b = c.ratio_b;
  dut.offset = static_cast<uint64_t>(c.offset) & ((uint64_t{1} << 40) - 1);
  dut.shift = c.shift;
  dut.zero_point = c.zero_point & 0xFF, dut.act_min = c.low & 0xFF, dut.act_max = c.high & 0xFF;
}

struct Due {
  long cycle;
  Case input;
};

bool right(const Vnpu_requant& dut, const Due& due, long cycle) {
  const int got = static_cast<int8_t>(dut.out), wanted = expected(due.input);
  if (due.cycle == cycle && got == wanted) return true;
  const Case& c = due.input;
  std::printf("cycle %ld (due %ld): add %d acc %d scale %a a %d b %d ratios %u %u offset %lld shift %d zp %d [%d, %d]: %d, not %d\n",
              cycle, due.cycle, c.add, c.acc, c.scale, c.a, c.b, c.ratio_a, c.ratio_b, static_cast<long long>(c.offset), c.shift,
              c.zero_point, c.low, c.high, got, wanted);
  return false;
}

}  // namespace

int main() {
  std::fesetround(FE_TONEAREST);
  Vnpu_requant dut;
  Source source;
  std::mt19937 gaps{7};
  std::deque<Due> pending;
  long passed = 0, failed = 0, cycle = 0;
  for (long sent = 0; sent < kCases || !pending.empty(); ++cycle) {
    dut.in_valid = sent < kCases && gaps() % 4 != 0;
    const Case c = source.next();
    drive(dut, c);
    if (dut.in_valid) {
      pending.push_back({cycle + kLatency - 1, c});
      ++sent;
    }
    dut.clk = 0;
    dut.eval();
    dut.clk = 1;
    dut.eval();
    if (dut.out_valid) {
      if (pending.empty()) {
        ++failed;
        break;
      }
      right(dut, pending.front(), cycle) ? ++passed : ++failed;
      pending.pop_front();
    }
    if (failed > 10 || cycle > 4L * kCases) break;
  }
  failed += static_cast<long>(pending.size());
  std::printf("%ld passed, %ld failed\n", passed, failed);
  return failed ? 1 : 0;
}
