// A core that does what it is told on the bus, right or wrong: what the memory model's checks are tested with.
//
// Registers (words): 0x40 address, 0x44 data, 0x48 what to do: [7:0] len, [10:8] size, [12:11] burst, bit 13 write,
// bit 14 withdraw the address after a cycle, [23:16] index of the beat with WLAST, [31:24] strobes. A write to 0x20
// starts; irq when the answer came. 0x4C: the answer; 0x50: data of the last beat that was read.
`default_nettype none

module npu_top (
    input wire clk, aresetn,
    input wire [11:0] s_axi_awaddr, input wire s_axi_awvalid, output wire s_axi_awready,
    input wire [31:0] s_axi_wdata, input wire [3:0] s_axi_wstrb, input wire s_axi_wvalid, output wire s_axi_wready,
    output wire [1:0] s_axi_bresp, output logic s_axi_bvalid, input wire s_axi_bready,
    input wire [11:0] s_axi_araddr, input wire s_axi_arvalid, output wire s_axi_arready,
    output logic [31:0] s_axi_rdata, output wire [1:0] s_axi_rresp, output logic s_axi_rvalid, input wire s_axi_rready,
    output wire [39:0] m_axi_araddr, output wire [7:0] m_axi_arlen, output wire [2:0] m_axi_arsize,
    output wire [1:0] m_axi_arburst, output logic m_axi_arvalid, input wire m_axi_arready,
    input wire [63:0] m_axi_rdata, input wire [1:0] m_axi_rresp, input wire m_axi_rlast, m_axi_rvalid,
    output wire m_axi_rready,
    output wire [39:0] m_axi_awaddr, output wire [7:0] m_axi_awlen, output wire [2:0] m_axi_awsize,
    output wire [1:0] m_axi_awburst, output logic m_axi_awvalid, input wire m_axi_awready,
    output wire [63:0] m_axi_wdata, output wire [7:0] m_axi_wstrb, output wire m_axi_wlast, output logic m_axi_wvalid,
    input wire m_axi_wready, input wire [1:0] m_axi_bresp, input wire m_axi_bvalid, output wire m_axi_bready,
    output logic irq, output wire trace_compute_done
);
    logic [31:0] address, data, what, answer, last;
    logic [7:0] beat;
    wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid;
    assign {s_axi_awready, s_axi_wready, s_axi_bresp, s_axi_rresp} = {write, write, 4'd0};
    assign s_axi_arready = !s_axi_rvalid && s_axi_araddr != 12'hFFC;  // a register that never answers
    assign {m_axi_araddr, m_axi_arlen, m_axi_arsize, m_axi_arburst} = {8'd0, address, what[7:0], what[10:8], what[12:11]};
    assign {m_axi_awaddr, m_axi_awlen, m_axi_awsize, m_axi_awburst} = {8'd0, address, what[7:0], what[10:8], what[12:11]};
    assign m_axi_wdata = {data, 16'd0, 8'd0, beat};
    assign m_axi_wstrb = what[31:24];
    assign m_axi_wlast = beat == what[23:16];
    assign m_axi_rready = 1'b1;
    assign m_axi_bready = 1'b1;
    assign trace_compute_done = m_axi_bvalid;

    always_ff @(posedge clk) begin
        if (s_axi_bready) s_axi_bvalid <= 1'b0;
        if (s_axi_rready) s_axi_rvalid <= 1'b0;
        if (m_axi_arready || what[14]) m_axi_arvalid <= 1'b0;
        if (m_axi_awready || what[14]) m_axi_awvalid <= 1'b0;
        if (m_axi_wvalid && m_axi_wready) begin
            beat <= beat + 8'd1;
            m_axi_wvalid <= beat != what[7:0];
        end
        if (m_axi_rvalid) {last, answer} <= {m_axi_rdata[63:32], 30'd0, m_axi_rresp};
        if (m_axi_bvalid) answer <= {30'd0, m_axi_bresp};
        if ((m_axi_rvalid && m_axi_rlast) || m_axi_bvalid) irq <= 1'b1;
        if (write) begin
            s_axi_bvalid <= 1'b1;
            case (s_axi_awaddr)
                12'h040: address <= s_axi_wdata;
                12'h044: data <= s_axi_wdata;
                12'h048: what <= s_axi_wdata;
                12'h020: begin
                    irq <= 1'b0;
                    beat <= 8'd0;
                    {m_axi_arvalid, m_axi_awvalid, m_axi_wvalid} <= {!what[13], what[13], what[13]};
                end
                default: ;
            endcase
        end
        if (s_axi_arvalid && s_axi_arready) begin
            s_axi_rvalid <= 1'b1;
            s_axi_rdata <= s_axi_araddr == 12'h050 ? last : answer;
        end
        if (!aresetn) {s_axi_bvalid, s_axi_rvalid, m_axi_arvalid, m_axi_awvalid, m_axi_wvalid, irq} <= 6'd0;
    end
endmodule
