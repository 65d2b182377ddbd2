// A first-in first-out queue in distributed RAM: what is pushed in a cycle can be popped in the next one. in_ready and
// out_valid come from registers alone, so that no path leads from one side to the other.
`default_nettype none

module npu_fifo #(
    parameter integer WIDTH = 8,
    parameter integer DEPTH_LOG2 = 3
) (
    input  wire              clk,
    input  wire              rst,
    input  wire              in_valid,
    input  wire  [WIDTH-1:0] in_data,
    output logic             in_ready,
    output logic             out_valid,
    output logic [WIDTH-1:0] out_data,
    input  wire              out_ready
);
    (* ram_style = "distributed" *) logic [WIDTH-1:0] memory [0:(1 << DEPTH_LOG2) - 1];
    logic [DEPTH_LOG2-1:0] pushed, popped;
    wire push = in_valid && in_ready;
    wire pop = out_valid && out_ready;
    wire [DEPTH_LOG2-1:0] next_pushed = pushed + 1'b1;
    wire [DEPTH_LOG2-1:0] next_popped = popped + 1'b1;

    assign out_data = memory[popped];

    always_ff @(posedge clk) begin
        if (push) memory[pushed] <= in_data;
        if (rst) begin
            pushed <= '0;
            popped <= '0;
            in_ready <= 1'b1;
            out_valid <= 1'b0;
        end else begin
            if (push) pushed <= next_pushed;
            if (pop) popped <= next_popped;
            if (push && !pop) begin
                in_ready <= next_pushed != popped;
                out_valid <= 1'b1;
            end else if (pop && !push) begin
                in_ready <= 1'b1;
                out_valid <= next_popped != pushed;
            end
        end
    end
endmodule

`default_nettype wire
