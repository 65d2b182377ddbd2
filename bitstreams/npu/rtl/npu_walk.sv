// The addresses on the chip of a transfer: `runs` runs (>= 1) of `words` words (>= 1), `chip_step` from run to run, one
// at a time, with a tag. An input taken in cycle t shows its first address in t+1; the next is taken with the last
// `advance`.
`default_nettype none

module npu_walk #(
    parameter integer TAG = 1
) (
    input  wire           clk,
    input  wire           clear,
    input  wire           in_valid,
    input  wire  [15:0]   in_chip,
    input  wire  [15:0]   in_words,
    input  wire  [15:0]   in_runs,
    input  wire  [15:0]   in_chip_step,
    input  wire  [TAG-1:0] in_tag,
    output logic          in_ready,
    output logic          valid,
    output logic [15:0]   address,
    output logic          last,
    output logic [TAG-1:0] tag,
    input  wire           advance  // only while valid
);
    logic [15:0] run_address, step, words, words_left, runs_left;
    wire run_last = words_left == 16'd1;
    wire [15:0] next_run = run_address + step;

    assign last = run_last && runs_left == 16'd1;
    assign in_ready = !valid || (advance && last);

    always_ff @(posedge clk) begin
        if (clear) valid <= 1'b0;
        else if (in_ready) valid <= in_valid;

        if (in_valid && in_ready) begin
            address <= in_chip;
            run_address <= in_chip;
            step <= in_chip_step;
            words <= in_words;
            words_left <= in_words;
            runs_left <= in_runs;
            tag <= in_tag;
        end else if (advance) begin
            address <= run_last ? next_run : address + 16'd1;
            words_left <= run_last ? words : words_left - 16'd1;
            if (run_last) begin
                run_address <= next_run;
                runs_left <= runs_left - 16'd1;
            end
        end
    end
endmodule

`default_nettype wire
