// The whole compute engine against a plain model of its descriptors: random convolutions (strides, padding, dilation,
// several blocks, PACKED, KEEP and PARTIAL, fully connected), depthwise convolutions, pools and additions, in chains that
// follow each other with and without DRAIN, under random DMA traffic, semaphores and queue delays. Every word of the
// activation memory is compared after each chain, and the cycles with those that npu_sequencer.sv promises. Then the
// errors, and that a reset brings the engine back.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

#include "Vnpu_compute.h"
#include "descriptor.hpp"
#include "verilated.h"

using Word = std::remove_reference_t<decltype(Vnpu_compute::dma_write_data)>;
constexpr int L = sizeof(Word);
constexpr int ROW = 2 * L;

// ---- descriptors ----------------------------------------------------------------------------------------------------
struct Descriptor {
  int opcode = CONV, flags = 0, wait = 0, signal = 0;
  int in_base = 0;
  int count[6] = {1, 1, 1, 1, 1, 1}, step[6] = {0, 0, 0, 0, 0, 0};
  int y0 = 0, x0 = 0, pad = 0, in_h = 4095, in_w = 4095, zero_point = 0;
  int y_b = 0, y_e = 0, x_c = 0, x_f = 0;
  int out_base = 0, out_step = 0, weight_row = 0, act_min = -128, act_max = 127;
  int stride_y = 1, stride_x = 1;
  int ratio_a = 0, ratio_b = 0, shift = 16;
  int64_t offset = 0;

  template <class Words> void pack(Words& words) const {
    clear(words);
    put(words, OPCODE, opcode), put(words, FLAGS, flags), put(words, WAIT, wait), put(words, SIGNAL, signal);
    put(words, IN_BASE, in_base);
    for (int k = 0; k < 6; k++) put(words, count_of(k), count[k] - 1), put(words, step_of(k), step[k]);
    put(words, Y0, y0), put(words, X0, x0), put(words, PAD_VALUE, pad);
    put(words, IN_H, in_h), put(words, IN_W, in_w), put(words, ZERO_POINT, zero_point);
    put(words, Y_B, y_b), put(words, Y_E, y_e), put(words, X_C, x_c), put(words, X_F, x_f);
    put(words, OUT_BASE, out_base), put(words, OUT_STEP, out_step);
    put(words, WEIGHT_ROW, weight_row), put(words, ACT_MIN, act_min), put(words, ACT_MAX, act_max);
    if (opcode == ADD) {
      put(words, RATIO_A, ratio_a), put(words, SHIFT, shift), put(words, RATIO_B, ratio_b);
      put(words, OFFSET_HIGH, offset >> 32), put(words, OFFSET_LOW, offset);
    } else {
      put(words, STRIDE_Y, stride_y), put(words, STRIDE_X, stride_x);
    }
  }
};

// ---- the model ------------------------------------------------------------------------------------------------------
struct Model {
  std::vector<int8_t> activations = std::vector<int8_t>(size_t(WORDS) * L);
  std::vector<uint8_t> weights = std::vector<uint8_t>(size_t(ROWS) * ROW);
  std::vector<int32_t> sums = std::vector<int32_t>(4096 * L);
  static constexpr int WORDS = 2048, ROWS = 1024;  // what the test uses of the memories

  int32_t parameter(int row, int group, int lane) const {  // group 0 biases, 1 scales
    int32_t value;
    std::memcpy(&value, &weights[size_t(row) * ROW + group * 4 * L + lane * 4], 4);
    return value;
  }
  int weight(int row, int byte) const { return int8_t(weights[size_t(row) * ROW + byte]); }

  static int clamp(double value, const Descriptor& d) {
    if (value < d.act_min) return d.act_min;
    return value > d.act_max ? d.act_max : int(value);
  }
  int requantise(int32_t acc, int row, int lane, const Descriptor& d) const {
    int32_t bits = parameter(row, 1, lane);
    float scale;
    std::memcpy(&scale, &bits, 4);
    volatile float product = float(acc) * scale;
    return clamp(std::nearbyint(double(product)) + d.zero_point, d);
  }

