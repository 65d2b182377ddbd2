// The part that LOAD and STORE share: takes a descriptor, checks its bounds, waits for its semaphores and cuts its runs
// into bursts that stay within blocks of 128 bytes (so they have at most 16 beats and never cross a page).
//
// Two descriptors are at work: one held (checked while the other issues) and one issuing. Where the last byte and the
// last word lie takes (runs - 1) x step; the product is summed a bit of runs - 1 at a time, so a check takes as many
// cycles as runs - 1 has bits (none for one run), without a multiplier. Sums that leave 32 bits stick: nothing wraps
// around. In error BOUNDS, before anything of it is issued: no runs or no words, offset or region_step no multiple of
// 8, an end outside the region or the memory on the chip.
//
// A descriptor seen in cycle t is held in t+1, checked in t+1+bits, and starts then if its semaphores are there and the
// one before issues its last burst in that cycle or has; its first burst is offered a cycle later, then one a cycle.
`default_nettype none

module npu_transfer #(
    parameter integer WEIGHTS = 1  // the flag WEIGHTS is heeded (LOAD)
) (
    clk, clear, region_base, region_bytes, desc_valid, desc, desc_index, desc_ready, sem_available, sem_take_valid,
    sem_take, start_ready, start, chip, words, runs, chip_step, weights, signal, index, error, issuing, burst_valid,
    burst_address, burst_beats, burst_last, burst_ready
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
    input wire start_ready;
    output logic start;  // with what follows, until `index`
    output logic [15:0] chip, words, runs, chip_step;
    output logic weights;
    output logic [7:0] signal;
    output logic [15:0] index;
    output logic error;  // BOUNDS, of `index`
    output logic issuing, burst_valid;
    output logic [NPU_ADDRESS_BITS-1:3] burst_address;
    output logic [4:0] burst_beats;
    output logic burst_last;  // of the descriptor
    input wire burst_ready;
    localparam integer WORD_LOG2 = NPU_LANES == 16 ? 4 : 3;  // bytes of a word
    localparam integer AW = NPU_ADDRESS_BITS;
    localparam [17:0] ACTIVATION_END = 18'(NPU_ACTIVATION_WORDS);
    localparam [17:0] WEIGHT_END = 18'(2 * NPU_WEIGHT_ROWS);

    // Held: the descriptor next to start.
    logic held, wrong, checked;
    logic [AW-1:3] first, step;  // address of the first run, from run to run
    logic [7:0] waits;
    // The check: end of the last run in the region and on the chip; the highest bit of each sticks.
    logic [15:0] multiplier;
    logic [32:0] region_end;
    logic [31:0] region_size;
    logic [17:0] chip_end;
    logic [31:0] region_stride;
    logic [15:0] chip_stride;
    logic region_lost, chip_lost;  // the stride has left its bits

    wire [31:0] desc_offset = desc[NPU_F_OFFSET_LO +: 32];
    wire [31:0] desc_region_step = desc[NPU_F_REGION_STEP_LO +: 32];
    wire [15:0] desc_words = desc[NPU_F_WORDS_LO +: 16];
    wire [15:0] desc_runs = desc[NPU_F_RUNS_LO +: 16];
    wire [1:0] region = desc[NPU_F_REGION_LO +: 2];
    wire [63:0] sizes = region[1] ? region_bytes[127:64] : region_bytes[63:0];
    wire [2*AW-1:0] bases = region[1] ? region_base[4*AW-1:2*AW] : region_base[2*AW-1:0];
    wire [AW-1:3] base = region[0] ? bases[2*AW-1:AW+3] : bases[AW-1:3];
    wire [15:0] desc_chip = desc[NPU_F_CHIP_LO +: 16];
    wire [32:0] region_sum = {1'b0, region_end[31:0]} + {1'b0, region_stride};
    wire [17:0] chip_sum = {1'b0, chip_end[16:0]} + {2'b0, chip_stride};

    wire unused_bits = ^{desc[255:240], desc[191:176], desc[159:144], desc[127:112], desc[95:66], desc[7:0],
                         bases[AW+2:AW], bases[2:0]};

    wire bad = wrong || region_end > {1'b0, region_size} || chip_end > (weights ? WEIGHT_END : ACTIVATION_END);
    logic last_issued;
    wire turn = held && checked && (sem_available & waits) == waits && start_ready && (!issuing || last_issued);

    assign start = turn && !bad;
    assign error = turn && bad;
    assign sem_take_valid = start;
    assign sem_take = waits;
    assign desc_ready = desc_valid && (!held || start) && !clear;

    always_ff @(posedge clk) begin
        if (clear) held <= 1'b0;
        else if (desc_ready) held <= 1'b1;
        else if (start) held <= 1'b0;

        if (desc_ready) begin
            index <= desc_index;
            waits <= desc[NPU_F_WAIT_LO +: 8];
            signal <= desc[NPU_F_SIGNAL_LO +: 8];
            weights <= WEIGHTS != 0 && |(desc[NPU_F_FLAGS_LO +: 8] & NPU_FLAG_WEIGHTS);
            first <= base + (AW-3)'(desc_offset[31:3]);
            step <= (AW-3)'(desc_region_step[31:3]);
            region_size <= region[0] ? sizes[63:32] : sizes[31:0];
            chip <= desc_chip;
            runs <= desc_runs;
            words <= desc_words;
            chip_step <= desc[NPU_F_CHIP_STEP_LO +: 16];
            wrong <= desc_runs == 16'd0 || desc_words == 16'd0 || |desc_offset[2:0] || |desc_region_step[2:0];
            multiplier <= desc_runs - 16'd1;
            checked <= desc_runs == 16'd1;
            region_end <= {1'b0, desc_offset} + (33'(desc_words) << WORD_LOG2);
            region_stride <= desc_region_step;
            region_lost <= 1'b0;
            chip_end <= {2'b0, desc_chip} + {2'b0, desc_words};
            chip_stride <= desc[NPU_F_CHIP_STEP_LO +: 16];
            chip_lost <= 1'b0;
        end else if (held && !checked) begin
            multiplier <= multiplier >> 1;
            checked <= multiplier[15:1] == 15'd0;
            {region_lost, region_stride} <= {region_lost || region_stride[31], region_stride[30:0], 1'b0};
            {chip_lost, chip_stride} <= {chip_lost || chip_stride[15], chip_stride[14:0], 1'b0};
            if (multiplier[0]) begin
                region_end <= {region_end[32] || region_sum[32] || region_lost, region_sum[31:0]};
                chip_end <= {chip_end[17] || chip_sum[17] || chip_lost, chip_sum[16:0]};
            end
        end
    end

    // Issuing: addresses count beats of 8 bytes. Whether a burst is the last of its run, or that run the last, is known
    // when it is offered: the next descriptor's start waits for it.
    logic [AW-1:3] run_address, run_step;
    logic [15:0] runs_left;
    logic [16:0] beats_left, run_beats;
    logic run_last, one_run;
    wire [4:0] room = 5'd16 - {1'b0, burst_address[6:3]};
    wire [16:0] beats = 17'(words) << (WORD_LOG2 - 3);
    wire [AW-1:3] next_run = run_address + run_step;
    // Ends in beats, from the block in which a burst begins; far ones aside.
    wire [5:0] first_end = {1'b0, beats[4:0]} + {2'd0, first[6:3]};
    wire [5:0] next_end = {1'b0, run_beats[4:0]} + {2'd0, next_run[6:3]};
    wire [6:0] burst_end = {1'b0, beats_left[5:0]} + {3'd0, burst_address[6:3]};
    wire issue = burst_valid && burst_ready;

    assign burst_valid = issuing && !clear;
    assign burst_beats = run_last ? beats_left[4:0] : room;
    assign burst_last = run_last && one_run;
    assign last_issued = issue && burst_last;

    always_ff @(posedge clk) begin
        if (clear) issuing <= 1'b0;
        else if (start) issuing <= 1'b1;
        else if (last_issued) issuing <= 1'b0;

        if (start) begin
            burst_address <= first;
            run_address <= first;
            run_step <= step;
            runs_left <= runs;
            beats_left <= beats;
            run_beats <= beats;
            run_last <= beats[16:5] == 12'd0 && first_end <= 6'd16;
            one_run <= runs == 16'd1;
        end else if (issue) begin
            if (run_last) begin
                burst_address <= next_run;
                run_address <= next_run;
                beats_left <= run_beats;
                run_last <= run_beats[16:5] == 12'd0 && next_end <= 6'd16;
                one_run <= runs_left == 16'd2;
                runs_left <= runs_left - 16'd1;
            end else begin
                burst_address <= {burst_address[AW-1:7] + 1'b1, 4'd0};
                beats_left <= beats_left - {12'd0, room};
                run_last <= beats_left[16:6] == 11'd0 && burst_end <= 7'd32;
            end
        end
    end
endmodule

`default_nettype wire
