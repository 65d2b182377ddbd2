// The accelerator: an AXI4-Lite slave for the driver, an AXI4 master for descriptors and data, an interrupt.
//
//   npu_regs - npu_control        registers; start, end, errors, counters
//   npu_fetch                     the chain of descriptors, one queue for each engine
//   npu_load, npu_compute, npu_store   the engines, in step by npu_semaphores
//   npu_read                      the read channel, shared by npu_fetch and npu_load; npu_store has the write channel
//
// One clock. `trace_compute_done` is for simulations: a compute descriptor finished in this cycle.
`default_nettype none

module npu_top (
    clk, aresetn, s_axi_awaddr, s_axi_awvalid, s_axi_awready, s_axi_wdata, s_axi_wstrb, s_axi_wvalid, s_axi_wready,
    s_axi_bresp, s_axi_bvalid, s_axi_bready, s_axi_araddr, s_axi_arvalid, s_axi_arready, s_axi_rdata, s_axi_rresp,
    s_axi_rvalid, s_axi_rready, m_axi_araddr, m_axi_arlen, m_axi_arsize, m_axi_arburst, m_axi_arcache, m_axi_arprot,
    m_axi_arvalid, m_axi_arready, m_axi_rdata, m_axi_rresp, m_axi_rlast, m_axi_rvalid, m_axi_rready, m_axi_awaddr,
    m_axi_awlen, m_axi_awsize, m_axi_awburst, m_axi_awcache, m_axi_awprot, m_axi_awvalid, m_axi_awready, m_axi_wdata,
    m_axi_wstrb, m_axi_wlast, m_axi_wvalid, m_axi_wready, m_axi_bresp, m_axi_bvalid, m_axi_bready, irq,
    trace_compute_done
);
    `include "npu_params.svh"
    input wire clk, aresetn;
    input wire [11:0] s_axi_awaddr;
    input wire s_axi_awvalid;
    output logic s_axi_awready;
    input wire [31:0] s_axi_wdata;
    input wire [3:0] s_axi_wstrb;
    input wire s_axi_wvalid;
    output logic s_axi_wready;
    output logic [1:0] s_axi_bresp;
    output logic s_axi_bvalid;
    input wire s_axi_bready;
    input wire [11:0] s_axi_araddr;
    input wire s_axi_arvalid;
    output logic s_axi_arready;
    output logic [31:0] s_axi_rdata;
    output logic [1:0] s_axi_rresp;
    output logic s_axi_rvalid;
    input wire s_axi_rready;
    output logic [NPU_ADDRESS_BITS-1:0] m_axi_araddr;
    output logic [7:0] m_axi_arlen;
    output logic [2:0] m_axi_arsize;
    output logic [1:0] m_axi_arburst;
    output logic [3:0] m_axi_arcache;
    output logic [2:0] m_axi_arprot;
    output logic m_axi_arvalid;
    input wire m_axi_arready;
    input wire [63:0] m_axi_rdata;
    input wire [1:0] m_axi_rresp;
    input wire m_axi_rlast, m_axi_rvalid;
    output logic m_axi_rready;
    output logic [NPU_ADDRESS_BITS-1:0] m_axi_awaddr;
    output logic [7:0] m_axi_awlen;
    output logic [2:0] m_axi_awsize;
    output logic [1:0] m_axi_awburst;
    output logic [3:0] m_axi_awcache;
    output logic [2:0] m_axi_awprot;
    output logic m_axi_awvalid;
    input wire m_axi_awready;
    output logic [63:0] m_axi_wdata;
    output logic [7:0] m_axi_wstrb;
    output logic m_axi_wlast, m_axi_wvalid;
    input wire m_axi_wready;
    input wire [1:0] m_axi_bresp;
    input wire m_axi_bvalid;
    output logic m_axi_bready, irq, trace_compute_done;
    localparam integer AW = NPU_ADDRESS_BITS;
    localparam integer W = 8 * NPU_LANES;

    assign m_axi_arsize = 3'd3;
    assign m_axi_arburst = 2'b01;
    assign m_axi_arcache = 4'b0011;
    assign m_axi_arprot = 3'b000;
    assign m_axi_awsize = 3'd3;
    assign m_axi_awburst = 2'b01;
    assign m_axi_awcache = 4'b0011;
    assign m_axi_awprot = 3'b000;

    logic rst;
    always_ff @(posedge clk) rst <= !aresetn;

    // Registers and control.
    logic start, soft_reset, clear_done, interrupt_enable, busy, done, error, clear, complete, read_idle, write_idle;
    logic [31:0] watchdog, chain;
    logic [4*AW-1:0] region_base;
    logic [127:0] region_bytes;
    logic [7:0] error_code;
    logic [15:0] error_index;
    logic [319:0] counters;
    npu_regs u_regs (
        .clk(clk), .rst(rst),
        .s_axi_awaddr(s_axi_awaddr), .s_axi_awvalid(s_axi_awvalid), .s_axi_awready(s_axi_awready),
        .s_axi_wdata(s_axi_wdata), .s_axi_wstrb(s_axi_wstrb), .s_axi_wvalid(s_axi_wvalid), .s_axi_wready(s_axi_wready),
        .s_axi_bresp(s_axi_bresp), .s_axi_bvalid(s_axi_bvalid), .s_axi_bready(s_axi_bready),
        .s_axi_araddr(s_axi_araddr), .s_axi_arvalid(s_axi_arvalid), .s_axi_arready(s_axi_arready),
        .s_axi_rdata(s_axi_rdata), .s_axi_rresp(s_axi_rresp), .s_axi_rvalid(s_axi_rvalid), .s_axi_rready(s_axi_rready),
        .start(start), .soft_reset(soft_reset), .clear_done(clear_done), .interrupt_enable(interrupt_enable),
        .watchdog(watchdog), .chain(chain), .region_base(region_base), .region_bytes(region_bytes),
        .busy(busy), .done(done), .error(error), .error_code(error_code), .error_index(error_index), .counters(counters)
    );

    logic load_done, compute_done, store_done;
    logic fetch_error_valid, load_error_valid, compute_error_valid, store_error_valid;
    logic [7:0] fetch_error_code, load_error_code, compute_error_code, store_error_code;
    logic [15:0] fetch_error_index, load_error_index, compute_error_index, store_error_index;
    logic count_issue, count_wait, count_drain, count_weight, load_busy, store_busy, count_read, count_write;
    wire [1:0] finished = {1'b0, load_done} + {1'b0, compute_done} + {1'b0, store_done};
    npu_control u_control (
        .clk(clk), .rst(rst), .start(start), .soft_reset(soft_reset), .clear_done(clear_done),
        .interrupt_enable(interrupt_enable), .watchdog(watchdog),
        .complete(complete), .quiet(read_idle && write_idle), .finished(finished),
        .fetch_error_valid(fetch_error_valid), .fetch_error_code(fetch_error_code),
        .fetch_error_index(fetch_error_index),
        .load_error_valid(load_error_valid), .load_error_code(load_error_code), .load_error_index(load_error_index),
        .compute_error_valid(compute_error_valid), .compute_error_code(compute_error_code),
        .compute_error_index(compute_error_index),
        .store_error_valid(store_error_valid), .store_error_code(store_error_code),
        .store_error_index(store_error_index),
        .counts({count_write, count_read, store_busy, load_busy, count_weight, count_drain, count_wait, count_issue}),
        .clear(clear), .busy(busy), .done(done), .error(error), .error_code(error_code), .error_index(error_index),
        .counters(counters), .irq(irq)
    );
    assign trace_compute_done = compute_done && !clear;

    // Descriptors.
    logic fetch_valid, fetch_ready, fetch_data_valid, data_error;
    logic [AW-1:3] fetch_address;
    logic [63:0] data;
    logic load_desc_valid, load_desc_ready, compute_desc_valid, compute_desc_ready, store_desc_valid, store_desc_ready;
    logic [255:0] load_desc, store_desc;
    logic [511:0] compute_desc;
    logic [15:0] load_desc_index, compute_desc_index, store_desc_index;
    npu_fetch u_fetch (
        .clk(clk), .clear(clear), .chain(chain[31:6]), .region_base(region_base[AW-1:0]),
        .region_bytes(region_bytes[31:0]),
        .request_valid(fetch_valid), .request_address(fetch_address), .request_ready(fetch_ready),
        .data_valid(fetch_data_valid), .data(data), .data_error(data_error),
        .load_valid(load_desc_valid), .load_desc(load_desc), .load_index(load_desc_index), .load_ready(load_desc_ready),
        .compute_valid(compute_desc_valid), .compute_desc(compute_desc), .compute_index(compute_desc_index),
        .compute_ready(compute_desc_ready),
        .store_valid(store_desc_valid), .store_desc(store_desc), .store_index(store_desc_index),
        .store_ready(store_desc_ready),
        .finished(finished), .complete(complete),
        .error_valid(fetch_error_valid), .error_code(fetch_error_code), .error_index(fetch_error_index)
    );
    wire unused_chain = ^chain[5:0];

    logic [7:0] available, load_take, load_give, compute_take, compute_give, store_take, store_give;
    logic load_take_valid, load_give_valid, compute_take_valid, compute_give_valid, store_take_valid, store_give_valid;
    npu_semaphores u_semaphores (
        .clk(clk), .clear(clear),
        .available(available), .load_take_valid(load_take_valid), .load_take(load_take),
        .load_give_valid(load_give_valid), .load_give(load_give),
        .compute_take_valid(compute_take_valid), .compute_take(compute_take),
        .compute_give_valid(compute_give_valid), .compute_give(compute_give),
        .store_take_valid(store_take_valid), .store_take(store_take),
        .store_give_valid(store_give_valid), .store_give(store_give)
    );

    // The engines.
    logic burst_valid, burst_ready, load_data_valid, load_data_ready;
    logic [AW-1:3] burst_address;
    logic [4:0] burst_beats;
    logic dma_write_valid, dma_write_ready, dma_weight_valid, dma_read_valid, dma_read_ready, dma_read_data_valid;
    logic [15:0] dma_write_address, dma_weight_address, dma_read_address;
    logic [W-1:0] dma_write_data, dma_weight_data, dma_read_data;
    npu_load u_load (
        .clk(clk), .clear(clear), .region_base(region_base), .region_bytes(region_bytes),
        .desc_valid(load_desc_valid), .desc(load_desc), .desc_index(load_desc_index), .desc_ready(load_desc_ready),
        .sem_available(available), .sem_take_valid(load_take_valid), .sem_take(load_take),
        .sem_give_valid(load_give_valid), .sem_give(load_give), .busy(load_busy), .done(load_done),
        .error_valid(load_error_valid), .error_code(load_error_code), .error_index(load_error_index),
        .burst_valid(burst_valid), .burst_address(burst_address), .burst_beats(burst_beats), .burst_ready(burst_ready),
        .data_valid(load_data_valid), .data(data), .data_error(data_error), .data_ready(load_data_ready),
        .dma_write_valid(dma_write_valid), .dma_write_address(dma_write_address), .dma_write_data(dma_write_data),
        .dma_write_ready(dma_write_ready),
        .dma_weight_valid(dma_weight_valid), .dma_weight_address(dma_weight_address), .dma_weight_data(dma_weight_data)
    );

    logic unused_compute_busy;
    npu_compute u_compute (
        .clk(clk), .rst(rst), .clear(clear),
        .desc_valid(compute_desc_valid), .desc(compute_desc), .desc_index(compute_desc_index),
        .desc_ready(compute_desc_ready),
        .sem_available(available), .sem_take_valid(compute_take_valid), .sem_take(compute_take),
        .sem_give_valid(compute_give_valid), .sem_give(compute_give), .busy(unused_compute_busy), .done(compute_done),
        .error_valid(compute_error_valid), .error_code(compute_error_code), .error_index(compute_error_index),
        .dma_write_valid(dma_write_valid), .dma_write_address(dma_write_address), .dma_write_data(dma_write_data),
        .dma_write_ready(dma_write_ready),
        .dma_weight_valid(dma_weight_valid), .dma_weight_address(dma_weight_address), .dma_weight_data(dma_weight_data),
        .dma_read_valid(dma_read_valid), .dma_read_address(dma_read_address), .dma_read_ready(dma_read_ready),
        .dma_read_data_valid(dma_read_data_valid), .dma_read_data(dma_read_data),
        .count_issue(count_issue), .count_wait(count_wait), .count_drain(count_drain), .count_weight(count_weight)
    );

    npu_store u_store (
        .clk(clk), .rst(rst), .clear(clear), .region_base(region_base), .region_bytes(region_bytes),
        .desc_valid(store_desc_valid), .desc(store_desc), .desc_index(store_desc_index), .desc_ready(store_desc_ready),
        .sem_available(available), .sem_take_valid(store_take_valid), .sem_take(store_take),
        .sem_give_valid(store_give_valid), .sem_give(store_give), .busy(store_busy), .done(store_done),
        .error_valid(store_error_valid), .error_code(store_error_code), .error_index(store_error_index),
        .dma_read_valid(dma_read_valid), .dma_read_address(dma_read_address), .dma_read_ready(dma_read_ready),
        .dma_read_data_valid(dma_read_data_valid), .dma_read_data(dma_read_data),
        .idle(write_idle), .count_beat(count_write),
        .m_axi_awaddr(m_axi_awaddr), .m_axi_awlen(m_axi_awlen), .m_axi_awvalid(m_axi_awvalid),
        .m_axi_awready(m_axi_awready), .m_axi_wdata(m_axi_wdata), .m_axi_wstrb(m_axi_wstrb), .m_axi_wlast(m_axi_wlast),
        .m_axi_wvalid(m_axi_wvalid), .m_axi_wready(m_axi_wready), .m_axi_bresp(m_axi_bresp),
        .m_axi_bvalid(m_axi_bvalid), .m_axi_bready(m_axi_bready)
    );

    npu_read u_read (
        .clk(clk), .rst(rst), .clear(clear),
        .fetch_valid(fetch_valid), .fetch_address(fetch_address), .fetch_ready(fetch_ready),
        .fetch_data_valid(fetch_data_valid),
        .load_valid(burst_valid), .load_address(burst_address), .load_beats(burst_beats), .load_ready(burst_ready),
        .load_data_valid(load_data_valid), .load_data_ready(load_data_ready), .data(data), .data_error(data_error),
        .idle(read_idle), .count_beat(count_read),
        .m_axi_araddr(m_axi_araddr), .m_axi_arlen(m_axi_arlen), .m_axi_arvalid(m_axi_arvalid),
        .m_axi_arready(m_axi_arready), .m_axi_rdata(m_axi_rdata), .m_axi_rresp(m_axi_rresp), .m_axi_rlast(m_axi_rlast),
        .m_axi_rvalid(m_axi_rvalid), .m_axi_rready(m_axi_rready)
    );
endmodule

`default_nettype wire
