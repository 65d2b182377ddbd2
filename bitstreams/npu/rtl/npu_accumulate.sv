// Adds the array's sums (or a pool's) to the bias or to what earlier passes have left for the pixel.
//
// Stage 7 addresses the accumulators (block RAM), stage 8 adds, stage 9 has `totals`, which go back to the RAM or on to
// requantisation. A pixel that was added to in cycle n can be added to again from cycle n + 3 on; passes last at least
// LANES/2 cycles (their weights take that long), so nothing has to wait for this.
// Biases come by two rows of parameters into shadow registers, and are taken over when `swap7` says that the first
// word of an output block is at stage 7.
`default_nettype none
module npu_accumulate (clk, row_valid, row_number, row, swap7, maximum7, read7, pixel7, valid8, first8, pool8, sums,
                       pool_sums, write9, pixel9, totals);
    `include "npu_params.svh"
    localparam integer L = NPU_LANES;
    localparam integer BITS = $clog2(NPU_ACCUMULATORS);

    input wire clk;
    input wire row_valid;
    input wire [2:0] row_number;
    input wire [16*L-1:0] row;
    input wire swap7;
    input wire maximum7;  // POOL of maxima: no bias
    input wire read7;
    input wire [BITS-1:0] pixel7;
    input wire valid8, first8, pool8;
    input wire [32*L-1:0] sums, pool_sums;
    input wire write9;
    input wire [BITS-1:0] pixel9;
    output logic [32*L-1:0] totals;

    logic [32*L-1:0] earlier;
    npu_ram #(.WIDTH(32 * L), .DEPTH(NPU_ACCUMULATORS), .BITS(BITS)) u_accumulators (
        .clk(clk), .write(write9), .write_address(pixel9), .write_data(totals),
        .read(read7), .read_address(pixel7), .read_data(earlier)
    );

    generate
        genvar i;
        for (i = 0; i < L; i = i + 1) begin : lane
            logic [31:0] shadow, bias, total;
            always_ff @(posedge clk) begin
                if (row_valid && row_number == 3'(2 * i / L)) shadow <= row[32*(i%(L/2)) +: 32];
                if (swap7) bias <= maximum7 ? 32'd0 : shadow;
                if (valid8) total <= (first8 ? bias : earlier[32*i +: 32])
                                   + (pool8 ? pool_sums[32*i +: 32] : sums[32*i +: 32]);
            end
            assign totals[32*i +: 32] = total;
        end
    endgenerate
endmodule
`default_nettype wire