  int read(const Descriptor& d, int address, int y, int x, int lane) const {
    if (d.opcode != ADD && (y < 0 || y >= d.in_h || x < 0 || x >= d.in_w)) return d.pad;
    size_t byte = d.flags & PACKED && d.opcode == CONV ? size_t(address) * 4 + lane : size_t(address) * L + lane;
    return activations.at(byte);
  }

  void run(const Descriptor& d) {
    if (d.opcode == CONV) conv(d);
    if (d.opcode == DEPTHWISE) depthwise(d);
    if (d.opcode == POOL) pool(d);
    if (d.opcode == ADD) add(d);
  }

  void conv(const Descriptor& d) {
    int row = d.weight_row;
    const int* n = d.count;
    for (int a = 0; a < n[0]; a++) {
      int parameters = row;
      row += 4;
      for (int b = 0; b < n[1]; b++)
        for (int c = 0; c < n[2]; c++)
          for (int k = 0; k < n[3]; k++, row += L / 2) {
            bool first = !b && !c && !k, last = b == n[1] - 1 && c == n[2] - 1 && k == n[3] - 1;
            for (int pixel = 0; pixel < n[4] * n[5]; pixel++) {
              int e = pixel / n[5], f = pixel % n[5];
              int address = d.in_base + a * d.step[0] + b * d.step[1] + c * d.step[2] + k * d.step[3] +
                            e * d.step[4] + f * d.step[5];
              int y = d.y0 + b * d.y_b + e * d.y_e, x = d.x0 + c * d.x_c + f * d.x_f;
              int in[L];
              for (int i = 0; i < L; i++) in[i] = read(d, address, y, x, i);
              for (int o = 0; o < L; o++) {
                int32_t sum = 0;
                for (int i = 0; i < L; i++) sum += weight(row + o / 2, (o % 2) * L + i) * in[i];
                uint32_t start = first && !(d.flags & KEEP) ? parameter(parameters, 0, o) : sums[pixel * L + o];
                int32_t total = int32_t(start + uint32_t(sum));
                if (last && !(d.flags & PARTIAL))
                  store(d, a, pixel, o, requantise(total, parameters, o, d));
                else
                  sums[pixel * L + o] = total;
              }
            }
          }
    }
  }

  void depthwise(const Descriptor& d) {
    int row = d.weight_row;
    for (int a = 0; a < d.count[0]; a++, row += 9) {
      int pixel = 0;
      for (int e = 2; e < d.count[4]; e += d.stride_y)
        for (int f = 2; f < d.count[5]; f += d.stride_x, pixel++)
          for (int o = 0; o < L; o++) {
            int32_t sum = 0;
            for (int t = 0; t < 9; t++) {
              int i = e - 2 + t / 3, j = f - 2 + t % 3;
              int address = d.in_base + a * d.step[0] + i * d.step[4] + j * d.step[5];
              sum += weight(row + 4 + t / 2, (t % 2) * L + o) * read(d, address, d.y0 + i * d.y_e, d.x0 + j * d.x_f, o);
            }
            uint32_t start = d.flags & KEEP ? sums[pixel * L + o] : parameter(row, 0, o);
            int32_t total = int32_t(start + uint32_t(sum));
            if (d.flags & PARTIAL)
              sums[pixel * L + o] = total;
            else
              store(d, a, pixel, o, requantise(total, row, o, d));
          }
    }
  }

  void pool(const Descriptor& d) {
    for (int a = 0; a < d.count[0]; a++)
      for (int b = 0; b < d.count[1]; b++)
        for (int c = 0; c < d.count[2]; c++)
          for (int o = 0; o < L; o++) {
            int32_t sum = 0, highest = -128;
            for (int e = 0; e < d.count[4]; e++)
              for (int f = 0; f < d.count[5]; f++) {
                int address = d.in_base + a * d.step[0] + b * d.step[1] + c * d.step[2] + e * d.step[4] + f * d.step[5];
                int value = read(d, address, d.y0 + b * d.y_b + e * d.y_e, d.x0 + c * d.x_c + f * d.x_f, o);
                sum += value;
                if (value > highest) highest = value;
              }
            int32_t total = d.flags & MAX ? highest : parameter(d.weight_row, 0, o) + sum;
            store(d, a, b * d.count[2] + c, o, requantise(total, d.weight_row, o, d));
          }
  }

