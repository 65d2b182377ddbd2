// What travels beside the data: the facts about each word read, handed to every block at its stage.
//
// Stage 0 is the cycle of issue (the address generator's outputs), then
//   1 banks addressed, 2 data, 3 words, 4 window, 5 operands, 6 products, 7 sums of four, 8 sums, 9 totals.
// A word moves one stage a cycle and never stops, so that all timing between the blocks is fixed.
`default_nettype none
module npu_tags (clk, rst, issue, in_plane, shift, first_in_row, depthwise, pool, add, maximum, swap_weights,
                 swap_parameters, first, first_of_block, fresh, counted, result, last, pixel,
                 valid3, in_plane3, shift3, depthwise3, first_in_row3, first3,
                 valid4, depthwise4, swap4, sum4, sum5, sum6, sum7, depthwise6,
                 plain4, plain5, plain6, plain7, fresh7, maximum7, swap7, read7, pixel7,
                 total8, fresh8, pool8, add8, first8, first_of_block8, swap8,
                 store9, pixel9, result9, last9, add9);
    `include "npu_params.svh"
    localparam integer PIXEL_BITS = $clog2(NPU_ACCUMULATORS);
    localparam integer SHIFT_BITS = $clog2(NPU_LANES / 4);
    localparam integer DEPTHWISE = 0, POOL = 1, ADD = 2, MAXIMUM = 3, WEIGHTS = 4, PARAMETERS = 5, FIRST = 6,
                       BLOCK = 7, FRESH = 8, COUNTED = 9, RESULT = 10, LAST = 11, PIXEL = 12;
    localparam integer BITS = PIXEL + PIXEL_BITS;

    input wire clk, rst;
    input wire issue;
    input wire in_plane;            // of the plane: not padding
    input wire [SHIFT_BITS-1:0] shift;       // PACKED: pixel within the word
    input wire first_in_row;
    input wire depthwise, pool, add, maximum;
    input wire swap_weights;      // first of a pass of CONV or DEPTHWISE
    input wire swap_parameters;   // first that needs the parameters loaded last
    input wire first;             // of the descriptor
    input wire first_of_block;    // of an iteration of loop A
    input wire fresh;             // starts from the bias (CONV, DEPTHWISE); first of a window (POOL) or pair (ADD)
    input wire counted;           // completes a sum, a window or a pair
    input wire result;            // which is an output
    input wire last;              // of the descriptor
    input wire [PIXEL_BITS-1:0] pixel;
    output logic valid3, in_plane3, depthwise3, first_in_row3, first3;
    output logic [SHIFT_BITS-1:0] shift3;
    output logic valid4, depthwise4, swap4, sum4, sum5, sum6, sum7, depthwise6;
    output logic plain4, plain5, plain6, plain7, fresh7, maximum7, swap7, read7;
    output logic [PIXEL_BITS-1:0] pixel7;
    output logic total8, fresh8, pool8, add8, first8, first_of_block8, swap8;
    output logic store9, result9, last9, add9;
    output logic [PIXEL_BITS-1:0] pixel9;

    logic [9:1] valid;
    logic [BITS-1:0] tag0, tag1, tag2, tag3, tag4, tag5, tag6, tag7, tag8, tag9;
    logic [SHIFT_BITS+1:0] place0, place1, place2, place3;  // only as far as the window needs them
    assign tag0 = {pixel, last, result, counted, fresh, first_of_block, first, swap_parameters, swap_weights,
                   maximum, add, pool, depthwise};
    assign place0 = {first_in_row, in_plane, shift};

    always_ff @(posedge clk) begin
        valid <= rst ? 9'd0 : {valid[8:1], issue};
        if (issue) begin
            tag1 <= tag0;
            place1 <= place0;
        end
        tag2 <= tag1;
        place2 <= place1;
        tag3 <= tag2;
        place3 <= place2;
        tag4 <= tag3;
        tag5 <= tag4;
        tag6 <= tag5;
        tag7 <= tag6;
        tag8 <= tag7;
        tag9 <= tag8;
    end

    function automatic logic sums(input logic [BITS-1:0] tag);  // the array works on it
        sums = tag[COUNTED] && !tag[POOL] && !tag[ADD];
    endfunction

    assign valid3 = valid[3];
    assign first_in_row3 = place3[SHIFT_BITS+1];
    assign in_plane3 = place3[SHIFT_BITS];
    assign shift3 = place3[SHIFT_BITS-1:0];
    assign depthwise3 = tag3[DEPTHWISE];
    assign first3 = tag3[FIRST];
    assign valid4 = valid[4];
    assign depthwise4 = tag4[DEPTHWISE];
    assign depthwise6 = tag6[DEPTHWISE];
    assign swap4 = valid[4] && tag4[WEIGHTS];
    assign sum4 = valid[4] && sums(tag4);
    assign sum5 = valid[5] && sums(tag5);
    assign sum6 = valid[6] && sums(tag6);
    assign sum7 = valid[7] && sums(tag7);
    assign plain4 = valid[4] && (tag4[POOL] || tag4[ADD]);
    assign plain5 = valid[5] && (tag5[POOL] || tag5[ADD]);
    assign plain6 = valid[6] && (tag6[POOL] || tag6[ADD]);
    assign plain7 = valid[7] && (tag7[POOL] || tag7[ADD]);
    assign fresh7 = tag7[FRESH];
    assign maximum7 = tag7[MAXIMUM];
    assign swap7 = valid[7] && tag7[PARAMETERS];
    assign read7 = sum7 && !tag7[FRESH];
    assign pixel7 = tag7[PIXEL +: PIXEL_BITS];
    assign total8 = valid[8] && tag8[COUNTED] && !tag8[ADD];
    assign fresh8 = tag8[FRESH] || tag8[POOL];
    assign pool8 = tag8[POOL];
    assign add8 = valid[8] && tag8[COUNTED] && tag8[ADD];
    assign first8 = valid[8] && tag8[FIRST];
    assign first_of_block8 = valid[8] && tag8[BLOCK];
    assign swap8 = valid[8] && tag8[PARAMETERS];
    assign store9 = valid[9] && sums(tag9) && !tag9[RESULT];
    assign pixel9 = tag9[PIXEL +: PIXEL_BITS];
    assign result9 = valid[9] && tag9[RESULT];
    assign last9 = valid[9] && tag9[LAST];
    assign add9 = tag9[ADD];
endmodule
`default_nettype wire
