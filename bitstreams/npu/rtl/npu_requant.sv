`default_nettype none
// One lane of requantisation, a result a cycle, nine cycles after its inputs (all of which are sampled with in_valid).
//
// Convolution and pooling: out = clamp(rne(f32(f32(acc) * scale)) + zero_point), rne and f32() rounding to nearest even;
//   scale is a positive normal float32, 2^-60 < scale < 2^30.
// in_add: out = clamp(rne((a * ratio_a + b * ratio_b + offset) / 2^shift)); shift is 16..24, the sum has 40 bits.
//
// Signed numbers throughout: rounding to even is symmetric, and where a negative power of two has a shorter
// representation than its float32 it is exact anyway.
//
//   1  normalise acc by whole bytes        4  products into the DSPs' M registers
//   2  normalise by 0..7 bits              5  low product + offset
//   3  round to 24 bits; choose operands   6  high product + low product / 2^8
//   7  round the product to 24 bits        8  shift to whole numbers    9  round, zero point, clamp
//
// What a stage computes on the way is local to it and inside `if (v<n>)`: simulators then skip idle lanes.
//
// Two DSP48E1: (significand of acc, 17 high and 8 low bits) x (24 bits of scale); in_add: a x ratio_a, b x ratio_b.
module npu_requant (
    input  wire               clk,
    input  wire               in_valid,
    input  wire               in_add,
    input  wire signed [31:0] acc,
    /* verilator lint_off UNUSEDSIGNAL */  // of the scale's sign
    input  wire        [31:0] scale,
    /* verilator lint_on UNUSEDSIGNAL */
    input  wire signed [7:0]  a,
    input  wire signed [7:0]  b,
    input  wire        [23:0] ratio_a,
    input  wire        [23:0] ratio_b,
    input  wire signed [39:0] offset,
    input  wire        [5:0]  shift,
    input  wire signed [7:0]  zero_point,
    input  wire signed [7:0]  act_min,
    input  wire signed [7:0]  act_max,
    output logic              out_valid,
    output logic signed [7:0] out
);
  // v<n>: the registers of stage n hold a value; add<n>, bounds<n> (zero point to add, least, most) belong to it.
  logic v1, v2, v3, v4, v5, v6, v7, v8;
  logic add1, add2, add3, add4, add5, add6;
  logic [23:0] bounds1, bounds2, bounds3, bounds4, bounds5, bounds6, bounds7, bounds8;
  always_ff @(posedge clk) begin
    {out_valid, v8, v7, v6, v5, v4, v3, v2, v1} <= {v8, v7, v6, v5, v4, v3, v2, v1, in_valid};
  end

  // 1: leading bytes that only repeat the sign.
  logic [31:0] bytes1;
  logic [1:0]  skip1;
  logic [30:0] scale1;
  logic [5:0]  shift1;
  logic [15:0] pair1;
  logic [47:0] ratios1;
  logic [39:0] offset1;
  always_ff @(posedge clk) if (in_valid) begin : stage1
    logic same1, same2, same3;
    same1 = acc[31:23] == {9{acc[31]}};
    same2 = same1 && acc[22:15] == {8{acc[31]}};
    same3 = same2 && acc[14:7] == {8{acc[31]}};
    add1    <= in_add;
    bounds1 <= {in_add ? 8'd0 : zero_point, act_min, act_max};
    bytes1  <= same3 ? {acc[7:0], 24'd0} : same2 ? {acc[15:0], 16'd0} : same1 ? {acc[23:0], 8'd0} : acc;
    skip1   <= {same2, same3 || (same1 && !same2)};
    scale1  <= scale[30:0];
    offset1 <= in_add ? offset : 40'd0;
    if (in_add) begin
      shift1  <= shift;
      pair1   <= {a, b};
      ratios1 <= {ratio_a, ratio_b};
    end
  end

  // 2: then the bits below them.
  logic [31:0] norm2;
  logic [4:0]  skip2;
  logic [30:0] scale2;
  logic [5:0]  shift2;
  logic [15:0] pair2;
  logic [47:0] ratios2;
  logic [39:0] offset2;
  always_ff @(posedge clk) if (v1) begin : stage2
    logic [6:0] differ;
    logic [2:0] skip;
    differ = bytes1[30:24] ^ {7{bytes1[31]}};
    skip = differ[6] ? 3'd0 : differ[5] ? 3'd1 : differ[4] ? 3'd2 : differ[3] ? 3'd3 :
           differ[2] ? 3'd4 : differ[1] ? 3'd5 : differ[0] ? 3'd6 : 3'd7;
    add2    <= add1;
    bounds2 <= bounds1;
    norm2   <= bytes1 << skip;
    skip2   <= {skip1, skip};
    scale2  <= scale1;
    offset2 <= offset1;
    if (add1) begin
      shift2  <= shift1;
      pair2   <= pair1;
      ratios2 <= ratios1;
    end
  end

  // 3: f32(acc) = significand x 2^(7 - skip); when it rounds up to 2^24 it is halved (carry). place: by how much more
  // than 16 stage 8 shifts, 0..8; 9..15 when nothing is left, 16 and up (negative) when it does not fit. Stages 4 and 7
  // correct it by one.
  logic signed [24:0] wide_low3, wide_high3;
  logic signed [15:0] low3;
  logic signed [16:0] high3;
  logic        [39:0] offset3;
  logic        [4:0]  place3;
  logic               carry3;
  always_ff @(posedge clk) if (v2) begin : stage3
    logic up;
    logic [24:0] rounded, significand;
    logic [8:0] distance;
    up = norm2[6] && (norm2[7] || norm2[5:0] != 6'd0);
    rounded = norm2[31:7] + {24'd0, up};
    significand = {norm2[31], rounded[23] || (rounded[24] && !norm2[31]), rounded[22:0]};
    distance = 9'd103 + {4'd0, skip2} - {1'b0, scale2[30:23]};
    add3       <= add2;
    bounds3    <= bounds2;
    offset3    <= offset2;
    wide_low3  <= {1'b0, add2 ? ratios2[23:0] : {1'b1, scale2[22:0]}};
    wide_high3 <= {1'b0, add2 ? ratios2[47:24] : {1'b1, scale2[22:0]}};
    low3       <= add2 ? {pair2[7:0], 8'd0} : {8'd0, significand[7:0]};
    high3      <= add2 ? {{9{pair2[15]}}, pair2[15:8]} : significand[24:8];
    carry3     <= !add2 && rounded[24] && !norm2[31];
    if (add2) place3 <= {shift2[5:4] != 2'b01, shift2[3:0]};
    else if (norm2[31] == norm2[30]) place3 <= 5'd14;  // acc is 0
    else if (distance[8]) place3 <= (distance == 9'h1FF) ? 5'd31 : 5'd24;
    else place3 <= (distance > 9'd14) ? 5'd14 : distance[4:0];
  end

  // 4 to 6: product = high x wide x 2^8 + low x wide + offset x 2^8; its lowest byte goes around the second addition.
  logic signed [39:0] low4, offset4;
  logic signed [16:0] high4;
  logic signed [24:0] wide_high4;
  logic signed [47:0] low5;
  logic signed [40:0] high5, high6;
  logic        [7:0]  low6;
  logic        [4:0]  place4, place5, place6;
  always_ff @(posedge clk) begin
    if (v3) begin
      add4       <= add3;
      bounds4    <= bounds3;
      offset4    <= offset3;
      low4       <= low3 * wide_low3;
      high4      <= high3;
      wide_high4 <= wide_high3;
      place4     <= place3 - {4'd0, carry3};
    end
    if (v4) begin
      add5    <= add4;
      bounds5 <= bounds4;
      low5    <= {{8{low4[39]}}, low4} + {offset4, 8'd0};
      high5   <= high4 * wide_high4;
      place5  <= place4;
    end
    if (v5) begin
      add6    <= add5;
      bounds6 <= bounds5;
      high6   <= high5 + {low5[47], low5[47:8]};
      low6    <= low5[7:0];
      place6  <= place5;
    end
  end

  // 7: to 24 bits when it is a float32; the top bit is bit 47 (long) or 46. The sum of in_add has no rounding here.
  logic [33:0] value7;
  logic [4:0]  place7;
  logic        over7, negative7;
  always_ff @(posedge clk) if (v6) begin : stage7
    logic long, some, up;
    logic [48:0] product;
    logic [33:0] kept;
    product = {high6, low6};
    long = product[48] != product[47];
    some = product[21:0] != 22'd0;
    up = !add6 && (long ? product[23] && (product[24] || product[22] || some)
                        : product[22] && (product[23] || some));
    kept = add6 ? product[41:8] : long ? {{9{product[48]}}, product[48:24]} : {{9{product[47]}}, product[47:23]};
    bounds7   <= bounds6;
    value7    <= kept + {33'd0, up};
    place7    <= place6 + {4'd0, !add6 && !long};
    over7     <= add6 && product[47:41] != {7{product[47]}};
    negative7 <= add6 ? product[47] : product[48];
  end

  // 8: value / 2^(16 + place): whole part, the half below it, whether anything lies below that.
  logic [9:0] whole8;
  logic       up8, over8, negative8;
  always_ff @(posedge clk) if (v7) begin : stage8
    logic [25:0] extended;
    logic [10:0] moved;
    logic below, beyond;
    extended = {{7{value7[33]}}, value7[33:15]};
    moved = extended[{1'b0, place7[3:0]}+:11];
    below = value7[14:0] != 15'd0 || (value7[22:15] & ~(8'hFF << place7[3:0])) != 8'd0;
    beyond = (({8{value7[33]}} ^ value7[32:25]) >> place7[3:0]) != 8'd0;
    bounds8 <= bounds7;
    if (place7[3:0] > 4'd8) {up8, whole8} <= 11'd0;
    else {up8, whole8} <= {moved[0] && (moved[1] || below), moved[10:1]};
    over8     <= over7 || place7[4] || beyond;
    negative8 <= negative7;
  end

  // 9
  always_ff @(posedge clk) if (v8) begin : stage9
    logic signed [10:0] total, least, most;
    total = {whole8[9], whole8} + {{3{bounds8[23]}}, bounds8[23:16]} + {10'd0, up8};
    least = {{3{bounds8[15]}}, bounds8[15:8]};
    most = {{3{bounds8[7]}}, bounds8[7:0]};
    if (over8 ? negative8 : total < least) out <= bounds8[15:8];
    else if (over8 || total > most) out <= bounds8[7:0];
    else out <= total[7:0];
  end
endmodule
`default_nettype wire