  void add(const Descriptor& d) {
    for (int a = 0; a < d.count[0]; a++)
      for (int e = 0; e < d.count[4]; e++)
        for (int o = 0; o < L; o++) {
          int address = d.in_base + a * d.step[0] + e * d.step[4];
          int64_t value = int64_t(read(d, address, 0, 0, o)) * d.ratio_a +
                          int64_t(read(d, address + d.step[5], 0, 0, o)) * d.ratio_b + d.offset;
          store(d, a, e, o, clamp(std::nearbyint(std::ldexp(double(value), -d.shift)), d));
        }
  }

  void store(const Descriptor& d, int block, int sequence, int lane, int value) {
    activations.at(size_t(d.out_base + block * d.out_step + sequence) * L + lane) = int8_t(value);
  }
};

// ---- the bench ------------------------------------------------------------------------------------------------------
static uint64_t seed = 1;
static uint32_t random_bits() {
  seed = seed * 6364136223846793005ull + 1442695040888963407ull;
  return uint32_t(seed >> 33);
}
static int between(int low, int high) { return low + int(random_bits() % uint32_t(high - low + 1)); }
static bool chance(int percent) { return between(0, 99) < percent; }

struct Bench {
  Vnpu_compute top;
  Model model;
  long cycle = 0;
  // DMA traffic beside the descriptors, in words of its own.
  static constexpr int TRAFFIC = Model::WORDS - 64;
  bool traffic = false;
  std::vector<int> reads;  // addresses accepted, whose data is to come
  int errors = 0, code = 0, index = 0, done = 0, given[8] = {}, taken[8] = {};
  long wrong = 0;

  Bench() {
    top.clk = 0, top.rst = 1, top.clear = 0, top.desc_valid = 0, top.sem_available = 0;
    top.dma_write_valid = top.dma_weight_valid = top.dma_read_valid = 0;
    for (int i = 0; i < 3; i++) tick();
    top.rst = 0;
    for (int i = 0; i < 40; i++) tick();
    for (auto& byte : model.activations) byte = int8_t(random_bits());
    write_activations(0, Model::WORDS);
  }

  void tick() {
    top.clk = 0;
    top.eval();
    if (top.error_valid) errors++, code = top.error_code, index = top.error_index;
    if (top.done) done++;
    if (top.dma_read_data_valid) {
      if (reads.empty() || std::memcmp(&top.dma_read_data, &model.activations[size_t(reads[0]) * L], L)) wrong++;
      if (!reads.empty()) reads.erase(reads.begin());
    }
    if (traffic) {
      if (top.dma_read_valid && top.dma_read_ready) reads.push_back(top.dma_read_address);
      if (top.dma_write_valid && top.dma_write_ready)
        std::memcpy(&model.activations[size_t(top.dma_write_address) * L], &top.dma_write_data, L);
    }
    bool read_taken = top.dma_read_ready, write_taken = top.dma_write_ready;
    for (int i = 0; i < 8; i++) {
      given[i] += top.sem_give_valid && top.sem_give >> i & 1;
      taken[i] += top.sem_take_valid && top.sem_take >> i & 1;
    }
    top.clk = 1;
    top.eval();
    cycle++;
    if (traffic) {
      if (!top.dma_read_valid || read_taken) {
        top.dma_read_valid = chance(50);
        top.dma_read_address = between(TRAFFIC, TRAFFIC + 31);  // not written: the model has no idea when
      }
      if (!top.dma_write_valid || write_taken) {
        top.dma_write_valid = chance(50);
        top.dma_write_address = between(TRAFFIC + 32, TRAFFIC + 63);
        for (int i = 0; i < L; i++) reinterpret_cast<int8_t*>(&top.dma_write_data)[i] = int8_t(random_bits());
      }
    }
  }

