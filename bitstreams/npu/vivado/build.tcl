# Bitstream and hardware handoff of an overlay for a board:
#
#   vivado -mode batch -source build.tcl -tclargs BOARD [OVERLAY]     BOARD: pynq-z2, kv260; OVERLAY: npu, npu-small
#
# Writes ../../OVERLAY/release/OVERLAY-BOARD.{bit,hwh} and reports of timing and utilisation beside them; the Vivado
# project is in build/OVERLAY-BOARD. Fails, and releases nothing, when timing is not met.
#
# The design: the processor's general port -> npu_0 (registers) and axi_intc_0; npu_0/m_axi -> a high-performance port;
# npu_0/irq -> axi_intc_0 -> the processor. One clock, the overlay's, made and constrained by the processor's block;
# the design is synthesised in one piece, so that it holds for all of it. No pin of the FPGA's own is used (npu.xdc).

set here [file dirname [file normalize [info script]]]
set jobs 4

# Everything that differs from board to board; `settings` are of the processor, %HZ% and %MHZ% its clock for the FPGA.
# The windows of the registers lie where nothing else of the board is.
array set pynq-z2 {
    part        xc7z020clg400-1
    board       tul.com.tw:pynq-z2:part0
    processor   xilinx.com:ip:processing_system7
    name        processing_system7_0
    rule        xilinx.com:bd_rule:processing_system7
    automation  {make_external "FIXED_IO, DDR" apply_board_preset 1}
    clock       FCLK_CLK0
    reset       FCLK_RESET0_N
    clocked     {M_AXI_GP0_ACLK S_AXI_HP0_ACLK}
    general     M_AXI_GP0
    fast        S_AXI_HP0
    interrupt   IRQ_F2P
    registers   0x40000000
    controller  0x41800000
    settings    {
        CONFIG.PCW_USE_M_AXI_GP0 1 CONFIG.PCW_USE_S_AXI_HP0 1 CONFIG.PCW_S_AXI_HP0_DATA_WIDTH 64
        CONFIG.PCW_USE_FABRIC_INTERRUPT 1 CONFIG.PCW_IRQ_F2P_INTR 1 CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ %MHZ%
    }
}
array set kv260 {
    part        xck26-sfvc784-2LV-c
    board       xilinx.com:kv260_som:part0
    processor   xilinx.com:ip:zynq_ultra_ps_e
    name        zynq_ultra_ps_e_0
    rule        xilinx.com:bd_rule:zynq_ultra_ps_e
    automation  {apply_board_preset 1}
    clock       pl_clk0
    reset       pl_resetn0
    clocked     {maxihpm0_fpd_aclk saxihp0_fpd_aclk}
    general     M_AXI_HPM0_FPD
    fast        S_AXI_HP0_FPD
    interrupt   pl_ps_irq0
    registers   0xA0000000
    controller  0xA0010000
    settings    {
        CONFIG.PSU__USE__M_AXI_GP0 1 CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0
        CONFIG.PSU__USE__S_AXI_GP2 1 CONFIG.PSU__SAXIGP2__DATA_WIDTH 64 CONFIG.PSU__USE__IRQ0 1
        CONFIG.PSU__FPGA_PL0_ENABLE 1 CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ %MHZ%
    }
}

proc usage {} {
    error "usage: vivado -mode batch -source build.tcl -tclargs pynq-z2|kv260 \[npu|npu-small\]"
}

# A constant of the overlay's npu_params.svh.
proc parameter {header name} {
    set file [open $header]
    set text [read $file]
    close $file
    if {![regexp "localparam \[^=\]*\\m$name = (?:32'd)?(\[0-9\]+);" $text -> value]} {
        error "$header has no $name; remake it: python -m agent.overlay.header"
    }
    return $value
}

