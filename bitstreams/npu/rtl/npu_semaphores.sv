// Eight counting semaphores of 16 bits. Each of the three engines may take one of each and add one to each in the same
// cycle. An addition is seen in the next cycle; an engine takes in the very cycle in which it sees what is available.
// A semaphore has one taking engine: were it taken by several in one cycle, that would count once.
`default_nettype none

module npu_semaphores (
    input  wire        clk,
    input  wire        clear,
    output logic [7:0] available,
    input  wire        load_take_valid,
    input  wire  [7:0] load_take,
    input  wire        load_give_valid,
    input  wire  [7:0] load_give,
    input  wire        compute_take_valid,
    input  wire  [7:0] compute_take,
    input  wire        compute_give_valid,
    input  wire  [7:0] compute_give,
    input  wire        store_take_valid,
    input  wire  [7:0] store_take,
    input  wire        store_give_valid,
    input  wire  [7:0] store_give
);
    wire [7:0] given_load = load_give_valid ? load_give : 8'd0;
    wire [7:0] given_compute = compute_give_valid ? compute_give : 8'd0;
    wire [7:0] given_store = store_give_valid ? store_give : 8'd0;
    wire [7:0] taken = (load_take_valid ? load_take : 8'd0) | (compute_take_valid ? compute_take : 8'd0)
                       | (store_take_valid ? store_take : 8'd0);
    wire changes = load_take_valid || load_give_valid || compute_take_valid || compute_give_valid
                   || store_take_valid || store_give_valid;

    generate
        genvar i;
        for (i = 0; i < 8; i = i + 1) begin : g_count
            logic [15:0] count;
            wire [1:0] given = {1'b0, given_load[i]} + {1'b0, given_compute[i]} + {1'b0, given_store[i]};
            // count + (given - 1) + !taken: what is taken is known last, and comes in as the carry.
            wire [16:0] next = {count, 1'b1} + {{14{given == 2'd0}}, given - 2'd1, !taken[i]};
            wire unused_carry = next[0];
            always_ff @(posedge clk) begin
                if (clear) begin
                    count <= 16'd0;
                    available[i] <= 1'b0;
                end else if (changes) begin
                    count <= next[16:1];
                    if (given != 2'd0) available[i] <= 1'b1;
                    else if (taken[i]) available[i] <= count != 16'd1;
                end
            end
        end
    endgenerate
endmodule

`default_nettype wire