  void start_traffic() { traffic = true; }
  void stop_traffic() {
    while (top.dma_write_valid) {  // the last one still goes through
      top.clk = 0;
      top.eval();
      bool taken = top.dma_write_ready;
      traffic = false;
      if (taken) std::memcpy(&model.activations[size_t(top.dma_write_address) * L], &top.dma_write_data, L);
      top.dma_read_valid = 0;
      tick();
      if (taken) top.dma_write_valid = 0;
    }
    traffic = false;
    top.dma_read_valid = 0;
    for (int i = 0; i < 4; i++) tick();
  }

  void write_activations(int address, int words) {
    for (int i = 0; i < words;) {
      top.dma_write_valid = 1;
      top.dma_write_address = address + i;
      std::memcpy(&top.dma_write_data, &model.activations[size_t(address + i) * L], L);
      top.clk = 0;
      top.eval();
      if (top.dma_write_ready) i++;
      tick();
    }
    top.dma_write_valid = 0;
  }
  void write_weights(int row, int rows) {
    for (int i = 0; i < 2 * rows; i++) {
      top.dma_weight_valid = 1;
      top.dma_weight_address = 2 * row + i;
      std::memcpy(&top.dma_weight_data, &model.weights[size_t(2 * row + i) * L], L);
      tick();
    }
    top.dma_weight_valid = 0;
  }

  // The words that differ from the model's.
  int compare() {
    int bad = 0;
    std::vector<int> asked;
    for (int i = 0, n = 0; n < Model::WORDS;) {
      top.dma_read_valid = i < Model::WORDS;
      top.dma_read_address = i;
      top.clk = 0;
      top.eval();
      if (top.dma_read_data_valid) bad += std::memcmp(&top.dma_read_data, &model.activations[size_t(n++) * L], L) != 0;
      if (top.dma_read_valid && top.dma_read_ready) i++;
      reads.assign(1, 0);  // tick() looks at data as well
      long before = wrong;
      tick();
      wrong = before;
    }
    reads.clear();
    top.dma_read_valid = 0;
    return bad;
  }

  // Runs a chain; the cycles it took, -1 when it did not end. `delays`: gaps between descriptors and late semaphores.
  long run(const std::vector<Descriptor>& chain, bool delays, long limit = 200000) {
    long start = cycle;
    done = errors = 0;
    std::memset(given, 0, sizeof given);
    std::memset(taken, 0, sizeof taken);
    size_t next = 0;
    int wait = 0;
    uint8_t available = delays ? uint8_t(random_bits()) : 0xFF;
    while (done < int(chain.size()) && !errors && cycle - start < limit) {
      if (!top.desc_valid && next < chain.size() && wait-- <= 0) {
        chain[next].pack(top.desc);
        top.desc_index = uint16_t(next);
        top.desc_valid = 1;
      }
      if (delays && chance(20)) available = uint8_t(random_bits());
      top.sem_available = available;
      top.clk = 0;
      top.eval();
      bool popped = top.desc_ready;
      tick();
      if (popped) {
        next++;
        top.desc_valid = 0;
        wait = delays && chance(40) ? between(0, 60) : 0;
      }
    }
    top.desc_valid = 0;
    if (done < int(chain.size()) && !errors) return -1;
    return cycle - start;
  }
};

// ---- random work ----------------------------------------------------------------------------------------------------
// Inputs come from the lower half of the memory, or from an output of the chain (with DRAIN); outputs never overlap.
struct Maker {
  Model& model;
  int next_out, next_row = 0, kept = 0;
  explicit Maker(Model& m) : model(m), next_out(Model::WORDS / 2) {}

