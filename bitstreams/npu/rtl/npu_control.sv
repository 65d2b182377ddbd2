// Runs a chain: start, end, errors, watchdog, soft reset, interrupt, counters.
//
//   IDLE --start--> RUN --complete, bus quiet--> IDLE, done
//                   RUN --error of an engine, or the watchdog--> STOP --bus quiet--> IDLE, error
//   any  --soft reset--> RESET --bus quiet--> IDLE
//
// `clear` holds every engine in reset outside RUN, so that nothing is issued after an error and a chain always finds
// them as new; the AXI sides outlive it and swallow or make up what is owed (`quiet`: nothing is). STOP and RESET last
// at least 16 cycles, in which the engines' pipelines run empty. STOP gives up waiting for the bus after 255, so that a
// hung bus is reported too; RESET does not: a core that still owes beats cannot be used again.
//
// A start counts in IDLE without an error. During RESET it is remembered. The first error wins; of several in one
// cycle: fetch, LOAD, compute, STORE, watchdog. `busy` falls with the interrupt.
`default_nettype none

module npu_control (
    clk, rst, start, soft_reset, clear_done, interrupt_enable, watchdog, complete, quiet, finished, fetch_error_valid,
    fetch_error_code, fetch_error_index, load_error_valid, load_error_code, load_error_index, compute_error_valid,
    compute_error_code, compute_error_index, store_error_valid, store_error_code, store_error_index, counts, clear,
    busy, done, error, error_code, error_index, counters, irq
);
    `include "npu_params.svh"
    input wire clk, rst, start, soft_reset, clear_done, interrupt_enable;
    input wire [31:0] watchdog;
    input wire complete, quiet;
    input wire [1:0] finished;
    input wire fetch_error_valid;
    input wire [7:0] fetch_error_code;
    input wire [15:0] fetch_error_index;
    input wire load_error_valid;
    input wire [7:0] load_error_code;
    input wire [15:0] load_error_index;
    input wire compute_error_valid;
    input wire [7:0] compute_error_code;
    input wire [15:0] compute_error_index;
    input wire store_error_valid;
    input wire [7:0] store_error_code;
    input wire [15:0] store_error_index;
    input wire [7:0] counts;  // cycles to add to ISSUE_CYCLES (bit 0) .. WRITE_BEATS (bit 7)
    output logic clear, busy, done, error;
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    output logic [319:0] counters;  // CYCLES, ISSUE_CYCLES .. WRITE_BEATS, DESCRIPTORS
    output logic irq;
    localparam [1:0] IDLE = 2'd0, RUN = 2'd1, STOP = 2'd2, RESET = 2'd3;
    localparam [7:0] SETTLE = 8'd16;

    logic [1:0] state;
    logic start_pending;
    logic [7:0] waited;
    logic [31:0] unfinished_cycles;
    logic [31:0] count [0:9];

    wire expired = unfinished_cycles >= watchdog && finished == 2'd0;
    wire engine_error = fetch_error_valid || load_error_valid || compute_error_valid || store_error_valid;
    wire settled = waited >= SETTLE && quiet;
    wire begins = state == IDLE && (start || start_pending) && !error && !soft_reset;

    assign clear = state != RUN;
    assign busy = state != IDLE;
    assign irq = interrupt_enable && (done || error);

    always_ff @(posedge clk) begin
        if (rst) begin
            state <= RESET;
            start_pending <= 1'b0;
            waited <= 8'd0;
            done <= 1'b0;
            error <= 1'b0;
            error_code <= 8'd0;
            error_index <= 16'd0;
        end else if (soft_reset) begin
            state <= RESET;
            start_pending <= 1'b0;
            waited <= 8'd0;
            done <= 1'b0;
            error <= 1'b0;
            error_code <= 8'd0;
            error_index <= 16'd0;
        end else begin
            waited <= state == RUN ? 8'd0 : waited + {7'd0, waited != 8'd255};
            if (start && state == RESET) start_pending <= 1'b1;
            if (clear_done) done <= 1'b0;
            case (state)
                IDLE: if (begins) begin
                    state <= RUN;
                    start_pending <= 1'b0;
                    done <= 1'b0;
                end
                RUN: if (engine_error || expired) begin
                    state <= STOP;
                    if (fetch_error_valid) {error_code, error_index} <= {fetch_error_code, fetch_error_index};
                    else if (load_error_valid) {error_code, error_index} <= {load_error_code, load_error_index};
                    else if (compute_error_valid) {error_code, error_index} <= {compute_error_code,
                                                                            compute_error_index};
                    else if (store_error_valid) {error_code, error_index} <= {store_error_code, store_error_index};
                    else {error_code, error_index} <= {NPU_ERROR_WATCHDOG, count[9][15:0]};
                end else if (complete && quiet) begin
                    state <= IDLE;
                    done <= 1'b1;
                end
                STOP: if (settled || waited == 8'd255) begin
                    state <= IDLE;
                    error <= 1'b1;
                end
                RESET: if (settled) state <= IDLE;
            endcase
        end
    end

    always_ff @(posedge clk) begin
        if (state != RUN || finished != 2'd0) unfinished_cycles <= 32'd1;
        else unfinished_cycles <= unfinished_cycles + 32'd1;
    end

    integer i;
    always_ff @(posedge clk) begin
        if (begins || rst) begin
            for (i = 0; i < 10; i = i + 1) count[i] <= 32'd0;
        end else if (state == RUN) begin
            count[0] <= count[0] + 32'd1;
            for (i = 0; i < 8; i = i + 1) if (counts[i]) count[i+1] <= count[i+1] + 32'd1;
            if (finished != 2'd0) count[9] <= count[9] + {30'd0, finished};
        end
    end
    generate
        genvar g;
        for (g = 0; g < 10; g = g + 1) begin : g_counters
            assign counters[32*g +: 32] = count[g];
        end
    endgenerate
endmodule

`default_nettype wire
