// LANES x LANES INT8 products a cycle, two in each multiplier (one DSP48E1), and their sums.
//
// Multiplier (r, i) holds two weights as one number, high x 2^16 + low, and multiplies it with one activation:
//   CONV       low = weight of output 2r from input i, high = that of output 2r + 1; the activation is input lane i.
//   DEPTHWISE  TAPS = LANES/2 taps of two channels in row r: tap i of channel 2r as low (high = 0) where i < TAPS, tap
//              i - TAPS of channel 2r + 1 as high (low = 0) where not; the activation is that of the tap and channel.
// Both kinds therefore share the adder trees over i: the low halves of row r are output 2r, the high ones 2r + 1. The
// other 9 - TAPS taps of DEPTHWISE have a small multiplier each.
// Adding 2^15 to each product makes its low half an unsigned number that never borrows from the high one; the LANES
// offsets in a sum are together 2^15 x LANES, taken off by turning one bit over.
//
// Weights go to shadow registers, a row (LANES/2 of them for CONV, 5 for DEPTHWISE) a cycle, and become active when
// `swap4` says that the first pixel of a pass is at stage 4.
// Stages: 4 word and window, 5 operands and active weights, 6 products, 7 sums of four, 8 `sums` (signed 32 bits each).
`default_nettype none
module npu_array (clk, row_valid, row_depthwise, row_number, row, high_weights, swap4, valid4, depthwise4, valid5,
                  valid6, valid7, depthwise6, word, window, sums);
    `include "npu_params.svh"
    localparam integer L = NPU_LANES;
    localparam integer TAPS = L / 2;
    localparam integer EXTRA = 9 - TAPS;
    localparam integer GROUPS = L / 4;
    localparam integer OFFSET_BIT = 15 + $clog2(L);

    input wire clk;
    input wire row_valid, row_depthwise;
    input wire [2:0] row_number;
    input wire [16*L-1:0] row;
    input wire [9*L-1:0] high_weights;  // the row's second half, ready to stand above the first one
    input wire swap4, depthwise4, depthwise6;
    input wire valid4, valid5, valid6, valid7;  // CONV, DEPTHWISE: there is something to sum up at this stage
    input wire [8*L-1:0] word;
    input wire [72*L-1:0] window;
    output logic [32*L-1:0] sums;

    generate
        genvar r, i, g, t;

        for (r = 0; r < L / 2; r = r + 1) begin : rows
            for (i = 0; i < L; i = i + 1) begin : multiplier
                localparam integer TAP = i % TAPS;
                localparam integer CHANNEL = 2 * r + i / TAPS;
                logic [7:0] tap_weight;
                logic [16:0] shadow;
                logic signed [24:0] weights;
                logic signed [7:0] operand;
                logic signed [31:0] product;
                assign tap_weight = row[8*(L*(TAP%2)+CHANNEL) +: 8];

                always_ff @(posedge clk) begin
                    if (row_valid) begin
                        if (row_depthwise) begin
                            if (row_number == 3'(TAP / 2))
                                shadow <= i < TAPS ? {{9{tap_weight[7]}}, tap_weight}
                                                   : {tap_weight[7], tap_weight, 8'd0};
                        end else if (row_number == 3'(r)) shadow <= {high_weights[9*i +: 9], row[8*i +: 8]};
                    end
                    if (swap4) weights <= {shadow[16:8], {8{shadow[7]}}, shadow[7:0]};
                    if (valid4) operand <= depthwise4 ? window[8*(L*TAP+CHANNEL) +: 8] : word[8*i +: 8];
                    if (valid5) product <= weights * operand + 32'sd32768;
                end
            end

            for (g = 0; g < GROUPS; g = g + 1) begin : group
                logic [17:0] low;
                logic signed [17:0] high;
                always_ff @(posedge clk) begin
                    if (valid6) begin
                        low <= 18'(multiplier[4*g].product[15:0]) + 18'(multiplier[4*g+1].product[15:0])
                             + 18'(multiplier[4*g+2].product[15:0]) + 18'(multiplier[4*g+3].product[15:0]);
                        high <= 18'($signed(multiplier[4*g].product[31:16]))
                              + 18'($signed(multiplier[4*g+1].product[31:16]))
                              + 18'($signed(multiplier[4*g+2].product[31:16]))
                              + 18'($signed(multiplier[4*g+3].product[31:16]));
                    end
                end
            end
        end

        // The taps of DEPTHWISE beyond those of the array.
        for (i = 0; i < L; i = i + 1) begin : channel
            for (t = 0; t < EXTRA; t = t + 1) begin : tap
                localparam integer TAP = TAPS + t;
                logic signed [7:0] shadow, weight, operand;
                logic signed [15:0] product;
                always_ff @(posedge clk) begin
                    if (row_valid && row_depthwise && row_number == 3'(TAP / 2)) shadow <= row[8*(L*(TAP%2)+i) +: 8];
                    if (swap4) weight <= shadow;
                    if (valid4 && depthwise4) operand <= window[8*(L*TAP+i) +: 8];
                    if (valid5) product <= weight * operand;
                end
            end
            logic signed [18:0] extra, extra7;
            if (EXTRA == 1) begin : one
                assign extra = 19'(tap[0].product);
            end else begin : five
                assign extra = 19'(tap[0].product) + 19'(tap[1].product) + 19'(tap[2].product)
                             + 19'(tap[3].product) + 19'(tap[4].product);
            end
            always_ff @(posedge clk) begin
                if (valid6) extra7 <= depthwise6 ? extra : 19'sd0;
            end
        end

        for (r = 0; r < L / 2; r = r + 1) begin : outputs
            logic [OFFSET_BIT:0] low;
            logic signed [20:0] high;
            logic signed [31:0] even, odd;
            if (GROUPS == 4) begin : four
                assign low = 20'(rows[r].group[0].low) + 20'(rows[r].group[1].low)
                           + 20'(rows[r].group[2].low) + 20'(rows[r].group[3].low);
                assign high = 21'(rows[r].group[0].high) + 21'(rows[r].group[1].high)
                            + 21'(rows[r].group[2].high) + 21'(rows[r].group[3].high);
            end else begin : two
                assign low = 19'(rows[r].group[0].low) + 19'(rows[r].group[1].low);
                assign high = 21'(rows[r].group[0].high) + 21'(rows[r].group[1].high);
            end
            always_ff @(posedge clk) begin
                if (valid7) begin
                    even <= 32'($signed({~low[OFFSET_BIT], low[OFFSET_BIT-1:0]})) + 32'(channel[2*r].extra7);
                    odd <= 32'(high) + 32'(channel[2*r+1].extra7);
                end
            end
            assign sums[64*r +: 32] = even;
            assign sums[64*r+32 +: 32] = odd;
        end
    endgenerate
endmodule
`default_nettype wire