  bool room(int words) const { return next_out + words <= Bench::TRAFFIC; }
  void output(Descriptor& d, int blocks, int words) {
    int gap = between(0, 3);
    d.out_base = next_out, d.out_step = words + gap;
    next_out += blocks * (words + gap);
  }
  int input(Descriptor& d, int words) {
    if (chance(40) && next_out - words > Model::WORDS / 2) {
      d.flags |= DRAIN;
      return between(Model::WORDS / 2, next_out - words);
    }
    return between(0, Model::WORDS / 2 - words);
  }
  void parameters(Descriptor& d, int row, int macs) {
    for (int lane = 0; lane < L; lane++) {
      int32_t bias = between(-3000, 3000);
      float scale = std::ldexp(float(between(1 << 23, (1 << 24) - 1)), -between(26, 34)) / float(macs > 30 ? 32 : 1);
      if (chance(3)) bias = int32_t(random_bits() << 1);
      std::memcpy(&model.weights[size_t(row) * ROW + lane * 4], &bias, 4);
      std::memcpy(&model.weights[size_t(row) * ROW + 4 * L + lane * 4], &scale, 4);
    }
    d.zero_point = between(-128, 127);
    d.act_min = chance(50) ? -128 : between(-128, 0);
    d.act_max = chance(50) ? 127 : between(1, 127);
  }
  void random_rows(int row, int rows) {
    for (int i = 0; i < rows * ROW; i++) {
      uint8_t value = uint8_t(random_bits());
      if (chance(5)) value = 0x80;
      model.weights[size_t(row) * ROW + i] = value;
    }
  }
  bool rows(int count) const { return next_row + count <= Model::ROWS; }

  bool conv(std::vector<Descriptor>& chain) {
    Descriptor d;
    d.opcode = CONV;
    bool connected = chance(25), packed = !connected && chance(25);
    int kh = connected ? 1 : between(1, 3), kw = connected ? 1 : between(1, 3), dilation = chance(75) ? 1 : 2;
    int ih = connected ? 1 : between(1, 9), iw = connected ? 1 : between(1, 9);
    int blocks = between(1, 3), planes = packed ? 1 : between(1, connected ? 8 : 2);
    int sy = between(1, 2), sx = between(1, 2), pads[4];
    for (int& pad : pads) pad = connected || packed ? 0 : between(0, 2);
    if (packed) dilation = 1, ih += 2, iw = (iw + 7) / 4 * 4;
    int oh = (ih + pads[0] + pads[2] - dilation * (kh - 1) - 1) / sy + 1;
    int ow = (iw + pads[1] + pads[3] - dilation * (packed ? L / 4 : kw - 1) - 1) / sx + 1;
    if (ih + pads[0] + pads[2] < dilation * (kh - 1) + 1 || iw + pads[1] + pads[3] < dilation * (kw - 1) + 1) return false;
    if (oh < 1 || ow < 1) return false;
    int columns = packed ? between(1, 2) : kw;  // passes along x
    if (packed) ow = (iw - columns * (L / 4)) / sx + 1;
    if (ow < 1) return false;
    if (!room(blocks * (oh * ow + 3)) || !rows(blocks * (4 + kh * columns * planes * L / 2))) return false;
    int in_words = packed ? (ih * iw * 4 + L - 1) / L + 1 : planes * ih * iw;
    int base = input(d, in_words);
    d.count[0] = blocks, d.count[1] = kh, d.count[2] = columns, d.count[3] = planes, d.count[4] = oh, d.count[5] = ow;
    d.weight_row = next_row;
    for (int a = 0; a < blocks; a++) {
      parameters(d, next_row, kh * columns * planes * L);
      random_rows(next_row + 4, kh * columns * planes * L / 2);
      next_row += 4 + kh * columns * planes * L / 2;
    }
    if (packed) {
      d.flags |= PACKED;
      d.in_base = base * L / 4 + between(0, L / 4 - 1);
      d.step[1] = iw, d.step[2] = L / 4, d.step[4] = sy * iw, d.step[5] = sx;
    } else {
      d.in_base = base - pads[0] * iw - pads[1];
      d.step[1] = dilation * iw, d.step[2] = dilation, d.step[3] = ih * iw, d.step[4] = sy * iw, d.step[5] = sx;
      d.y0 = -pads[0], d.x0 = -pads[1], d.in_h = ih, d.in_w = iw, d.pad = between(-128, 127);
      d.y_b = dilation, d.x_c = dilation, d.y_e = sy, d.x_f = sx;
    }
    output(d, blocks, oh * ow);
    chain.push_back(d);
    return true;
  }

