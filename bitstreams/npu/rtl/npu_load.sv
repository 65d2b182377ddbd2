// LOAD: memory to activation words, or (flag WEIGHTS) to half rows of the weight memory.
//
// npu_transfer issues the bursts; a queue of descriptors under way, npu_walk and a queue of four words follow on the
// side of the data. So a LOAD's addresses go out while the data of those before are still to come, up to eight ahead,
// and many small ones pay the latency once. A LOAD has finished when its last word has been written.
//
// Cycles, from the one in which the queue shows the descriptor (0); b: bits of runs - 1 (0 for one run); L: cycles from
// an address taken to its first beat; B: beats of 8 bytes in all:
//   1 + b           takes its semaphores and starts, if they are there; behind another LOAD not before the cycle in
//                   which that one's last burst is accepted, and then its own first burst follows in the next one
//   3 + b           first m_axi_arvalid, then a burst a cycle (a burst ends at a 128-byte block and with its run)
//   3 + b + L       first beat, then one a cycle
//   4 + b + L + B   done: the last word was written in the cycle before. What waits for it may start a cycle later
// So a LOAD by itself takes L + B + b + 4 cycles; LOADs in a row, from the second on, B each (while their bursts are
// long enough: the memory's limit of bursts under way x beats a burst >= L + 1), plus 8 for each descriptor in between
// that npu_fetch reads. A word that dma_write_ready delays costs that cycle only when four words wait already.
`default_nettype none

module npu_load (
    clk, clear, region_base, region_bytes, desc_valid, desc, desc_index, desc_ready, sem_available, sem_take_valid,
    sem_take, sem_give_valid, sem_give, busy, done, error_valid, error_code, error_index, burst_valid, burst_address,
    burst_beats, burst_ready, data_valid, data, data_error, data_ready, dma_write_valid, dma_write_address,
    dma_write_data, dma_write_ready, dma_weight_valid, dma_weight_address, dma_weight_data
);
    `include "npu_params.svh"
    input wire clk, clear;
    input wire [4*NPU_ADDRESS_BITS-1:0] region_base;
    input wire [127:0] region_bytes;
    input wire desc_valid;
    input wire [255:0] desc;
    input wire [15:0] desc_index;
    output logic desc_ready;
    input wire [7:0] sem_available;
    output logic sem_take_valid;
    output logic [7:0] sem_take;
    output logic sem_give_valid;
    output logic [7:0] sem_give;
    output logic busy;  // a LOAD has started and not finished
    output logic done, error_valid;
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    output logic burst_valid;
    output logic [NPU_ADDRESS_BITS-1:3] burst_address;
    output logic [4:0] burst_beats;
    input wire burst_ready, data_valid;
    input wire [63:0] data;
    input wire data_error;
    output logic data_ready, dma_write_valid;
    output logic [15:0] dma_write_address;
    output logic [8*NPU_LANES-1:0] dma_write_data;
    input wire dma_write_ready;
    output logic dma_weight_valid;
    output logic [15:0] dma_weight_address;
    output logic [8*NPU_LANES-1:0] dma_weight_data;
    localparam integer W = 8 * NPU_LANES;

    logic start, start_ready, start_weights, issuing, bounds_error, unused_burst_last;
    logic [15:0] start_chip, start_words, start_runs, start_chip_step, start_index;
    logic [7:0] start_signal;
    npu_transfer #(.WEIGHTS(1)) u_transfer (
        .clk(clk), .clear(clear), .region_base(region_base), .region_bytes(region_bytes),
        .desc_valid(desc_valid), .desc(desc), .desc_index(desc_index), .desc_ready(desc_ready),
        .sem_available(sem_available), .sem_take_valid(sem_take_valid), .sem_take(sem_take),
        .start_ready(start_ready), .start(start), .chip(start_chip), .words(start_words), .runs(start_runs),
        .chip_step(start_chip_step), .weights(start_weights), .signal(start_signal), .index(start_index),
        .error(bounds_error), .issuing(issuing),
        .burst_valid(burst_valid), .burst_address(burst_address), .burst_beats(burst_beats),
        .burst_last(unused_burst_last), .burst_ready(burst_ready)
    );

    logic queued, walk_ready;
    logic [15:0] chip, words, runs, chip_step;
    logic [24:0] queued_tag;
    npu_fifo #(.WIDTH(89), .DEPTH_LOG2(3)) u_queue (
        .clk(clk), .rst(clear), .in_valid(start), .in_ready(start_ready),
        .in_data({start_weights, start_signal, start_index, start_chip_step, start_runs, start_words, start_chip}),
        .out_valid(queued), .out_data({queued_tag, chip_step, runs, words, chip}), .out_ready(walk_ready)
    );

    logic walking, last, advance, weights;
    logic [15:0] address, index;
    logic [7:0] signal;
    npu_walk #(.TAG(25)) u_walk (
        .clk(clk), .clear(clear), .in_valid(queued), .in_chip(chip), .in_words(words), .in_runs(runs),
        .in_chip_step(chip_step), .in_tag(queued_tag), .in_ready(walk_ready),
        .valid(walking), .address(address), .last(last), .tag({weights, signal, index}), .advance(advance)
    );

    // Beats to words.
    logic word_in_valid, word_in_ready, word_valid, word_error;
    logic [W-1:0] word_in, word;
    logic word_in_error;
    generate
        if (NPU_LANES == 16) begin : g_two_beats
            logic half_valid, half_error;
            logic [63:0] half;
            assign word_in_valid = data_valid && half_valid;
            assign word_in = {data, half};
            assign word_in_error = data_error || half_error;
            assign data_ready = word_in_ready || !half_valid;
            always_ff @(posedge clk) begin
                if (clear) half_valid <= 1'b0;
                else if (data_valid && data_ready) half_valid <= !half_valid;
                if (data_valid && !half_valid) begin
                    half <= data;
                    half_error <= data_error;
                end
            end
        end else begin : g_one_beat
            assign word_in_valid = data_valid;
            assign word_in = data;
            assign word_in_error = data_error;
            assign data_ready = word_in_ready;
        end
    endgenerate
    npu_fifo #(.WIDTH(W + 1), .DEPTH_LOG2(2)) u_words (
        .clk(clk), .rst(clear), .in_valid(word_in_valid), .in_data({word_in_error, word_in}), .in_ready(word_in_ready),
        .out_valid(word_valid), .out_data({word_error, word}), .out_ready(advance)
    );

    wire write = word_valid && walking && !word_error;
    wire data_failed = word_valid && walking && word_error;
    assign dma_write_valid = write && !weights;
    assign dma_write_address = address;
    assign dma_write_data = word;
    assign dma_weight_valid = write && weights;
    assign dma_weight_address = address;
    assign dma_weight_data = word;
    assign advance = write && (weights || dma_write_ready);

    assign error_valid = data_failed || bounds_error;
    assign error_code = data_failed ? NPU_ERROR_AXI : NPU_ERROR_BOUNDS;
    assign error_index = data_failed ? index : start_index;
    assign busy = issuing || queued || walking || done;
    assign sem_give_valid = done;

    always_ff @(posedge clk) begin
        done <= advance && last;
        if (advance) sem_give <= signal;
    end
endmodule

`default_nettype wire
