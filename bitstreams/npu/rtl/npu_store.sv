// STORE: activation words to memory.
//
// npu_transfer makes the bursts (at most 16 under way, so that bursts of two beats still cover most of a latency of
// 40); npu_walk reads the words, as many as the queue of eight has places for; they leave as beats under the lengths of
// the bursts whose address has been taken. A STORE has finished when its last burst has been acknowledged; the next
// one's addresses and words go out before that.
//
// After `clear`, beats that are owed to an address already taken are sent with no byte enabled. `idle`: nothing is owed
// and every burst has been acknowledged.
//
// Cycles, from the one in which the queue shows the descriptor (0); b: bits of runs - 1 (0 for one run); W: cycles from
// the last beat to its answer (at least 1); B: beats of 8 bytes in all:
//   1 + b                 takes its semaphores and starts; behind a STORE as a LOAD behind a LOAD (npu_load)
//   3 + b                 first m_axi_awvalid; first word asked for (its data come two cycles later)
//   7 + b                 first beat, then one a cycle
//   7 + b + B + W         done: the last answer came in the cycle before. What waits for it may start a cycle later
// So a STORE by itself takes B + W + b + 7 cycles; STOREs in a row, from the second on, B each.
`default_nettype none

module npu_store (
    clk, rst, clear, region_base, region_bytes, desc_valid, desc, desc_index, desc_ready, sem_available,
    sem_take_valid, sem_take, sem_give_valid, sem_give, busy, done, error_valid, error_code, error_index,
    dma_read_valid, dma_read_address, dma_read_ready, dma_read_data_valid, dma_read_data, idle, count_beat,
    m_axi_awaddr, m_axi_awlen, m_axi_awvalid, m_axi_awready, m_axi_wdata, m_axi_wstrb, m_axi_wlast, m_axi_wvalid,
    m_axi_wready, m_axi_bresp, m_axi_bvalid, m_axi_bready
);
    `include "npu_params.svh"
    input wire clk, rst, clear;
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
    output logic busy;  // a STORE has started and not finished
    output logic done, error_valid;
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    output logic dma_read_valid;
    output logic [15:0] dma_read_address;
    input wire dma_read_ready, dma_read_data_valid;
    input wire [8*NPU_LANES-1:0] dma_read_data;
    output logic idle, count_beat;
    output logic [NPU_ADDRESS_BITS-1:0] m_axi_awaddr;
    output logic [7:0] m_axi_awlen;
    output logic m_axi_awvalid;
    input wire m_axi_awready;
    output logic [63:0] m_axi_wdata;
    output logic [7:0] m_axi_wstrb;
    output logic m_axi_wlast, m_axi_wvalid;
    input wire m_axi_wready;
    input wire [1:0] m_axi_bresp;
    input wire m_axi_bvalid;
    output logic m_axi_bready;
    localparam integer W = 8 * NPU_LANES;

    logic start, start_ready, unused_weights, unused_issuing, bounds_error;
    logic [15:0] start_chip, start_words, start_runs, start_chip_step, start_index;
    logic [7:0] start_signal;
    logic burst_valid, burst_last, burst_ready;
    logic [NPU_ADDRESS_BITS-1:3] burst_address;
    logic [4:0] burst_beats;
    npu_transfer #(.WEIGHTS(0)) u_transfer (
        .clk(clk), .clear(clear), .region_base(region_base), .region_bytes(region_bytes),
        .desc_valid(desc_valid), .desc(desc), .desc_index(desc_index), .desc_ready(desc_ready),
        .sem_available(sem_available), .sem_take_valid(sem_take_valid), .sem_take(sem_take),
        .start_ready(start_ready), .start(start), .chip(start_chip), .words(start_words), .runs(start_runs),
        .chip_step(start_chip_step), .weights(unused_weights), .signal(start_signal), .index(start_index),
        .error(bounds_error), .issuing(unused_issuing),
        .burst_valid(burst_valid), .burst_address(burst_address), .burst_beats(burst_beats),
        .burst_last(burst_last), .burst_ready(burst_ready)
    );

    // Words from the chip: read as long as the queue of eight has a place for what has been asked for.
    logic queue_ready, queued, walk_ready, walking, unused_last, unused_tag;
    logic [15:0] chip, words, runs, chip_step;
    npu_fifo #(.WIDTH(64), .DEPTH_LOG2(2)) u_queue (
        .clk(clk), .rst(clear), .in_valid(start), .in_ready(queue_ready),
        .in_data({start_chip_step, start_runs, start_words, start_chip}),
        .out_valid(queued), .out_data({chip_step, runs, words, chip}), .out_ready(walk_ready)
    );
    wire read = dma_read_valid && dma_read_ready;
    npu_walk #(.TAG(1)) u_walk (
        .clk(clk), .clear(clear), .in_valid(queued), .in_chip(chip), .in_words(words), .in_runs(runs),
        .in_chip_step(chip_step), .in_tag(1'b0), .in_ready(walk_ready),
        .valid(walking), .address(dma_read_address), .last(unused_last), .tag(unused_tag), .advance(read)
    );
    logic [3:0] reserved;
    logic word_valid, word_pop, unused_word_ready;
    logic [W-1:0] word;
    assign dma_read_valid = walking && !reserved[3] && !clear;
    npu_fifo #(.WIDTH(W), .DEPTH_LOG2(3)) u_words (
        .clk(clk), .rst(clear), .in_valid(dma_read_data_valid), .in_data(dma_read_data), .in_ready(unused_word_ready),
        .out_valid(word_valid), .out_data(word), .out_ready(word_pop)
    );
    always_ff @(posedge clk) begin
        if (clear) reserved <= 4'd0;
        else if (read != word_pop) reserved <= read ? reserved + 4'd1 : reserved - 4'd1;
    end

    // Addresses.
    logic [4:0] under_way;  // bursts, from here to their acknowledgement
    logic address_last;
    wire address_taken = m_axi_awvalid && m_axi_awready;
    wire acknowledged = m_axi_bvalid && m_axi_bready;
    assign burst_ready = !under_way[4] && (!m_axi_awvalid || m_axi_awready);
    wire burst_taken = burst_valid && burst_ready;
    always_ff @(posedge clk) begin
        if (rst) begin
            m_axi_awvalid <= 1'b0;
            under_way <= 5'd0;
        end else begin
            if (burst_taken) m_axi_awvalid <= 1'b1;
            else if (m_axi_awready) m_axi_awvalid <= 1'b0;
            if (burst_taken != acknowledged) under_way <= burst_taken ? under_way + 5'd1 : under_way - 5'd1;
        end
        if (burst_taken) begin
            m_axi_awaddr <= {burst_address, 3'b000};
            m_axi_awlen <= {3'b000, burst_beats - 5'd1};
            address_last <= burst_last;
        end
    end

    // Beats.
    logic length_valid, unused_length_ready;
    logic [3:0] length, sent;  // beats - 1 of the burst; beats of it that have been sent
    wire beat_last = sent == length;
    logic beat_ready, beat_valid;
    npu_fifo #(.WIDTH(4), .DEPTH_LOG2(4)) u_lengths (
        .clk(clk), .rst(rst), .in_valid(address_taken), .in_data(m_axi_awlen[3:0]), .in_ready(unused_length_ready),
        .out_valid(length_valid), .out_data(length), .out_ready(beat_valid && beat_last)
    );
    assign beat_ready = !m_axi_wvalid || m_axi_wready;
    assign beat_valid = length_valid && beat_ready && (word_valid || clear);
    logic [63:0] beat;
    generate
        if (NPU_LANES == 16) begin : g_two_beats
            logic second;
            assign beat = second ? word[127:64] : word[63:0];
            assign word_pop = beat_valid && second && !clear;
            always_ff @(posedge clk) begin
                if (clear) second <= 1'b0;
                else if (beat_valid) second <= !second;
            end
        end else begin : g_one_beat
            assign beat = word;
            assign word_pop = beat_valid && !clear;
        end
    endgenerate
    always_ff @(posedge clk) begin
        if (rst) begin
            m_axi_wvalid <= 1'b0;
            sent <= 4'd0;
        end else begin
            if (beat_ready) m_axi_wvalid <= beat_valid;
            if (beat_valid) sent <= beat_last ? 4'd0 : sent + 4'd1;
        end
        if (beat_valid) begin
            m_axi_wdata <= beat;
            m_axi_wstrb <= {8{!clear}};
            m_axi_wlast <= beat_last;
        end
    end

    // Acknowledgements.
    logic finish_ready, finish_valid, last_valid, acknowledged_last, unused_flag_ready;
    logic [7:0] signal;
    logic [15:0] index;
    wire finish = acknowledged && last_valid && acknowledged_last;
    npu_fifo #(.WIDTH(1), .DEPTH_LOG2(4)) u_flags (
        .clk(clk), .rst(rst), .in_valid(address_taken), .in_data(address_last), .in_ready(unused_flag_ready),
        .out_valid(last_valid), .out_data(acknowledged_last), .out_ready(acknowledged)
    );
    npu_fifo #(.WIDTH(24), .DEPTH_LOG2(3)) u_finish (
        .clk(clk), .rst(clear), .in_valid(start), .in_data({start_signal, start_index}), .in_ready(finish_ready),
        .out_valid(finish_valid), .out_data({signal, index}), .out_ready(finish)
    );
    assign start_ready = queue_ready && finish_ready;
    assign m_axi_bready = 1'b1;
    wire failed = acknowledged && m_axi_bresp[1];
    wire unused_bresp = m_axi_bresp[0];

    assign error_valid = failed || bounds_error;
    assign error_code = failed ? NPU_ERROR_AXI : NPU_ERROR_BOUNDS;
    assign error_index = failed ? index : start_index;
    assign busy = finish_valid || done;
    assign idle = under_way == 5'd0;
    assign count_beat = m_axi_wvalid && m_axi_wready;
    assign sem_give_valid = done;
    always_ff @(posedge clk) begin
        done <= finish;
        if (finish) sem_give <= signal;
    end
endmodule

`default_nettype wire