  bool split(std::vector<Descriptor>& chain) {  // a convolution in two descriptors: PARTIAL, then KEEP
    size_t from = chain.size();
    if (!conv(chain) || chain.back().flags & PACKED || chain.back().count[0] > 1) return chain.size() > from;
    Descriptor second = chain.back();
    chain.back().flags |= PARTIAL;
    if (!rows(4 + second.count[1] * second.count[2] * second.count[3] * L / 2)) return true;
    second.flags = KEEP;
    second.in_base = between(0, 50) + second.in_h * second.in_w;
    second.weight_row = next_row;
    parameters(second, next_row, 100);
    int passes = second.count[1] * second.count[2] * second.count[3];
    random_rows(next_row + 4, passes * L / 2);
    next_row += 4 + passes * L / 2;
    chain.push_back(second);
    return true;
  }

  bool depthwise(std::vector<Descriptor>& chain) {
    Descriptor d;
    d.opcode = DEPTHWISE;
    int sy = between(1, 2), sx = between(1, 2), planes = between(1, 3), ih = between(1, 9), iw = between(1, 9);
    int pt = between(0, 2), pl = between(0, 2), oh = (ih + pt + between(0, 2) - 3) / sy + 1;
    int ow = (iw + pl + between(0, 2) - 3) / sx + 1;
    if (ih + pt < 3 || iw + pl < 3 || oh < 1 || ow < 1) return false;
    int parts = planes == 1 && chance(40) ? 2 : 1;
    if (!room(planes * (oh * ow + 3)) || !rows(planes * 9 * parts)) return false;
    int base = input(d, planes * ih * iw);
    d.in_base = base - pt * iw - pl;
    d.count[0] = planes, d.count[4] = (oh - 1) * sy + 3, d.count[5] = (ow - 1) * sx + 3;
    d.step[0] = ih * iw, d.step[4] = iw, d.step[5] = 1;
    d.y0 = -pt, d.x0 = -pl, d.in_h = ih, d.in_w = iw, d.y_e = d.x_f = 1, d.pad = between(-128, 127);
    d.stride_y = sy, d.stride_x = sx;
    for (int part = 0; part < parts; part++) {
      d.weight_row = next_row;
      for (int a = 0; a < planes; a++, next_row += 9) {
        parameters(d, next_row, 9);
        random_rows(next_row + 4, 5);
      }
      if (part == parts - 1) output(d, planes, oh * ow);
      d.flags = (d.flags & DRAIN) | (part ? KEEP : 0) | (part < parts - 1 ? PARTIAL : 0);
      chain.push_back(d);
    }
    return true;
  }

  bool pool(std::vector<Descriptor>& chain) {
    Descriptor d;
    d.opcode = POOL;
    int kh = between(1, 3), kw = between(1, 3), sy = between(1, 3), sx = between(1, 3), planes = between(1, 3);
    int ih = between(1, 8), iw = between(1, 8), pt = between(0, 1), pl = between(0, 1);
    int oh = (ih + pt - kh) / sy + 1, ow = (iw + pl - kw) / sx + 1;
    if (ih + pt < kh || iw + pl < kw || !room(planes * (oh * ow + 3)) || !rows(4)) return false;
    int base = input(d, planes * ih * iw);
    d.in_base = base - pt * iw - pl;
    d.count[0] = planes, d.count[1] = oh, d.count[2] = ow, d.count[4] = kh, d.count[5] = kw;
    d.step[0] = ih * iw, d.step[1] = sy * iw, d.step[2] = sx, d.step[4] = iw, d.step[5] = 1;
    d.y0 = -pt, d.x0 = -pl, d.in_h = ih, d.in_w = iw, d.y_b = sy, d.y_e = 1, d.x_c = sx, d.x_f = 1;
    if (chance(50)) d.flags |= MAX, d.pad = -128;
    d.weight_row = next_row;
    parameters(d, next_row, 1);
    next_row += 4;
    output(d, planes, oh * ow);
    chain.push_back(d);
    return true;
  }