proc create_sources {folder overlay board} {
    global here
    upvar #0 $board options
    set versions [get_board_parts -quiet $options(board):*]
    if {$versions eq ""} {
        error "Vivado does not know the board $options(board): install its board files (Tools, Vivado Store, Boards)"
    }
    create_project -force $overlay-$board $folder -part $options(part)
    set_property board_part [lindex [lsort -dictionary $versions] end] [current_project]
    add_files [concat [lsort [glob $here/../rtl/*.sv]] $here/npu_axi.v]
    set_property include_dirs [file normalize $here/../../$overlay] [get_filesets sources_1]
    add_files -fileset constrs_1 $here/npu.xdc
    update_compile_order -fileset sources_1
}

proc create_processor {board hz} {
    upvar #0 $board options
    set processor [create_bd_cell -type ip -vlnv $options(processor) $options(name)]
    apply_bd_automation -rule $options(rule) -config $options(automation) $processor
    set_property -dict [string map [list %MHZ% [expr {$hz / 1e6}]] $options(settings)] $processor
}

# From a master interface to one or more slave interfaces.
proc create_interconnect {name master slaves} {
    set cell [create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect $name]
    set_property -dict [list CONFIG.NUM_SI 1 CONFIG.NUM_MI [llength $slaves]] $cell
    connect_bd_intf_net [get_bd_intf_pins $master] [get_bd_intf_pins $name/S00_AXI]
    set index 0
    foreach slave $slaves {
        connect_bd_intf_net [get_bd_intf_pins $name/[format M%02d_AXI $index]] [get_bd_intf_pins $slave]
        incr index
    }
}

proc connect_pins {source sinks} {
    foreach sink $sinks {
        connect_bd_net [get_bd_pins $source] [get_bd_pins $sink]
    }
}

proc create_design {board hz} {
    upvar #0 $board options
    set processor $options(name)
    create_bd_design overlay
    create_processor $board $hz
    create_bd_cell -type module -reference npu_axi npu_0
    create_bd_cell -type ip -vlnv xilinx.com:ip:axi_intc axi_intc_0
    create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset reset_0
    set_property CONFIG.C_IRQ_CONNECTION 1 [get_bd_cells axi_intc_0]
    create_interconnect control_0 $processor/$options(general) {npu_0/s_axi axi_intc_0/s_axi}
    create_interconnect memory_0 npu_0/m_axi $processor/$options(fast)

    set clocked {npu_0/clk axi_intc_0/s_axi_aclk reset_0/slowest_sync_clk control_0/aclk memory_0/aclk}
    foreach pin $options(clocked) {
        lappend clocked $processor/$pin
    }
    connect_pins $processor/$options(clock) $clocked
    connect_pins $processor/$options(reset) reset_0/ext_reset_in
    connect_pins reset_0/peripheral_aresetn {
        npu_0/aresetn axi_intc_0/s_axi_aresetn control_0/aresetn memory_0/aresetn
    }
    connect_pins npu_0/irq axi_intc_0/intr
    connect_pins axi_intc_0/irq $processor/$options(interrupt)

    assign_bd_address -offset $options(registers) -range 4K [get_bd_addr_segs npu_0/s_axi/*]
    assign_bd_address -offset $options(controller) -range 64K [get_bd_addr_segs axi_intc_0/*/*]
    assign_bd_address
    validate_bd_design
    save_bd_design
    set_property synth_checkpoint_mode None [get_files overlay.bd]
    add_files -norecurse [make_wrapper -files [get_files overlay.bd] -top]
    set_property top overlay_wrapper [current_fileset]
    update_compile_order -fileset sources_1
}

proc run {name args} {
    global jobs
    launch_runs $name -jobs $jobs {*}$args
    wait_on_run $name
    if {[get_property PROGRESS [get_runs $name]] ne "100%"} {
        error "$name ended with: [get_property STATUS [get_runs $name]]; see its runme.log"
    }
}

# The one file of a kind that Vivado left somewhere in the project (where depends on its version).
proc only_file {args} {
    set found [glob -nocomplain {*}$args]
    if {[llength $found] != 1} {
        error "one of $args was expected, there are [llength $found]"
    }
    return [lindex $found 0]
}

proc release {folder overlay board} {
    global here
    set path [file normalize $here/../../$overlay/release]/$overlay-$board
    file mkdir [file dirname $path]
    open_run impl_1
    report_timing_summary -file $path-timing.rpt
    report_utilization -file $path-utilisation.rpt
    set setup [get_property STATS.WNS [get_runs impl_1]]
    set hold [get_property STATS.WHS [get_runs impl_1]]
    if {!([string is double -strict $setup] && [string is double -strict $hold] && $setup >= 0 && $hold >= 0)} {
        error "timing is not met: worst slack '$setup' ns (setup), '$hold' ns (hold); see $path-timing.rpt"
    }
    set handoff [only_file $folder/*.gen/sources_1/bd/overlay/hw_handoff/overlay.hwh \
        $folder/*.srcs/sources_1/bd/overlay/hw_handoff/overlay.hwh]
    file copy -force [only_file $folder/*.runs/impl_1/overlay_wrapper.bit] $path.bit
    file copy -force $handoff $path.hwh
    puts "$path.bit, worst slack $setup ns (setup), $hold ns (hold)"
}

proc main {arguments} {
    global here
    lassign $arguments board overlay
    if {$overlay eq ""} {
        set overlay npu
    }
    if {$board ni {pynq-z2 kv260} || $overlay ni {npu npu-small} || [llength $arguments] > 2} {
        usage
    }
    set folder $here/build/$overlay-$board
    file mkdir $folder
    set hz [parameter $here/../../$overlay/npu_params.svh NPU_CLOCK_HZ]
    create_sources $folder $overlay $board
    create_design $board $hz
    run synth_1
    run impl_1 -to_step write_bitstream
    release $folder $overlay $board
}

main $argv
