// The activation memory: four banks, interleaved by the low address bits, each read once and written once a cycle.
//
// The datapath reads two neighbouring words at a time when it needs both (a PACKED window may straddle a word), and
// goes first; the DMA side is told to wait (ready low) while its bank is taken.
//
// Latency of a read by the datapath: request in cycle 0, banks addressed in 1, `word0`/`word1` valid in cycle 3.
// Of a read by the DMA side: data two cycles after acceptance. A word written in cycle n can be addressed in n + 1.
`default_nettype none
module npu_activations (clk, rst, request0, request1, request_address, word0, word1,
                        write_valid, write_address, write_data,
                        dma_write_valid, dma_write_address, dma_write_data, dma_write_ready,
                        dma_read_valid, dma_read_address, dma_read_ready, dma_read_data_valid, dma_read_data);
    `include "npu_params.svh"
    localparam integer WORD = 8 * NPU_LANES;
    localparam integer DEPTH = NPU_ACTIVATION_WORDS / 4;
    localparam integer ROW_BITS = $clog2(DEPTH);  // of the address in a bank

    input wire clk, rst;
    input wire request0, request1;              // read the word at the address, and the one behind it
    input wire [ROW_BITS+1:0] request_address;
    output logic [WORD-1:0] word0, word1;
    input wire write_valid;
    input wire [ROW_BITS+1:0] write_address;
    input wire [WORD-1:0] write_data;
    input wire dma_write_valid;
    /* verilator lint_off UNUSEDSIGNAL */  // the DMA engines stay within the memory
    input wire [15:0] dma_write_address, dma_read_address;
    /* verilator lint_on UNUSEDSIGNAL */
    input wire [WORD-1:0] dma_write_data;
    output logic dma_write_ready;
    input wire dma_read_valid;
    output logic dma_read_ready;
    output logic dma_read_data_valid;
    output logic [WORD-1:0] dma_read_data;

    // Cycle 1: the request, with the row of the second word made.
    logic read0, read1;
    logic [ROW_BITS-1:0] row0, row1;
    logic [1:0] bank0, bank1;
    assign bank1 = bank0 + 2'd1;

    always_ff @(posedge clk) begin
        if (rst) begin
            read0 <= 1'b0;
            read1 <= 1'b0;
        end else begin
            read0 <= request0;
            read1 <= request1;
        end
        if (request0) begin
            bank0 <= request_address[1:0];
            row0 <= request_address[ROW_BITS+1:2];
            row1 <= request_address[ROW_BITS+1:2] + ROW_BITS'(&request_address[1:0]);
        end
    end

    logic [3:0] read_taken, write_taken;
    assign read_taken = (read0 ? 4'd1 << bank0 : 4'd0) | (read1 ? 4'd1 << bank1 : 4'd0);
    assign write_taken = write_valid ? 4'd1 << write_address[1:0] : 4'd0;
    assign dma_read_ready = !read_taken[dma_read_address[1:0]];
    assign dma_write_ready = !write_taken[dma_write_address[1:0]];

    logic dma_read, dma_write;
    assign dma_read = dma_read_valid && dma_read_ready;
    assign dma_write = dma_write_valid && dma_write_ready;

    logic [WORD-1:0] data_0, data_1, data_2, data_3;  // cycle 2
    generate
        genvar b;
        for (b = 0; b < 4; b = b + 1) begin : bank
            logic second, write;
            logic [WORD-1:0] data;
            assign second = read1 && bank1 == b;
            assign write = write_taken[b] || (dma_write && dma_write_address[1:0] == b);
            npu_ram #(.WIDTH(WORD), .DEPTH(DEPTH), .BITS(ROW_BITS)) u_ram (
                .clk(clk),
                .write(write),
                .write_address(write_taken[b] ? write_address[ROW_BITS+1:2] : dma_write_address[ROW_BITS+1:2]),
                .write_data(write_taken[b] ? write_data : dma_write_data),
                .read(read_taken[b] || (dma_read && dma_read_address[1:0] == b)),
                .read_address(!read_taken[b] ? dma_read_address[ROW_BITS+1:2] : second ? row1 : row0),
                .read_data(data)
            );
        end
    endgenerate
    assign data_0 = bank[0].data;
    assign data_1 = bank[1].data;
    assign data_2 = bank[2].data;
    assign data_3 = bank[3].data;

    // Cycle 3: the words asked for.
    logic arrived0, arrived1, dma_arrived;
    logic [1:0] arrived_bank0, arrived_bank1, dma_bank;

    always_ff @(posedge clk) begin
        if (rst) begin
            arrived0 <= 1'b0;
            arrived1 <= 1'b0;
            dma_arrived <= 1'b0;
            dma_read_data_valid <= 1'b0;
        end else begin
            arrived0 <= read0;
            arrived1 <= read1;
            dma_arrived <= dma_read;
            dma_read_data_valid <= dma_arrived;
        end
        arrived_bank0 <= bank0;
        arrived_bank1 <= bank1;
        dma_bank <= dma_read_address[1:0];
        if (arrived0) begin
            case (arrived_bank0)
                2'd0: word0 <= data_0;
                2'd1: word0 <= data_1;
                2'd2: word0 <= data_2;
                default: word0 <= data_3;
            endcase
        end
        if (arrived1) begin
            case (arrived_bank1)
                2'd0: word1 <= data_0;
                2'd1: word1 <= data_1;
                2'd2: word1 <= data_2;
                default: word1 <= data_3;
            endcase
        end
        if (dma_arrived) begin
            case (dma_bank)
                2'd0: dma_read_data <= data_0;
                2'd1: dma_read_data <= data_1;
                2'd2: dma_read_data <= data_2;
                default: dma_read_data <= data_3;
            endcase
        end
    end
endmodule
`default_nettype wire