  bool add(std::vector<Descriptor>& chain) {
    Descriptor d;
    d.opcode = ADD;
    int planes = between(1, 3), words = between(1, 12);
    if (!room(planes * (words + 3))) return false;
    int a = input(d, planes * words), b = between(0, Model::WORDS / 2 - planes * words);
    d.in_base = a, d.step[5] = b - a, d.count[5] = 2, d.count[4] = words, d.step[4] = 1;
    d.count[0] = planes, d.step[0] = words;
    d.ratio_a = int(random_bits() & 0xFFFFFF), d.ratio_b = int(random_bits() & 0xFFFFFF);
    d.shift = between(16, 24), d.offset = int64_t(between(-1000000, 1000000)) * 500;
    d.act_min = chance(50) ? -128 : between(-128, 0), d.act_max = chance(50) ? 127 : between(1, 127);
    output(d, planes, words);
    chain.push_back(d);
    return true;
  }

  void some(std::vector<Descriptor>& chain) {
    switch (between(0, 5)) {
      case 0: case 1: conv(chain); break;
      case 2: split(chain); break;
      case 3: depthwise(chain); break;
      case 4: pool(chain); break;
      default: add(chain);
    }
  }
};

// What the top of npu_sequencer.sv says of cycles: those of a chain, from the first descriptor at the queue's head to
// the last one's end, when nothing has to be waited for outside.
static long predicted(const std::vector<Descriptor>& chain) {
  long pop = -1, first = -100, last = -100, loader_free = 0;
  for (const Descriptor& d : chain) {
    long all = 1, passes = 1, rows = d.opcode == CONV ? L / 2 : d.opcode == DEPTHWISE ? 5 : 2;
    for (int count : d.count) all *= count;
    if (d.opcode == CONV) passes = long(d.count[0]) * d.count[1] * d.count[2] * d.count[3];
    if (d.opcode == DEPTHWISE) passes = d.count[0];
    long reads = all / passes, block = passes / (passes > 1 ? d.count[0] : 1);
    long accept = std::max(pop + 1, loader_free);
    long ready = accept + (d.opcode == ADD ? 2 : rows + 4);
    pop = std::max({accept + 1, last, first + 8});
    long start = std::max({pop + 1, ready, d.flags & DRAIN ? last + 19 : 0});
    first = start;
    for (long pass = 1; pass < passes; pass++) start += std::max(reads, rows + (pass % block ? 0 : 4));
    loader_free = d.opcode == ADD ? 0 : start + 1;
    last = start + reads - 1;
  }
  return last + 19;
}

static int passed = 0, failed = 0;
static void check(bool good, const char* what, int number, const std::vector<Descriptor>& chain) {
  good ? passed++ : failed++;
  if (good || failed > 5) return;
  std::printf("FAILED %s %d:", what, number);
  for (const Descriptor& d : chain)
    std::printf(" [op %d flags %02x A%d B%d C%d D%d E%d F%d out %d]", d.opcode, d.flags, d.count[0], d.count[1],
                d.count[2], d.count[3], d.count[4], d.count[5], d.out_base);
  std::printf("\n");
}

