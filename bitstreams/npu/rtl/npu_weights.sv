// The weight memory, and the loader that brings the rows of the next pass to the array under the current one.
//
// The memory has rows of 2 x LANES bytes; the DMA side writes half rows, always accepted. `start` gives the loader a
// descriptor; per pass it reads the weights' rows (CONV: LANES/2, DEPTHWISE: 5) and, in the first pass of an output
// block, the 4 rows of parameters. Those come before the weights in memory but are read behind them: the parameters in
// the array's shadow registers are still needed for a few cycles after the weights beside them have moved on.
// POOL has no weights: two idle cycles stand for them, for the same reason.
//
// `ready`: the last row of the pass to come is read now or has been; its first pixel may be issued in this cycle, which
// `take` says. From the next cycle on the loader reads for the pass after that; `idle` when there is none.
// Latency: a row addressed in cycle n appears at `row` in cycle n + 3, with its kind and number. Beside it,
// `high_weights` are the LANES weights of its second half less one where that of the first half is negative: what
// stands above the low weight when both are one number (see npu_array).
`default_nettype none
module npu_weights (clk, rst, start, descriptor, index, take, ready, idle, error, error_index,
                    write_valid, write_address, write_data,
                    row_weights, row_parameters, row_depthwise, row_number, row, high_weights);
    `include "npu_params.svh"
    localparam integer WORD = 8 * NPU_LANES;
    localparam integer ROW_BITS = $clog2(NPU_WEIGHT_ROWS);

    input wire clk, rst;
    input wire start;
    /* verilator lint_off UNUSEDSIGNAL */  // other fields go elsewhere
    input wire [511:0] descriptor;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire [15:0] index;             // of the descriptor in the chain
    input wire take;
    output logic ready, idle;
    output logic error;                    // a row outside of the memory was wanted (pulse)
    output logic [15:0] error_index;
    input wire write_valid;
    /* verilator lint_off UNUSEDSIGNAL */  // the DMA engines stay within the memory
    input wire [15:0] write_address;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire [WORD-1:0] write_data;
    output logic row_weights, row_parameters, row_depthwise;
    output logic [2:0] row_number;
    output logic [2*WORD-1:0] row;
    output logic [9*NPU_LANES-1:0] high_weights;

    // The passes to come.
    logic working, full, parameters, new_block, depthwise, pool;
    logic [11:0] left_a, left_b, left_c, left_d, count_b, count_c, count_d;
    logic [15:0] weight_row, parameter_row;
    logic [2:0] number, last_number;
    logic [15:0] address;
    logic [7:0] opcode;
    logic last_row, last_in_block, last_pass, reading, outside;

    assign opcode = descriptor[NPU_F_OPCODE_LO +: 8];
    assign last_number = depthwise ? 3'(NPU_DEPTHWISE_ROWS - 1) : pool ? 3'd1 : 3'(NPU_PASS_ROWS - 1);
    assign last_row = parameters ? number == 3'd3 : number == last_number && !new_block;
    assign idle = !working;
    assign ready = working && (full || last_row);
    assign last_in_block = left_b == 0 && left_c == 0 && left_d == 0;
    assign last_pass = last_in_block && left_a == 0;
    assign address = parameters ? parameter_row : weight_row;
    assign reading = working && !full && (parameters || !pool);
    assign outside = reading && address >= 16'(NPU_WEIGHT_ROWS);

    always_ff @(posedge clk) begin
        error <= outside && !rst;
        if (rst) begin
            working <= 1'b0;
            full <= 1'b0;
        end else if (start) begin
            working <= opcode != NPU_OP_ADD;
            full <= 1'b0;
            depthwise <= opcode == NPU_OP_DEPTHWISE;
            pool <= opcode == NPU_OP_POOL;
            number <= 3'd0;
            new_block <= 1'b1;
            parameters <= 1'b0;
            parameter_row <= descriptor[NPU_F_WEIGHT_ROW_LO +: 16];
            weight_row <= descriptor[NPU_F_WEIGHT_ROW_LO +: 16] + 16'(NPU_PARAMETER_ROWS);
            left_a <= descriptor[NPU_F_COUNT_A_LO +: 12];
            left_b <= descriptor[NPU_F_COUNT_B_LO +: 12];
            left_c <= descriptor[NPU_F_COUNT_C_LO +: 12];
            left_d <= descriptor[NPU_F_COUNT_D_LO +: 12];
            count_b <= descriptor[NPU_F_COUNT_B_LO +: 12];
            count_c <= descriptor[NPU_F_COUNT_C_LO +: 12];
            count_d <= descriptor[NPU_F_COUNT_D_LO +: 12];
            if (opcode == NPU_OP_POOL) begin  // all of it is one pass
                left_a <= 12'd0;
                left_b <= 12'd0;
                left_c <= 12'd0;
                left_d <= 12'd0;
            end
            error_index <= index;
        end else if (working) begin
            if (!full) begin
                number <= number + 3'd1;
                if (parameters) parameter_row <= parameter_row + 16'd1;
                else weight_row <= weight_row + 16'd1;
                if (!parameters && new_block && number == last_number) begin
                    parameters <= 1'b1;
                    number <= 3'd0;
                end
                full <= last_row;
            end
            if (take) begin
                full <= 1'b0;
                working <= !last_pass;
                number <= 3'd0;
                parameters <= 1'b0;
                new_block <= last_in_block;
                left_d <= left_d - 12'd1;
                if (left_d == 0) begin
                    left_d <= count_d;
                    left_c <= left_c - 12'd1;
                    if (left_c == 0) begin
                        left_c <= count_c;
                        left_b <= left_b - 12'd1;
                        if (left_b == 0) begin
                            left_b <= count_b;
                            left_a <= left_a - 12'd1;
                        end
                    end
                end
                if (last_in_block) begin
                    parameter_row <= next_weight_row;
                    weight_row <= next_weight_row + 16'(NPU_PARAMETER_ROWS);
                end
            end
        end
    end

    // The row behind the one that is read now, where the next block begins.
    logic [15:0] next_weight_row;
    assign next_weight_row = weight_row + 16'(reading && !parameters);

    // Address and data registers around the block RAM.
    logic read1, read2, weights1, weights2, depthwise1, depthwise2;
    logic [2:0] number1, number2;
    logic [ROW_BITS-1:0] address1;
    logic [WORD-1:0] low, high;

    always_ff @(posedge clk) begin
        if (rst) begin
            read1 <= 1'b0;
            read2 <= 1'b0;
            row_weights <= 1'b0;
            row_parameters <= 1'b0;
        end else begin
            read1 <= reading && !outside;
            read2 <= read1;
            row_weights <= read2 && weights2;
            row_parameters <= read2 && !weights2;
        end
        if (reading) begin
            address1 <= address[ROW_BITS-1:0];
            weights1 <= !parameters;
            depthwise1 <= depthwise;
            number1 <= number;
        end
        if (read1) begin
            weights2 <= weights1;
            depthwise2 <= depthwise1;
            number2 <= number1;
        end
        if (read2) begin
            row_depthwise <= depthwise2;
            row_number <= number2;
            row <= {high, low};
        end
    end

    generate
        genvar i;
        for (i = 0; i < NPU_LANES; i = i + 1) begin : lane
            logic [8:0] above;
            always_ff @(posedge clk) begin
                if (read2) above <= {high[8*i+7], high[8*i +: 8]} - 9'(low[8*i+7]);
            end
            assign high_weights[9*i +: 9] = above;
        end
    endgenerate

    npu_ram #(.WIDTH(WORD), .DEPTH(NPU_WEIGHT_ROWS), .BITS(ROW_BITS)) u_even (
        .clk(clk), .write(write_valid && !write_address[0]), .write_address(write_address[ROW_BITS:1]),
        .write_data(write_data), .read(read1), .read_address(address1), .read_data(low)
    );
    npu_ram #(.WIDTH(WORD), .DEPTH(NPU_WEIGHT_ROWS), .BITS(ROW_BITS)) u_odd (
        .clk(clk), .write(write_valid && write_address[0]), .write_address(write_address[ROW_BITS:1]),
        .write_data(write_data), .read(read1), .read_address(address1), .read_data(high)
    );
endmodule
`default_nettype wire
