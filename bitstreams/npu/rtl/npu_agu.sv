// The six nested loops of a compute descriptor: address, coordinates and position of one read a cycle.
//
// Everything is kept by additions: each level remembers the address at which its current iteration began, so that a
// step of level k is base[k] + step[k], one adder behind a multiplexer. Addresses wrap at 20 bits.
// `load` takes the start from `descriptor`; the steps come from `current`, the register in which the sequencer keeps
// the descriptor from the next cycle on. The outputs describe the read to come until `advance` consumes it.
`default_nettype none
module npu_agu (clk, load, advance, descriptor, current, depthwise, address, in_plane, pixel, window_ready,
                first_in_row, last_in_row, first_in_pass, last_in_pass, first_pass, last_pass, first, last);
    `include "npu_params.svh"
    localparam integer PIXEL_BITS = $clog2(NPU_ACCUMULATORS) + 1;
    localparam integer XY = 22;  // bits of a coordinate: 4095 x 255 and a start, signed

    input wire clk;
    input wire load;
    input wire advance;
    /* verilator lint_off UNUSEDSIGNAL */  // other fields go elsewhere
    input wire [511:0] descriptor;
    input wire [511:0] current;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire depthwise;               // pixels are counted at whole windows only
    output logic [19:0] address;
    output logic in_plane;                  // of the plane: no padding
    output logic [PIXEL_BITS-1:0] pixel;  // of the pass (CONV) or plane (DEPTHWISE); sticks at its highest value
    output logic window_ready;            // DEPTHWISE: this word completes a window that is an output
    output logic first_in_row, last_in_row;    // loop F
    output logic first_in_pass, last_in_pass;  // loops E and F
    output logic first_pass, last_pass;        // loops B, C and D
    output logic first, last;                  // of all

    logic [11:0] left_a, left_b, left_c, left_d, left_e, left_f;
    logic [19:0] base_a, base_b, base_c, base_d, base_e;
    logic [XY-1:0] y, x, base_y, base_x;
    logic [7:0] rows_left, columns_left;  // until the next output of a depthwise convolution

    // step_k: level k or one outside of it steps.
    logic step_a, step_b, step_c, step_d, step_e;
    assign last_in_row = left_f == 0;
    assign last_in_pass = last_in_row && left_e == 0;
    assign last_pass = left_d == 0 && left_c == 0 && left_b == 0;
    assign last = step_a && left_a == 0;
    assign step_e = last_in_row;
    assign step_d = last_in_pass;
    assign step_c = step_d && left_d == 0;
    assign step_b = step_c && left_c == 0;
    assign step_a = step_b && left_b == 0;

    logic [19:0] from, by, to;
    always_comb begin
        from = address;
        by = current[NPU_F_STEP_F_LO +: 20];
        if (step_a) begin
            from = base_a;
            by = current[NPU_F_STEP_A_LO +: 20];
        end else if (step_b) begin
            from = base_b;
            by = current[NPU_F_STEP_B_LO +: 20];
        end else if (step_c) begin
            from = base_c;
            by = current[NPU_F_STEP_C_LO +: 20];
        end else if (step_d) begin
            from = base_d;
            by = current[NPU_F_STEP_D_LO +: 20];
        end else if (step_e) begin
            from = base_e;
            by = current[NPU_F_STEP_E_LO +: 20];
        end
    end
    assign to = from + by;

    always_ff @(posedge clk) begin
        if (load) begin
            address <= descriptor[NPU_F_IN_BASE_LO +: 20];
            base_a <= descriptor[NPU_F_IN_BASE_LO +: 20];
            base_b <= descriptor[NPU_F_IN_BASE_LO +: 20];
            base_c <= descriptor[NPU_F_IN_BASE_LO +: 20];
            base_d <= descriptor[NPU_F_IN_BASE_LO +: 20];
            base_e <= descriptor[NPU_F_IN_BASE_LO +: 20];
            left_a <= descriptor[NPU_F_COUNT_A_LO +: 12];
            left_b <= descriptor[NPU_F_COUNT_B_LO +: 12];
            left_c <= descriptor[NPU_F_COUNT_C_LO +: 12];
            left_d <= descriptor[NPU_F_COUNT_D_LO +: 12];
            left_e <= descriptor[NPU_F_COUNT_E_LO +: 12];
            left_f <= descriptor[NPU_F_COUNT_F_LO +: 12];
            first_in_row <= 1'b1;
            first_in_pass <= 1'b1;
            first_pass <= 1'b1;
            first <= 1'b1;
        end else if (advance) begin
            address <= to;
            left_f <= step_e ? current[NPU_F_COUNT_F_LO +: 12] : left_f - 12'd1;
            first_in_row <= step_e;
            first_in_pass <= step_d;
            first <= 1'b0;
            if (step_e) begin
                base_e <= to;
                left_e <= step_d ? current[NPU_F_COUNT_E_LO +: 12] : left_e - 12'd1;
            end
            if (step_d) begin
                base_d <= to;
                left_d <= step_c ? current[NPU_F_COUNT_D_LO +: 12] : left_d - 12'd1;
                first_pass <= step_a;
            end
            if (step_c) begin
                base_c <= to;
                left_c <= step_b ? current[NPU_F_COUNT_C_LO +: 12] : left_c - 12'd1;
            end
            if (step_b) begin
                base_b <= to;
                left_b <= step_a ? current[NPU_F_COUNT_B_LO +: 12] : left_b - 12'd1;
            end
            if (step_a) begin
                base_a <= to;
                left_a <= left_a - 12'd1;
            end
        end
    end

    // Coordinates. Loops B and E move y, loops C and F move x.
    logic [XY-1:0] start_y, start_x, next_base_y, next_base_x;
    assign start_y = {{(XY - 12){current[NPU_F_Y0_LO + 11]}}, current[NPU_F_Y0_LO +: 12]};
    assign start_x = {{(XY - 12){current[NPU_F_X0_LO + 11]}}, current[NPU_F_X0_LO +: 12]};
    assign next_base_y = step_a ? start_y : base_y + XY'(current[NPU_F_Y_B_LO +: 8]);
    assign next_base_x = step_b ? start_x : base_x + XY'(current[NPU_F_X_C_LO +: 8]);
    assign in_plane = y < XY'(current[NPU_F_IN_H_LO +: 12]) && x < XY'(current[NPU_F_IN_W_LO +: 12]);

    always_ff @(posedge clk) begin
        if (load) begin
            y <= {{(XY - 12){descriptor[NPU_F_Y0_LO + 11]}}, descriptor[NPU_F_Y0_LO +: 12]};
            x <= {{(XY - 12){descriptor[NPU_F_X0_LO + 11]}}, descriptor[NPU_F_X0_LO +: 12]};
            base_y <= {{(XY - 12){descriptor[NPU_F_Y0_LO + 11]}}, descriptor[NPU_F_Y0_LO +: 12]};
            base_x <= {{(XY - 12){descriptor[NPU_F_X0_LO + 11]}}, descriptor[NPU_F_X0_LO +: 12]};
        end else if (advance) begin
            if (step_b) begin
                base_y <= next_base_y;
                y <= next_base_y;
            end else if (step_d) y <= base_y;
            else if (step_e) y <= y + XY'(current[NPU_F_Y_E_LO +: 8]);
            if (step_c) begin
                base_x <= next_base_x;
                x <= next_base_x;
            end else if (step_e) x <= base_x;
            else x <= x + XY'(current[NPU_F_X_F_LO +: 8]);
        end
    end

    // Which pixel, and which words of a depthwise stream complete a window.
    assign window_ready = rows_left == 0 && columns_left == 0;

    always_ff @(posedge clk) begin
        if (load || (advance && step_d)) begin
            pixel <= 0;
            rows_left <= 8'd2;
            columns_left <= 8'd2;
        end else if (advance) begin
            if ((!depthwise || window_ready) && !(&pixel)) pixel <= pixel + 1'b1;
            if (step_e) begin
                columns_left <= 8'd2;
                rows_left <= (rows_left == 0 ? current[NPU_F_STRIDE_Y_LO +: 8] : rows_left) - 8'd1;
            end else begin
                columns_left <= (columns_left == 0 ? current[NPU_F_STRIDE_X_LO +: 8] : columns_left) - 8'd1;
            end
        end
    end
endmodule
`default_nettype wire
