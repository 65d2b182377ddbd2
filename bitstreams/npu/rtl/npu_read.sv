// The read side of the AXI master, shared by the descriptor fetch (bursts of 8 beats, first in line: it is what
// everything else waits for) and LOAD (1 to 16 beats, which the caller keeps within a block of 128 bytes).
//
// Up to 32 bursts are under way, so that even bursts of two beats (64 beats in all) cover a latency of 40 cycles at a
// beat a cycle. A request accepted in cycle t has arvalid in t+1; beats go to their owner in the cycle in which they
// arrive. There is one AXI id: beats return in order, and a queue of owners, one entry a burst, says whose they are.
// After `clear` no request is accepted; an address already shown stays until the memory has taken it, and the beats
// that still come are swallowed. `idle`: every burst has been answered.
`default_nettype none

module npu_read (
    clk, rst, clear, fetch_valid, fetch_address, fetch_ready, fetch_data_valid, load_valid, load_address, load_beats,
    load_ready, load_data_valid, load_data_ready, data, data_error, idle, count_beat, m_axi_araddr, m_axi_arlen,
    m_axi_arvalid, m_axi_arready, m_axi_rdata, m_axi_rresp, m_axi_rlast, m_axi_rvalid, m_axi_rready
);
    `include "npu_params.svh"
    input wire clk, rst, clear, fetch_valid;
    input wire [NPU_ADDRESS_BITS-1:3] fetch_address;
    output logic fetch_ready;
    output logic fetch_data_valid;  // must be taken
    input wire load_valid;
    input wire [NPU_ADDRESS_BITS-1:3] load_address;
    input wire [4:0] load_beats;
    output logic load_ready, load_data_valid;
    input wire load_data_ready;
    output logic [63:0] data;  // of fetch_data_valid and load_data_valid
    output logic data_error, idle, count_beat;
    output logic [NPU_ADDRESS_BITS-1:0] m_axi_araddr;
    output logic [7:0] m_axi_arlen;
    output logic m_axi_arvalid;
    input wire m_axi_arready;
    input wire [63:0] m_axi_rdata;
    input wire [1:0] m_axi_rresp;
    input wire m_axi_rlast, m_axi_rvalid;
    output logic m_axi_rready;
    localparam [4:0] FETCH_BEATS = 5'd8;

    logic owners_ready, owners_valid, owner_fetch;
    wire can_accept = !clear && owners_ready && (!m_axi_arvalid || m_axi_arready);
    wire accept = can_accept && (fetch_valid || load_valid);
    wire beat = m_axi_rvalid && m_axi_rready;
    wire [4:0] beats = fetch_valid ? FETCH_BEATS : load_beats;

    npu_fifo #(.WIDTH(1), .DEPTH_LOG2(5)) u_owners (
        .clk(clk), .rst(rst),
        .in_valid(accept), .in_data(fetch_valid), .in_ready(owners_ready),
        .out_valid(owners_valid), .out_data(owner_fetch), .out_ready(beat && m_axi_rlast)
    );

    assign fetch_ready = can_accept;
    assign load_ready = can_accept && !fetch_valid;
    assign m_axi_rready = clear || owner_fetch || load_data_ready;
    assign fetch_data_valid = m_axi_rvalid && owner_fetch && !clear;
    assign load_data_valid = m_axi_rvalid && !owner_fetch && !clear;
    assign data = m_axi_rdata;
    assign data_error = m_axi_rresp[1];
    assign idle = !owners_valid;
    assign count_beat = beat;
    wire unused_rresp = m_axi_rresp[0];  // EXOKAY: never asked for

    always_ff @(posedge clk) begin
        if (rst) m_axi_arvalid <= 1'b0;
        else if (accept) m_axi_arvalid <= 1'b1;
        else if (m_axi_arready) m_axi_arvalid <= 1'b0;
        if (accept) begin
            m_axi_araddr <= {fetch_valid ? fetch_address : load_address, 3'b000};
            m_axi_arlen <= {3'b000, beats - 5'd1};
        end
    end
endmodule

`default_nettype wire
