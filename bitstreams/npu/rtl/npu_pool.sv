// Sum or maximum of the words of a window (POOL), and the pairs of words of ADD.
//
// Words come at stage 4 and are held back to stage 7, so that results of all kinds of descriptors leave in order. A
// window's result is at `sums` in stage 8 (signed 32 bits a lane, it wraps); a pair is at `a`, `b` in stage 9.
`default_nettype none
module npu_pool (clk, valid4, valid5, valid6, valid7, first7, maximum7, add8, word, sums, a, b);
    `include "npu_params.svh"
    localparam integer L = NPU_LANES;

    input wire clk;
    input wire valid4, valid5, valid6, valid7;  // POOL or ADD at this stage
    input wire first7;                          // of a window or pair
    input wire maximum7;
    input wire add8;                            // the second word of a pair is at stage 8
    input wire [8*L-1:0] word;
    output logic [32*L-1:0] sums;
    output logic [8*L-1:0] a, b;

    logic [8*L-1:0] word5, word6, word7, word8, first_word;

    always_ff @(posedge clk) begin
        if (valid4) word5 <= word;
        if (valid5) word6 <= word5;
        if (valid6) word7 <= word6;
        if (valid7) begin
            word8 <= word7;
            if (first7) first_word <= word7;
        end
        if (add8) begin
            a <= first_word;
            b <= word8;
        end
    end

    generate
        genvar i;
        for (i = 0; i < L; i = i + 1) begin : lane
            logic signed [7:0] value, highest;
            logic signed [31:0] sum;
            assign value = word7[8*i +: 8];
            assign highest = sum[7:0];
            always_ff @(posedge clk) begin
                if (valid7) begin
                    if (first7) sum <= 32'(value);
                    else if (!maximum7) sum <= sum + 32'(value);
                    else if (value > highest) sum <= 32'(value);
                end
            end
            assign sums[32*i +: 32] = sum;
        end
    endgenerate
endmodule
`default_nettype wire