static void random_chains(Bench& bench, int count) {
  for (int number = 0; number < count; number++) {
    Maker maker(bench.model);
    std::vector<Descriptor> chain;
    for (int i = between(1, 8); i > 0; i--) maker.some(chain);
    if (chain.empty()) continue;
    int expected[8] = {}, waited[8] = {};
    for (Descriptor& d : chain) {
      d.signal = int(random_bits() & 0xFF), d.wait = chance(30) ? int(random_bits() & 0xFF) & 0x3F : 0;
      for (int i = 0; i < 8; i++) expected[i] += d.signal >> i & 1, waited[i] += d.wait >> i & 1;
    }
    bench.write_weights(0, maker.next_row + 1);
    if (number % 2) bench.start_traffic();
    long cycles = bench.run(chain, number % 4 > 1);
    if (number % 2) bench.stop_traffic();
    if (cycles >= 0 && !bench.errors)
      for (const Descriptor& d : chain) bench.model.run(d);
    bool good = cycles >= 0 && !bench.errors && bench.compare() == 0 && bench.wrong == 0 && !bench.top.busy;
    good = good && !std::memcmp(bench.given, expected, sizeof expected) && !std::memcmp(bench.taken, waited, sizeof waited);
    bool timed = number % 4 > 1 || cycles == predicted(chain);
    if (!timed) std::printf("%ld cycles, not %ld\n", cycles, predicted(chain));
    good = good && timed;
    if (!good) std::printf("cycles %ld errors %d code %d wrong %ld\n", cycles, bench.errors, bench.code, bench.wrong);
    check(good, "chain", number, chain);
    if (cycles < 0) return;
  }
}

static void reset(Bench& bench) {
  bench.top.clear = 1;
  bench.tick();
  bench.top.clear = 0;
  for (int i = 0; i < 40; i++) bench.tick();
}

// Whatever a reset has left on the chip, the engine is as good as new.
static void expect_recovery(Bench& bench, const char* what, int number) {
  reset(bench);
  bench.write_activations(0, Model::WORDS);
  Maker maker(bench.model);
  std::vector<Descriptor> chain;
  while (chain.empty()) maker.some(chain);
  bench.write_weights(0, maker.next_row + 1);
  bench.run(chain, false);
  for (const Descriptor& next : chain) bench.model.run(next);
  check(!bench.errors && bench.compare() == 0, what, number, chain);
}

static void expect_error(Bench& bench, Descriptor d, int code, const char* what) {
  Descriptor good;  // before it: a word added to itself
  good.opcode = ADD, good.count[5] = 2, good.out_base = 1024, good.ratio_a = 65536;
  bench.run({good, d}, false);
  check(bench.errors == 1 && bench.code == code && bench.index == 1, what, code, {good, d});
  expect_recovery(bench, "after an error", code);
}

// A chain that is dropped somewhere on its way.
static void drop(Bench& bench, int number) {
  Maker maker(bench.model);
  std::vector<Descriptor> chain;
  while (chain.size() < 4) maker.some(chain);
  bench.write_weights(0, maker.next_row + 1);
  bench.run(chain, false, between(1, 1500));
  expect_recovery(bench, "after a reset", number);
}

int main() {
  Bench bench;
  random_chains(bench, 1200);
  if (!failed) {
    Descriptor d;
    d.opcode = 7;
    expect_error(bench, d, 1, "unknown opcode");
    d = Descriptor(), d.opcode = ADD, d.count[5] = 3;
    expect_error(bench, d, 1, "addition of three");
    d = Descriptor(), d.in_base = 40000;
    expect_error(bench, d, 2, "read behind the memory");
    d = Descriptor(), d.in_base = -1;
    expect_error(bench, d, 2, "read in front of the memory");
    d = Descriptor(), d.out_base = 40000;
    expect_error(bench, d, 2, "write behind the memory");
    d = Descriptor(), d.weight_row = 65535;
    expect_error(bench, d, 2, "weights behind the memory");
    d = Descriptor(), d.count[3] = 4096;
    expect_error(bench, d, 2, "weights that run out of the memory");
    d = Descriptor(), d.count[4] = 64, d.count[5] = 65;
    expect_error(bench, d, 3, "too many pixels");
    d = Descriptor(), d.opcode = DEPTHWISE, d.count[4] = 3, d.count[5] = 4096;
    expect_error(bench, d, 3, "row too long");
    for (int number = 0; number < 100; number++) drop(bench, number);
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed ? 1 : 0;
}
