// The AXI4-Lite slave: registers as overlay.toml lists them, the read-only CAPS block among them.
//
// A write is taken when address and data are both there and answered in the next cycle; a read is answered in the next
// cycle. Unknown offsets read 0 and swallow writes; the answer is always OKAY. A soft reset gives every register its
// reset value, and wins over a start in the same write. `start` and `soft_reset` are pulses, in the cycle in which
// CONTROL is written. Bits 5:0 of CHAIN and of the regions' bases read 0 (alignment of 64 bytes).
`default_nettype none

module npu_regs (
    clk, rst, s_axi_awaddr, s_axi_awvalid, s_axi_awready, s_axi_wdata, s_axi_wstrb, s_axi_wvalid, s_axi_wready,
    s_axi_bresp, s_axi_bvalid, s_axi_bready, s_axi_araddr, s_axi_arvalid, s_axi_arready, s_axi_rdata, s_axi_rresp,
    s_axi_rvalid, s_axi_rready, start, soft_reset, clear_done, interrupt_enable, watchdog, chain, region_base,
    region_bytes, busy, done, error, error_code, error_index, counters
);
    `include "npu_params.svh"
    input wire clk, rst;
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
    output logic start, soft_reset, clear_done, interrupt_enable;
    output logic [31:0] watchdog, chain;
    output logic [4*NPU_ADDRESS_BITS-1:0] region_base;
    output logic [127:0] region_bytes;
    input wire busy, done, error;
    input wire [7:0] error_code;
    input wire [15:0] error_index;
    input wire [319:0] counters;  // CYCLES first
    localparam [31:0] ID = 32'h4F564C4E;  // "OVLN"
    localparam [63:0] BASE_MASK = ({64{1'b1}} >> (64 - NPU_ADDRESS_BITS)) & ~64'd63;

    logic [63:0] bases [0:3];
    logic [31:0] sizes [0:3];

    // Writes.
    wire write = s_axi_awvalid && s_axi_wvalid && !s_axi_bvalid && !rst;
    wire [11:0] wa = {s_axi_awaddr[11:2], 2'b00};
    wire [31:0] mask = {{8{s_axi_wstrb[3]}}, {8{s_axi_wstrb[2]}}, {8{s_axi_wstrb[1]}}, {8{s_axi_wstrb[0]}}};
    wire [31:0] set = s_axi_wdata & mask;
    wire write_control = write && wa == NPU_REG_CONTROL;
    wire write_region = write && wa[11:6] == NPU_REG_REGION0_LOW[11:6];  // 16 bytes each: LOW, HIGH, BYTES
    wire [1:0] wr = wa[5:4];
    assign s_axi_awready = write;
    assign s_axi_wready = write;
    assign s_axi_bresp = 2'b00;
    assign start = write_control && set[0] && !set[1];
    assign soft_reset = write_control && set[1];
    assign clear_done = write && wa == NPU_REG_STATUS && set[1];

    integer i;
    always_ff @(posedge clk) begin
        if (rst) s_axi_bvalid <= 1'b0;
        else if (write) s_axi_bvalid <= 1'b1;
        else if (s_axi_bready) s_axi_bvalid <= 1'b0;
        if (rst || soft_reset) begin
            interrupt_enable <= 1'b0;
            watchdog <= NPU_WATCHDOG_CYCLES;
            chain <= 32'd0;
            for (i = 0; i < 4; i = i + 1) begin
                bases[i] <= 64'd0;
                sizes[i] <= 32'd0;
            end
        end else begin
            if (write_control && s_axi_wstrb[0]) interrupt_enable <= s_axi_wdata[2];
            if (write && wa == NPU_REG_WATCHDOG) watchdog <= (watchdog & ~mask) | set;
            if (write && wa == NPU_REG_CHAIN) chain <= ((chain & ~mask) | set) & ~32'd63;
            if (write_region && wa[3:2] == 2'd0)
                bases[wr] <= {bases[wr][63:32], (bases[wr][31:0] & ~mask) | set} & BASE_MASK;
            if (write_region && wa[3:2] == 2'd1)
                bases[wr] <= {(bases[wr][63:32] & ~mask) | set, bases[wr][31:0]} & BASE_MASK;
            if (write_region && wa[3:2] == 2'd2) sizes[wr] <= (sizes[wr] & ~mask) | set;
        end
    end

    generate
        genvar g;
        for (g = 0; g < 4; g = g + 1) begin : g_regions
            assign region_base[NPU_ADDRESS_BITS*g +: NPU_ADDRESS_BITS] = bases[g][NPU_ADDRESS_BITS-1:0];
            assign region_bytes[32*g +: 32] = sizes[g];
        end
    endgenerate

    // Reads.
    wire [11:0] ra = {s_axi_araddr[11:2], 2'b00};
    wire [1:0] rr = ra[5:4];
    logic [31:0] value;
    assign s_axi_arready = !s_axi_rvalid && !rst;
    assign s_axi_rresp = 2'b00;
    always_comb begin
        value = 32'd0;
        if (ra[11:6] == NPU_REG_REGION0_LOW[11:6]) begin
            case (ra[3:2])
                2'd0: value = bases[rr][31:0];
                2'd1: value = bases[rr][63:32];
                2'd2: value = sizes[rr];
                default: value = 32'd0;
            endcase
        end else if (ra >= NPU_REG_CYCLES && ra <= NPU_REG_DESCRIPTORS) begin
            value = counters[32*ra[5:2] +: 32];
        end else begin
            case (ra)
                NPU_REG_ID: value = ID;
                NPU_REG_VERSION: value = NPU_VERSION;
                NPU_REG_ARRAY: value = NPU_LANES;
                NPU_REG_CLOCK_HZ: value = NPU_CLOCK_HZ;
                NPU_REG_ACTIVATION_WORDS: value = NPU_ACTIVATION_WORDS;
                NPU_REG_WEIGHT_ROWS: value = NPU_WEIGHT_ROWS;
                NPU_REG_ACCUMULATORS: value = NPU_ACCUMULATORS;
                NPU_REG_LINE_WORDS: value = NPU_LINE_WORDS;
                NPU_REG_CONTROL: value = {29'd0, interrupt_enable, 2'd0};
                NPU_REG_STATUS: value = {16'd0, error_code, 5'd0, error, done, busy};
                NPU_REG_ERROR_INDEX: value = {16'd0, error_index};
                NPU_REG_WATCHDOG: value = watchdog;
                NPU_REG_CHAIN: value = chain;
                default: value = 32'd0;
            endcase
        end
    end
    always_ff @(posedge clk) begin
        if (rst) s_axi_rvalid <= 1'b0;
        else if (s_axi_arvalid && s_axi_arready) s_axi_rvalid <= 1'b1;
        else if (s_axi_rready) s_axi_rvalid <= 1'b0;
        if (s_axi_arvalid && s_axi_arready) s_axi_rdata <= value;
    end
    wire unused_address = ^{s_axi_awaddr[1:0], s_axi_araddr[1:0]};
endmodule

`default_nettype wire
