// Eight counting semaphores of 16 bits. Each of the three engines may take one of each and add one to each in the same
// cycle. An addition is seen in the next cycle; an engine takes in the very cycle in which it sees what is available.
// Would two engines take the same semaphore at once, the first in the order load, compute, store has it.
`default_nettype none

module npu_semaphores (
    input  wire        clk,
    input  wire        clear,
    output logic [7:0] load_available,
    input  wire        load_take_valid,
    input  wire  [7:0] load_take,
    input  wire        load_give_valid,
    input  wire  [7:0] load_give,
    output logic [7:0] compute_available,
    input  wire        compute_take_valid,
    input  wire  [7:0] compute_take,
    input  wire        compute_give_valid,
    input  wire  [7:0] compute_give,
    output logic [7:0] store_available,
    input  wire        store_take_valid,
    input  wire  [7:0] store_take,
    input  wire        store_give_valid,
    input  wire  [7:0] store_give
);
    logic [15:0] count [0:7];
    logic [7:0] nonzero;

    wire [7:0] taken_load = load_take_valid ? load_take : 8'd0;
    wire [7:0] taken_compute = compute_take_valid ? compute_take : 8'd0;
    wire [7:0] taken_store = store_take_valid ? store_take : 8'd0;
    wire [7:0] given_load = load_give_valid ? load_give : 8'd0;
    wire [7:0] given_compute = compute_give_valid ? compute_give : 8'd0;
    wire [7:0] given_store = store_give_valid ? store_give : 8'd0;
    wire [7:0] taken = taken_load | taken_compute | taken_store;
    wire [7:0] given = given_load | given_compute | given_store;
    wire changes = |taken || |given;

    assign load_available = nonzero;
    assign compute_available = nonzero & ~taken_load;
    assign store_available = nonzero & ~taken_load & ~taken_compute;

    generate
        genvar i;
        for (i = 0; i < 8; i = i + 1) begin : g_count
            wire [2:0] change = {2'd0, given_load[i]} + {2'd0, given_compute[i]} + {2'd0, given_store[i]}
                                - {2'd0, taken[i]};  // -1 to 3
            wire [15:0] next = count[i] + {{14{change == 3'd7}}, change[1:0]};
            always_ff @(posedge clk) begin
                if (clear) begin
                    count[i] <= 16'd0;
                    nonzero[i] <= 1'b0;
                end else if (changes) begin
                    count[i] <= next;
                    nonzero[i] <= next != 16'd0;
                end
            end
        end
    endgenerate
endmodule

`default_nettype wire
