// Descriptors: fetched ahead from region 0, handed to the three engines' queues in chain order.
//
// Up to eight descriptors are asked for (a burst of 8 beats each) or lie in the queue of beats; every one has its place
// there before it is asked for, so the read side never waits for the engines. A shift register gathers one; when
// complete it goes to the queue of its engine (eight deep each), or waits there for a place: dispatch is in chain
// order. What is fetched beyond END is dropped. END stays in the shift register until every descriptor has finished:
// `complete`.
//
// Errors, of the descriptor whose turn it is: unknown opcode; outside region 0 or later than the 65,536th of the chain
// (BOUNDS); the memory answered its fetch with an error (AXI). The low six bits of region 0's base count as 0.
//
// Cycles, from the one in which CONTROL is written (0), with a memory that gives the first beat L cycles after it has
// taken an address, as long as nobody else has the read channel and no queue is full:
//   2 + k                 m_axi_arvalid for descriptor k of the first eight
//   12 + L + 8 k          descriptor k is at the head of its engine's queue (L up to 54: the channel is the limit)
//   d + 2                 `busy` falls and the interrupt rises, when the last descriptor is done in cycle d, END is in
//                         the shift register by then and what was fetched in vain has come; CYCLES reads d + 1
// A descriptor occupies 8 cycles of the read channel, before LOADs: up to seven behind END are fetched in vain.
`default_nettype none

module npu_fetch (
    clk, clear, chain, region_base, region_bytes, request_valid, request_address, request_ready, data_valid, data,
    data_error, load_valid, load_desc, load_index, load_ready, compute_valid, compute_desc, compute_index,
    compute_ready, store_valid, store_desc, store_index, store_ready, finished, complete, error_valid, error_code,
    error_index
);
    `include "npu_params.svh"
    input wire clk, clear;
    input wire [31:6] chain;
    input wire [NPU_ADDRESS_BITS-1:0] region_base;
    input wire [31:0] region_bytes;
    output logic request_valid;
    output logic [NPU_ADDRESS_BITS-1:3] request_address;
    input wire request_ready, data_valid;
    input wire [63:0] data;
    input wire data_error;
    output logic load_valid;
    output logic [255:0] load_desc;
    output logic [15:0] load_index;
    input wire load_ready;
    output logic compute_valid;
    output logic [511:0] compute_desc;
    output logic [15:0] compute_index;
    input wire compute_ready;
    output logic store_valid;
    output logic [255:0] store_desc;
    output logic [15:0] store_index;
    input wire store_ready;
    input wire [1:0] finished;  // descriptors that finished in this cycle
    output logic complete, error_valid;
    output logic [7:0] error_code;
    output logic [15:0] error_index;
    localparam integer AW = NPU_ADDRESS_BITS;

    // Requests. `next` counts descriptors of 64 bytes, one bit more than the region can have.
    logic [26:0] next;
    logic [3:0] places;  // taken in the queue of beats, in descriptors
    wire in_region = next < {1'b0, region_bytes[31:6]};
    wire requested = request_valid && request_ready;
    wire [AW-1:6] block = region_base[AW-1:6] + (AW-6)'(next[25:0]);
    wire unused_bits = ^{region_base[5:0], region_bytes[5:0]};
    logic head_valid, is_end, place_freed;
    assign request_valid = in_region && !places[3] && !(head_valid && is_end) && !clear;
    assign request_address = {block, 3'd0};
    always_ff @(posedge clk) begin
        if (clear) begin
            next <= {1'b0, chain};
            places <= 4'd0;
        end else begin
            if (requested) next <= next + 27'd1;
            if (requested != place_freed) places <= requested ? places + 4'd1 : places - 4'd1;
        end
    end

    // Beats, gathered into the head of the chain.
    logic beat_valid, beat_error, take_beat, push, unused_ready;
    logic [63:0] beat;
    npu_fifo #(.WIDTH(65), .DEPTH_LOG2(6)) u_beats (
        .clk(clk), .rst(clear), .in_valid(data_valid), .in_data({data_error, data}), .in_ready(unused_ready),
        .out_valid(beat_valid), .out_data({beat_error, beat}), .out_ready(take_beat)
    );
    logic [511:0] head;
    logic [2:0] gathered;
    logic head_error, is_load, is_store, is_compute;
    wire [7:0] opcode = beat[NPU_F_OPCODE_LO +: 8];  // in the first beat
    assign take_beat = beat_valid && (!head_valid || push);
    assign place_freed = take_beat && gathered == 3'd7;
    always_ff @(posedge clk) begin
        if (clear) begin
            head_valid <= 1'b0;
            gathered <= 3'd0;
        end else begin
            if (take_beat) gathered <= gathered + 3'd1;
            if (place_freed) head_valid <= 1'b1;
            else if (push) head_valid <= 1'b0;
        end
        if (take_beat) begin
            head <= {beat, head[511:64]};
            head_error <= beat_error || (head_error && gathered != 3'd0);
            if (gathered == 3'd0) begin
                is_load <= opcode == NPU_OP_LOAD;
                is_store <= opcode == NPU_OP_STORE;
                is_compute <= opcode == NPU_OP_CONV || opcode == NPU_OP_DEPTHWISE || opcode == NPU_OP_POOL
                              || opcode == NPU_OP_ADD;
                is_end <= opcode == NPU_OP_END;
            end
        end
    end

    // Dispatch.
    logic [16:0] index;
    wire too_long = index[16] && !is_end;
    wire dispatch = head_valid && !head_error && !too_long;
    logic load_free, compute_free, store_free;
    wire push_load = dispatch && is_load && load_free;
    wire push_compute = dispatch && is_compute && compute_free;
    wire push_store = dispatch && is_store && store_free;
    assign push = push_load || push_compute || push_store;

    npu_fifo #(.WIDTH(272), .DEPTH_LOG2(3)) u_load (
        .clk(clk), .rst(clear), .in_valid(push_load), .in_data({index[15:0], head[255:0]}), .in_ready(load_free),
        .out_valid(load_valid), .out_data({load_index, load_desc}), .out_ready(load_ready)
    );
    npu_fifo #(.WIDTH(528), .DEPTH_LOG2(3)) u_compute (
        .clk(clk), .rst(clear), .in_valid(push_compute), .in_data({index[15:0], head}), .in_ready(compute_free),
        .out_valid(compute_valid), .out_data({compute_index, compute_desc}), .out_ready(compute_ready)
    );
    npu_fifo #(.WIDTH(272), .DEPTH_LOG2(3)) u_store (
        .clk(clk), .rst(clear), .in_valid(push_store), .in_data({index[15:0], head[255:0]}), .in_ready(store_free),
        .out_valid(store_valid), .out_data({store_index, store_desc}), .out_ready(store_ready)
    );

    logic [7:0] unfinished;
    always_ff @(posedge clk) begin
        if (clear) begin
            index <= 17'd0;
            unfinished <= 8'd0;
        end else begin
            if (push) index <= index + 17'd1;
            if (push || finished != 2'd0) unfinished <= unfinished + {7'd0, push} - {6'd0, finished};
        end
    end
    assign complete = dispatch && is_end && unfinished == 8'd0;

    wire outside = !head_valid && places == 4'd0 && !in_region;
    wire unknown = dispatch && !is_load && !is_store && !is_compute && !is_end;
    assign error_valid = (head_valid && (head_error || too_long)) || outside || unknown;
    assign error_code = outside ? NPU_ERROR_BOUNDS : head_error ? NPU_ERROR_AXI
                                            : too_long ? NPU_ERROR_BOUNDS : NPU_ERROR_OPCODE;
    assign error_index = index[16] ? 16'hFFFF : index[15:0];
endmodule

`default_nettype wire
