// Takes descriptors from the queue and runs them through the pipeline, one read a cycle.
//
// A descriptor is accepted (its semaphores taken, the weight loader started) while the one before it still runs, and
// popped into `current` when that one has issued its last read.
//
// Cycles. R = rows of weights of a pass: LANES/2 (CONV), 5 (DEPTHWISE), 2 idle cycles (POOL), and 4 more of parameters
// in the first pass of an output block (POOL: of the descriptor). A pass is one (A, B, C, D) of CONV, one A of
// DEPTHWISE; POOL and ADD are one pass. P = reads of a pass = count_e x count_f (POOL, ADD: all counts multiplied).
//   accept   the first cycle in which the descriptor is at the queue's head, its semaphores are there, the one before
//            it was popped, and all rows of that one's weights are used: after the first read of its last pass.
//   first read, the latest of
//     accept + R             (ADD: accept + 2), R with parameters
//     1 after the last read of the descriptor before      -- no bubble when its last pass had >= R + 1 reads
//     9 after the first read of the descriptor before     -- the registers of `current` are in use until then
//     DRAIN: 19 after the last read of the descriptor before, that is 1 after its last word was written
//   passes   one read a cycle without a pause; from the first read of a pass to that of the next max(P, R of the next):
//            its rows are read under this one. Nothing else ever pauses: the datapath goes before the DMA engines.
//   end      the last word is written (done, signal) 18 cycles after the last read, with and without PARTIAL:
//            9 to the totals and 9 in the requantisation lanes.
// An idle engine therefore takes, from the head of the queue to done inclusive, R + the passes + 19 cycles:
// a CONV of one pass with LANES = 16 and P pixels 12 + P + 18; an ADD of P reads 2 + P + 18.
`default_nettype none
module npu_sequencer (clk, rst, clear, desc_valid, desc, desc_index, desc_ready, sem_available, sem_take_valid,
                      sem_take, busy, running, loader_start, loader_ready, loader_idle, loader_take,
                      agu_load, current, current_index, depthwise, address, in_plane, pixel, window_ready,
                      first_in_row, last_in_row, first_in_pass, last_in_pass, first_pass, last_pass, first, last,
                      advance, issue, request0, request1, word_address, shift, pool, add, maximum,
                      swap_parameters, first_of_block, fresh, counted, result,
                      loader_error, loader_error_index, output_error, output_error_index, finished,
                      error_valid, error_code, error_index, count_issue, count_wait, count_drain, count_weight);
    `include "npu_params.svh"
    localparam integer PIXEL_BITS = $clog2(NPU_ACCUMULATORS) + 1;
    localparam integer ADDRESS_BITS = $clog2(NPU_ACTIVATION_WORDS);
    localparam integer SHIFT_BITS = $clog2(NPU_LANES / 4);
    localparam [2:0] HOLD = 3'd7;  // `current` is needed until a descriptor's first word is at stage 8

    input wire clk, rst, clear;
    input wire desc_valid;
    input wire [511:0] desc;
    input wire [15:0] desc_index;
    output logic desc_ready;
    input wire [7:0] sem_available;
    output logic sem_take_valid;
    output logic [7:0] sem_take;
    output logic busy;
    output logic running;                 // not in reset, nothing left of what came before it
    // The weight loader.
    output logic loader_start;            // with `desc`
    input wire loader_ready, loader_idle;
    output logic loader_take;
    // The address generator: what it says of the read to come, or of the word that is read.
    output logic agu_load;                // with `desc`
    output logic [511:0] current;
    output logic [15:0] current_index;
    output logic depthwise;
    input wire [19:0] address;
    input wire in_plane;
    input wire [PIXEL_BITS-1:0] pixel;
    input wire window_ready, first_in_row, last_in_row, first_in_pass, last_in_pass;
    input wire first_pass, last_pass, first, last;
    output logic advance;
    // What is read, and what is said of it (see npu_tags).
    output logic issue, request0, request1;
    output logic [ADDRESS_BITS-1:0] word_address;
    output logic [SHIFT_BITS-1:0] shift;
    output logic pool, add, maximum, swap_parameters, first_of_block, fresh, counted, result;
    // What goes wrong, and what has ended.
    input wire loader_error, output_error;
    input wire [15:0] loader_error_index, output_error_index;
    input wire finished;
    output logic error_valid;             // pulse
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    output logic count_issue, count_wait, count_drain, count_weight;

    // After a reset, until whatever was in the pipeline has left it.
    logic [4:0] flush;
    logic cleared, halted;
    assign running = flush == 0 && !clear;

    always_ff @(posedge clk) begin
        cleared <= clear;
        if (rst || (clear && !cleared)) flush <= 5'd31;
        else if (flush != 0) flush <= flush - 5'd1;
        if (rst || clear) halted <= 1'b0;
        else if (error_valid) halted <= 1'b1;
    end

    // Accept: the descriptor stays at the head of the queue while its first weights are loaded.
    logic accepted, able, known, too_long;
    logic [7:0] opcode, wait_mask;
    assign opcode = desc[NPU_F_OPCODE_LO +: 8];
    assign wait_mask = desc[NPU_F_WAIT_LO +: 8];
    assign known = opcode == NPU_OP_CONV || opcode == NPU_OP_DEPTHWISE || opcode == NPU_OP_POOL
                || (opcode == NPU_OP_ADD && desc[NPU_F_COUNT_F_LO +: 12] == 12'd1);
    assign too_long = opcode == NPU_OP_DEPTHWISE && 13'(desc[NPU_F_COUNT_F_LO +: 12]) >= 13'(NPU_LINE_WORDS);
    assign able = desc_valid && !accepted && loader_idle && running && !halted && (wait_mask & ~sem_available) == 0;
    assign sem_take = wait_mask;
    assign sem_take_valid = able;
    assign loader_start = able && known && !too_long;

    // Start: it becomes current.
    logic active;
    logic [2:0] hold;
    assign agu_load = accepted && !halted && (active ? issue && last && !first : 1'b1) && hold == 0;
    assign desc_ready = agu_load;

    logic drain, keep, partial, two_dimensional, packed_mode;
    always_ff @(posedge clk) begin
        if (rst || clear) begin
            accepted <= 1'b0;
            active <= 1'b0;
            hold <= 3'd0;
        end else begin
            if (loader_start) accepted <= 1'b1;
            else if (agu_load) accepted <= 1'b0;
            if (agu_load) active <= 1'b1;
            else if (issue && last) active <= 1'b0;
            if (issue && first) hold <= HOLD;
            else if (hold != 0) hold <= hold - 3'd1;
        end
        if (agu_load) begin
            current <= desc;
            current_index <= desc_index;
            depthwise <= opcode == NPU_OP_DEPTHWISE;
            pool <= opcode == NPU_OP_POOL;
            add <= opcode == NPU_OP_ADD;
            two_dimensional <= opcode == NPU_OP_CONV;
            drain <= |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_DRAIN);
            packed_mode <= opcode == NPU_OP_CONV && |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_PACKED);
            maximum <= opcode == NPU_OP_POOL && |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_MAX);
            keep <= |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_KEEP);
            partial <= (opcode == NPU_OP_CONV || opcode == NPU_OP_DEPTHWISE)
                    && |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_PARTIAL);
        end
    end

    // Issue: drained where asked for, and with the weights or parameters that the word needs.
    logic [2:0] in_flight;  // descriptors that have issued all and are not finished
    logic must_drain, must_load, new_pass;
    assign new_pass = first_in_pass && (two_dimensional || depthwise);
    assign must_drain = drain && first && in_flight != 0;
    assign must_load = (new_pass || (pool && first)) && !loader_ready;
    assign advance = active && !must_drain && !must_load && !halted;
    assign loader_take = advance && (new_pass || (pool && first));
    assign issue = advance;
    assign busy = accepted || active || in_flight != 0;

    always_ff @(posedge clk) begin
        if (rst || clear) in_flight <= 3'd0;
        else in_flight <= in_flight + 3'(issue && last) - 3'(finished);
    end

    assign count_issue = issue;
    assign count_wait = !active && !accepted;
    assign count_drain = active && must_drain;
    assign count_weight = active && !must_drain && must_load;

    // What is read.
    logic [19:0] word;
    logic second, outside, full;
    assign word = packed_mode ? {{SHIFT_BITS{address[19]}}, address[19:SHIFT_BITS]} : address;
    assign shift = packed_mode ? address[SHIFT_BITS-1:0] : '0;
    assign second = shift != 0;
    assign word_address = word[ADDRESS_BITS-1:0];
    assign request0 = issue && (in_plane || add);
    assign request1 = request0 && second;
    assign outside = request0 && (word >= 20'(NPU_ACTIVATION_WORDS)
                                  || (second && word == 20'(NPU_ACTIVATION_WORDS - 1)));
    assign full = pixel >= PIXEL_BITS'(NPU_ACCUMULATORS);

    // What it is.
    logic summed;  // CONV, DEPTHWISE: it yields a sum
    assign summed = two_dimensional || (depthwise && window_ready);
    assign swap_parameters = first || (first_in_pass && first_pass && (two_dimensional || depthwise));
    assign first_of_block = first_in_pass && first_pass;
    assign fresh = pool ? first_in_pass : add ? first_in_row : depthwise ? !keep : first_pass && !keep;
    assign counted = pool ? last_in_pass : add ? last_in_row : summed;
    assign result = counted && !partial && (two_dimensional ? last_pass : 1'b1);

    // Errors. A descriptor in error ends the run: nothing is issued any more.
    logic address_error, tile_error;
    logic [15:0] issued_index;  // whose word was the last read
    always_ff @(posedge clk) begin
        if (issue) issued_index <= current_index;
        address_error <= outside && !rst && !clear;
        tile_error <= issue && summed && full && (two_dimensional || keep || partial) && !rst && !clear;
    end

    always_comb begin
        error_valid = 1'b1;
        error_code = NPU_ERROR_BOUNDS;
        error_index = issued_index;
        if (output_error) error_index = output_error_index;
        else if (address_error) error_code = NPU_ERROR_BOUNDS;
        else if (tile_error) error_code = NPU_ERROR_TILE;
        else if (loader_error) error_index = loader_error_index;
        else if (able && !known) begin
            error_code = NPU_ERROR_OPCODE;
            error_index = desc_index;
        end else if (able && too_long) begin
            error_code = NPU_ERROR_TILE;
            error_index = desc_index;
        end else error_valid = 1'b0;
        if (halted) error_valid = 1'b0;
    end
endmodule
`default_nettype wire
