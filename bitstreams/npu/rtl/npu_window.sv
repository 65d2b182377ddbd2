// What the multipliers see: one word of LANES bytes, or the 3x3 window around a depthwise convolution's words.
//
// Stage 3 has the words read; stage 4 has `word`: shifted by whole pixels of four bytes when PACKED, and the pad value
// where the read fell outside of the plane. For DEPTHWISE each word also runs through two line buffers (block RAM, the
// rows above) and two columns of registers, so that `window` (stage 4, with `word` as its newest corner) holds the
// nine taps t = 3 x row + column; the oldest row and column come first. What is left of an earlier plane never reaches
// an output, as a window is whole only from the third row and column on.
`default_nettype none
module npu_window (clk, valid3, in_plane3, shift3, depthwise3, first_in_row3, load_pad3, pad_value, word0, word1,
                   valid4, depthwise4, word, window);
    `include "npu_params.svh"
    localparam integer WORD = 8 * NPU_LANES;
    localparam integer SHIFT_BITS = $clog2(NPU_LANES / 4);
    localparam integer COLUMN_BITS = $clog2(NPU_LINE_WORDS);

    input wire clk;
    input wire valid3, in_plane3, depthwise3, first_in_row3;
    input wire [SHIFT_BITS-1:0] shift3;               // PACKED: pixels of four bytes
    input wire load_pad3;                  // the first word of a descriptor: take its pad value
    input wire [7:0] pad_value;
    input wire [WORD-1:0] word0;
    /* verilator lint_off UNUSEDSIGNAL */  // its last pixel is never needed
    input wire [WORD-1:0] word1;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire valid4, depthwise4;
    output logic [WORD-1:0] word;
    output logic [9*WORD-1:0] window;

    // PACKED: LANES bytes from pixel `shift3` on.
    logic [WORD-1:0] shifted;
    generate
        if (NPU_LANES == 16) begin : four
            always_comb begin
                case (shift3)
                    2'd0: shifted = word0;
                    2'd1: shifted = {word1[31:0], word0[WORD-1:32]};
                    2'd2: shifted = {word1[63:0], word0[WORD-1:64]};
                    default: shifted = {word1[WORD-33:0], word0[WORD-1:WORD-32]};
                endcase
            end
        end else begin : two
            assign shifted = shift3 ? {word1[WORD-33:0], word0[WORD-1:32]} : word0;
        end
    endgenerate

    logic [7:0] pad, held_pad;
    assign pad = load_pad3 ? pad_value : held_pad;

    always_ff @(posedge clk) begin
        if (valid3) begin
            word <= in_plane3 ? shifted : {NPU_LANES{pad}};
            held_pad <= pad;
        end
    end

    // Line buffers: read at stage 3, written at stage 4.
    logic [COLUMN_BITS-1:0] column3, column4, next_column;
    logic [WORD-1:0] above, above2;  // one and two rows up
    assign column3 = first_in_row3 ? '0 : next_column;

    npu_ram #(.WIDTH(WORD), .DEPTH(NPU_LINE_WORDS), .BITS(COLUMN_BITS)) u_line (
        .clk(clk), .write(valid4 && depthwise4), .write_address(column4), .write_data(word),
        .read(valid3 && depthwise3), .read_address(column3), .read_data(above)
    );
    npu_ram #(.WIDTH(WORD), .DEPTH(NPU_LINE_WORDS), .BITS(COLUMN_BITS)) u_line2 (
        .clk(clk), .write(valid4 && depthwise4), .write_address(column4), .write_data(above),
        .read(valid3 && depthwise3), .read_address(column3), .read_data(above2)
    );

    // Columns: the last one and the one before.
    logic [WORD-1:0] left_top, left_middle, left_bottom, oldest_top, oldest_middle, oldest_bottom;
    assign window = {word, left_bottom, oldest_bottom, above, left_middle, oldest_middle,
                     above2, left_top, oldest_top};

    always_ff @(posedge clk) begin
        if (valid3 && depthwise3) begin
            column4 <= column3;
            next_column <= column3 + 1'b1;
        end
        if (valid4 && depthwise4) begin
            oldest_top <= left_top;
            oldest_middle <= left_middle;
            oldest_bottom <= left_bottom;
            left_top <= above2;
            left_middle <= above;
            left_bottom <= word;
        end
    end
endmodule
`default_nettype wire
