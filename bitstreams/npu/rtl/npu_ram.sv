// One-read one-write synchronous memory that maps to block RAM.
//
// Latency: one cycle from `read` to `read_data`, which then holds until the next read. A read of the word that is
// written in the same cycle gives the old contents.
`default_nettype none
module npu_ram #(
    parameter integer WIDTH = 32,
    parameter integer DEPTH = 512,
    parameter integer BITS  = 9     // of an address
) (
    input wire             clk,
    input wire             write,
    input wire [BITS-1:0]  write_address,
    input wire [WIDTH-1:0] write_data,
    input wire             read,
    input wire [BITS-1:0]  read_address,
    output logic [WIDTH-1:0] read_data
);
    (* ram_style = "block" *) logic [WIDTH-1:0] memory [0:DEPTH-1];

    always_ff @(posedge clk) begin
        if (write) memory[write_address] <= write_data;
        if (read) read_data <= memory[read_address];
    end
endmodule
`default_nettype wire
