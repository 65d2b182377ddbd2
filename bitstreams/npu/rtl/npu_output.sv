// From totals (or pairs of ADD) to words in the activation memory.
//
// Stage 9 enters LANES requantisation lanes together with its scales and bounds; the address, whether there is a word
// to write at all (a descriptor that leaves partial sums ends without one), and what happens when a descriptor ends
// wait in a short queue for the lanes' `out_valid`, in whose cycle the word is written and `done` pulses.
// Scales come by two rows of parameters (rows 2 and 3) into shadow registers and are taken over when `swap8` says that
// the first word of an output block is at stage 8; what belongs to the descriptor is taken from `current` at `first8`.
`default_nettype none
module npu_output (clk, rst, row_valid, row_number, row, swap8, first8, first_of_block8, current, current_index,
                   result9, last9, add9, totals, a, b, write_valid, write_address, write_data,
                   done, signal, error, error_index);
    `include "npu_params.svh"
    localparam integer L = NPU_LANES;
    localparam integer ADDRESS_BITS = $clog2(NPU_ACTIVATION_WORDS);

    input wire clk, rst;
    input wire row_valid;
    input wire [2:0] row_number;
    input wire [16*L-1:0] row;
    input wire swap8, first8, first_of_block8;
    /* verilator lint_off UNUSEDSIGNAL */  // other fields go elsewhere
    input wire [511:0] current;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire [15:0] current_index;
    input wire result9, last9, add9;
    input wire [32*L-1:0] totals;
    input wire [8*L-1:0] a, b;
    output logic write_valid;
    output logic [ADDRESS_BITS-1:0] write_address;
    output logic [8*L-1:0] write_data;
    output logic done;            // pulse: a descriptor has finished, its last word is being written
    output logic [7:0] signal;    // its signal mask
    output logic error;           // pulse: a word outside of the memory was to be written
    output logic [15:0] error_index;

    // What the descriptor says, from its first word's stage 9 on.
    logic [7:0] zero_point, act_min, act_max, signal9;
    logic [23:0] ratio_a, ratio_b;
    logic [39:0] offset;
    logic [5:0] shift;
    logic [15:0] step, plane, address, next_plane;
    assign next_plane = plane + step;

    always_ff @(posedge clk) begin
        if (first8) begin
            zero_point <= current[NPU_F_ZERO_POINT_LO +: 8];
            act_min <= current[NPU_F_ACT_MIN_LO +: 8];
            act_max <= current[NPU_F_ACT_MAX_LO +: 8];
            ratio_a <= current[NPU_ADD_RATIO_A_LO +: 24];
            ratio_b <= current[NPU_ADD_RATIO_B_LO +: 24];
            offset <= {current[NPU_ADD_OFFSET_HIGH_LO +: 8], current[NPU_ADD_OFFSET_LOW_LO +: 32]};
            shift <= current[NPU_ADD_SHIFT_LO +: 6];
            signal9 <= current[NPU_F_SIGNAL_LO +: 8];
            error_index <= current_index;
            step <= current[NPU_F_OUT_STEP_LO +: 16];
            plane <= current[NPU_F_OUT_BASE_LO +: 16];
            address <= current[NPU_F_OUT_BASE_LO +: 16];
        end else if (first_of_block8) begin
            plane <= next_plane;
            address <= next_plane;
        end else if (result9) begin
            address <= address + 16'd1;
        end
    end

    // What waits for the lanes.
    localparam integer ENTRY = ADDRESS_BITS + 10;
    logic [ENTRY-1:0] entries [0:15];
    logic [ENTRY-1:0] entry;
    logic [3:0] head, tail;
    logic enter, outside;
    logic [L-1:0] out_valid;
    assign enter = result9 || last9;
    assign outside = address >= 16'(NPU_ACTIVATION_WORDS);
    assign error = result9 && outside;
    assign entry = entries[head];
    assign write_valid = out_valid[0] && entry[ADDRESS_BITS] && !rst;
    assign write_address = entry[ADDRESS_BITS-1:0];
    assign done = out_valid[0] && entry[ADDRESS_BITS+1] && !rst;
    assign signal = entry[ENTRY-1 -: 8];

    always_ff @(posedge clk) begin
        if (enter) entries[tail] <= {signal9, last9, result9 && !outside, address[ADDRESS_BITS-1:0]};
        if (rst) begin
            head <= 4'd0;
            tail <= 4'd0;
        end else begin
            if (enter) tail <= tail + 4'd1;
            if (out_valid[0]) head <= head + 4'd1;
        end
    end

    generate
        genvar i;
        for (i = 0; i < L; i = i + 1) begin : lane
            logic [31:0] shadow, scale;
            always_ff @(posedge clk) begin
                if (row_valid && row_number == 3'(2 + 2 * i / L)) shadow <= row[32*(i%(L/2)) +: 32];
                if (swap8) scale <= shadow;
            end
            npu_requant u_requant (
                .clk(clk), .in_valid(enter), .in_add(add9), .acc(totals[32*i +: 32]), .scale(scale),
                .a(a[8*i +: 8]), .b(b[8*i +: 8]), .ratio_a(ratio_a), .ratio_b(ratio_b), .offset(offset),
                .shift(shift), .zero_point(zero_point), .act_min(act_min), .act_max(act_max),
                .out_valid(out_valid[i]), .out(write_data[8*i +: 8])
            );
        end
    endgenerate

    /* verilator lint_off UNUSEDSIGNAL */  // all lanes have the same latency
    logic unused;
    /* verilator lint_on UNUSEDSIGNAL */
    assign unused = &out_valid[L-1:1];
endmodule
`default_nettype wire
