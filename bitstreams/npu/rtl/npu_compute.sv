// The compute engine: descriptors of CONV, DEPTHWISE, POOL and ADD over the memories on the chip.
//
//   npu_sequencer -- npu_agu      which word is read in this cycle, and what it is for
//        |    \
//        |     npu_tags           what travels beside the data
//   npu_activations               (3 cycles)  four banks; the DMA engines' port as well
//   npu_window                    (1)         alignment, padding, line buffers
//   npu_array  npu_pool           (4)         256 products a cycle and their sums; maxima and plain sums
//   npu_accumulate                (1)         bias, sums of earlier passes
//   npu_output -- npu_requant     (9)         requantisation, output addresses, write
//   npu_weights                               the rows of the next pass, under the current one
//
// One word a cycle, and the pipeline never stops: what has been issued in cycle t is written in cycle t + 18. Cycle
// costs are at the top of npu_sequencer.
`default_nettype none
module npu_compute (clk, rst, clear, desc_valid, desc, desc_index, desc_ready,
                    sem_available, sem_take_valid, sem_take, sem_give_valid, sem_give, busy, done,
                    error_valid, error_code, error_index,
                    dma_write_valid, dma_write_address, dma_write_data, dma_write_ready,
                    dma_weight_valid, dma_weight_address, dma_weight_data,
                    dma_read_valid, dma_read_address, dma_read_ready, dma_read_data_valid, dma_read_data,
                    count_issue, count_wait, count_drain, count_weight);
    `include "npu_params.svh"
    localparam integer L = NPU_LANES;
    localparam integer WORD = 8 * L;
    localparam integer ADDRESS_BITS = $clog2(NPU_ACTIVATION_WORDS);
    localparam integer SHIFT_BITS = $clog2(L / 4);
    localparam integer PIXEL_BITS = $clog2(NPU_ACCUMULATORS);

    input wire clk, rst;
    input wire clear;                    // level: drop everything (the memories stay)
    // The queue, the semaphores, and what becomes of descriptors.
    input wire desc_valid;
    input wire [511:0] desc;
    input wire [15:0] desc_index;
    output logic desc_ready;
    input wire [7:0] sem_available;
    output logic sem_take_valid;
    output logic [7:0] sem_take;
    output logic sem_give_valid;
    output logic [7:0] sem_give;
    output logic busy, done;
    output logic error_valid;
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    // The memories, for the DMA engines: words, and halves of rows of weights.
    input wire dma_write_valid;
    input wire [15:0] dma_write_address;
    input wire [WORD-1:0] dma_write_data;
    output logic dma_write_ready;
    input wire dma_weight_valid;
    input wire [15:0] dma_weight_address;
    input wire [WORD-1:0] dma_weight_data;
    input wire dma_read_valid;
    input wire [15:0] dma_read_address;
    output logic dma_read_ready, dma_read_data_valid;
    output logic [WORD-1:0] dma_read_data;
    output logic count_issue, count_wait, count_drain, count_weight;

    logic running, stop;
    assign stop = rst || !running;

    // Which word, and what for.
    logic agu_load, advance, issue, request0, request1, in_plane, window_ready;
    logic depthwise, pool, add, maximum, swap_parameters, first_of_block, fresh, counted, result;
    logic first_in_row, last_in_row, first_in_pass, last_in_pass, first_pass, last_pass, first, last;
    logic loader_start, loader_ready, loader_idle, loader_take, loader_error;
    logic output_error, output_done;
    logic [511:0] current;
    logic [15:0] current_index, loader_error_index, output_error_index;
    logic [19:0] address;
    logic [PIXEL_BITS:0] pixel;
    logic [ADDRESS_BITS-1:0] word_address;
    logic [SHIFT_BITS-1:0] shift;

    npu_sequencer u_sequencer (
        .clk(clk), .rst(rst), .clear(clear), .desc_valid(desc_valid), .desc(desc), .desc_index(desc_index),
        .desc_ready(desc_ready), .sem_available(sem_available), .sem_take_valid(sem_take_valid), .sem_take(sem_take),
        .busy(busy), .running(running), .loader_start(loader_start), .loader_ready(loader_ready),
        .loader_idle(loader_idle), .loader_take(loader_take), .agu_load(agu_load), .current(current),
        .current_index(current_index), .depthwise(depthwise), .address(address), .in_plane(in_plane), .pixel(pixel),
        .window_ready(window_ready), .first_in_row(first_in_row), .last_in_row(last_in_row),
        .first_in_pass(first_in_pass), .last_in_pass(last_in_pass), .first_pass(first_pass), .last_pass(last_pass),
        .first(first), .last(last), .advance(advance), .issue(issue), .request0(request0), .request1(request1),
        .word_address(word_address), .shift(shift), .pool(pool), .add(add), .maximum(maximum),
        .swap_parameters(swap_parameters), .first_of_block(first_of_block), .fresh(fresh), .counted(counted),
        .result(result), .loader_error(loader_error), .loader_error_index(loader_error_index),
        .output_error(output_error), .output_error_index(output_error_index), .finished(output_done),
        .error_valid(error_valid), .error_code(error_code), .error_index(error_index), .count_issue(count_issue),
        .count_wait(count_wait), .count_drain(count_drain), .count_weight(count_weight)
    );

    npu_agu u_agu (
        .clk(clk), .load(agu_load), .advance(advance), .descriptor(desc), .current(current), .depthwise(depthwise),
        .address(address), .in_plane(in_plane), .pixel(pixel), .window_ready(window_ready),
        .first_in_row(first_in_row), .last_in_row(last_in_row), .first_in_pass(first_in_pass),
        .last_in_pass(last_in_pass), .first_pass(first_pass), .last_pass(last_pass), .first(first), .last(last)
    );

    logic valid3, in_plane3, depthwise3, first_in_row3, first3, valid4, depthwise4, swap4, sum4, sum5, sum6, sum7;
    logic depthwise6, plain4, plain5, plain6, plain7, fresh7, maximum7, swap7, read7, total8, fresh8, pool8, add8;
    logic first8, first_of_block8, swap8, store9, result9, last9, add9;
    logic [SHIFT_BITS-1:0] shift3;
    logic [PIXEL_BITS-1:0] pixel7, pixel9;

    npu_tags u_tags (
        .clk(clk), .rst(stop), .issue(issue), .in_plane(request0), .shift(shift), .first_in_row(first_in_row),
        .depthwise(depthwise), .pool(pool), .add(add), .maximum(maximum), .swap_weights(loader_take && !pool),
        .swap_parameters(swap_parameters), .first(first), .first_of_block(first_of_block), .fresh(fresh),
        .counted(counted), .result(result), .last(last), .pixel(pixel[PIXEL_BITS-1:0]), .valid3(valid3),
        .in_plane3(in_plane3), .shift3(shift3), .depthwise3(depthwise3), .first_in_row3(first_in_row3),
        .first3(first3), .valid4(valid4), .depthwise4(depthwise4), .swap4(swap4), .sum4(sum4), .sum5(sum5),
        .sum6(sum6), .sum7(sum7), .depthwise6(depthwise6), .plain4(plain4), .plain5(plain5), .plain6(plain6),
        .plain7(plain7), .fresh7(fresh7), .maximum7(maximum7), .swap7(swap7), .read7(read7), .pixel7(pixel7),
        .total8(total8), .fresh8(fresh8), .pool8(pool8), .add8(add8), .first8(first8),
        .first_of_block8(first_of_block8), .swap8(swap8), .store9(store9), .pixel9(pixel9), .result9(result9),
        .last9(last9), .add9(add9)
    );

    // The memories.
    logic write_valid;
    logic [ADDRESS_BITS-1:0] write_address;
    logic [WORD-1:0] word0, word1, write_data;

    npu_activations u_activations (
        .clk(clk), .rst(rst), .request0(request0), .request1(request1), .request_address(word_address),
        .word0(word0), .word1(word1), .write_valid(write_valid), .write_address(write_address),
        .write_data(write_data), .dma_write_valid(dma_write_valid), .dma_write_address(dma_write_address),
        .dma_write_data(dma_write_data), .dma_write_ready(dma_write_ready), .dma_read_valid(dma_read_valid),
        .dma_read_address(dma_read_address), .dma_read_ready(dma_read_ready),
        .dma_read_data_valid(dma_read_data_valid), .dma_read_data(dma_read_data)
    );

    logic row_weights, row_parameters, row_depthwise;
    logic [2:0] row_number;
    logic [2*WORD-1:0] row;
    logic [9*L-1:0] high_weights;

    npu_weights u_weights (
        .clk(clk), .rst(stop), .start(loader_start), .descriptor(desc), .index(desc_index), .take(loader_take),
        .ready(loader_ready), .idle(loader_idle), .error(loader_error), .error_index(loader_error_index),
        .write_valid(dma_weight_valid), .write_address(dma_weight_address), .write_data(dma_weight_data),
        .row_weights(row_weights), .row_parameters(row_parameters), .row_depthwise(row_depthwise),
        .row_number(row_number), .row(row), .high_weights(high_weights)
    );

    // The datapath.
    logic [WORD-1:0] word, a, b;
    logic [9*WORD-1:0] taps;
    logic [32*L-1:0] sums, pool_sums, totals;

    npu_window u_window (
        .clk(clk), .valid3(valid3), .in_plane3(in_plane3), .shift3(shift3), .depthwise3(depthwise3),
        .first_in_row3(first_in_row3), .load_pad3(first3), .pad_value(current[NPU_F_PAD_VALUE_LO +: 8]),
        .word0(word0), .word1(word1), .valid4(valid4), .depthwise4(depthwise4), .word(word), .window(taps)
    );

    npu_array u_array (
        .clk(clk), .row_valid(row_weights), .row_depthwise(row_depthwise), .row_number(row_number), .row(row),
        .high_weights(high_weights), .swap4(swap4), .valid4(sum4), .depthwise4(depthwise4), .valid5(sum5),
        .valid6(sum6), .valid7(sum7), .depthwise6(depthwise6), .word(word), .window(taps), .sums(sums)
    );

    npu_pool u_pool (
        .clk(clk), .valid4(plain4), .valid5(plain5), .valid6(plain6), .valid7(plain7), .first7(fresh7),
        .maximum7(maximum7), .add8(add8), .word(word), .sums(pool_sums), .a(a), .b(b)
    );

    npu_accumulate u_accumulate (
        .clk(clk), .row_valid(row_parameters), .row_number(row_number), .row(row), .swap7(swap7),
        .maximum7(maximum7), .read7(read7), .pixel7(pixel7), .valid8(total8), .first8(fresh8), .pool8(pool8),
        .sums(sums), .pool_sums(pool_sums), .write9(store9), .pixel9(pixel9), .totals(totals)
    );

    npu_output u_output (
        .clk(clk), .rst(stop), .row_valid(row_parameters), .row_number(row_number), .row(row), .swap8(swap8),
        .first8(first8), .first_of_block8(first_of_block8), .current(current), .current_index(current_index),
        .result9(result9), .last9(last9), .add9(add9), .totals(totals), .a(a), .b(b), .write_valid(write_valid),
        .write_address(write_address), .write_data(write_data), .done(output_done), .signal(sem_give),
        .error(output_error), .error_index(output_error_index)
    );

    assign done = output_done;
    assign sem_give_valid = output_done;
endmodule
`default_nettype wire
