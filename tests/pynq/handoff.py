"""What Vivado writes for the block design of a Zynq-7020, cut down to what PYNQ reads: .hwh, and .bit without logic.

The design: processing_system7_0 -> npu_0 (registers, 4 KiB) and axi_intc_0; npu_0/m_axi -> S_AXI_HP0 (DDR);
npu_0/irq -> axi_intc_0 -> IRQ_F2P; FCLK_CLK0 at 100 MHz.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

PS, CORE, INTC = "processing_system7_0", "npu_0", "axi_intc_0"
CORE_BASE, INTC_BASE = 0x4000_0000, 0x4180_0000
AXIMM = "xilinx.com:interface:aximm:1.0"
LITE = ("ARADDR", "ARREADY", "ARVALID", "AWADDR", "AWREADY", "AWVALID", "BREADY", "BRESP", "BVALID",
        "RDATA", "RREADY", "RRESP", "RVALID", "WDATA", "WREADY", "WSTRB", "WVALID")  # fmt: skip
FROM_SLAVE = {"ARREADY", "AWREADY", "BRESP", "BVALID", "RDATA", "RRESP", "RVALID", "WREADY"}


@dataclass(frozen=True, slots=True)
class Design:
    """``overlay``: whose core the bitstream holds. ``wired``: whether its interrupt is connected."""

    overlay: str
    base: int = CORE_BASE
    wired: bool = True
    family: str = "zynq"
    core: str = "npu_axi"  # the module in the block npu_0


def write_release(folder: Path, design: Design, name: str = "") -> Path:
    """``<folder>/<name>.bit`` and ``.hwh``; the .bit's path."""
    folder.mkdir(parents=True, exist_ok=True)
    bit = folder / f"{name or design.overlay}.bit"
    bit.write_bytes(bitstream(design))
    bit.with_suffix(".hwh").write_bytes(handoff(design))
    return bit


def bitstream(design: Design) -> bytes:
    """The header of a .bit file (keys a to e) and words that say what the FPGA shall be."""
    fields = {
        "a": "overlay_wrapper;UserID=0XFFFFFFFF;Version=2022.2",
        "b": "7z020clg400", "c": "2026/01/01", "d": "12:00:00",
    }  # fmt: skip
    head = struct.pack(">H9sH", 9, bytes.fromhex("0ff00ff00ff00ff000"), 1)
    for key, text in fields.items():
        value = text.encode() + b"\0"
        head += key.encode() + struct.pack(">H", len(value)) + value
    payload = struct.pack(">III64s", 0xFFFFFFFF, 0xAA995566, design.base, design.overlay.encode())
    return head + b"e" + struct.pack(">I", len(payload)) + payload


def read_payload(payload: bytes) -> tuple[str, int]:
    """The overlay's id and the address of its registers."""
    _, _, base, name = struct.unpack(">III64s", payload)
    return name.rstrip(b"\0").decode(), base


def handoff(design: Design) -> bytes:
    """The .hwh."""
    root = Element(
        "EDKSYSTEM", EDWVERSION="1.2", TIMESTAMP="Thu Jan  1 12:00:00 2026", VIVADOVERSION="2022.2"
    )
    SubElement(root, "SYSTEMINFO", ARCH=design.family, BOARD="tul.com.tw:pynq-z2:part0:1.0", DEVICE="7z020",
               NAME="overlay", PACKAGE="clg400", SPEEDGRADE="-1")  # fmt: skip
    SubElement(root, "EXTERNALPORTS")
    SubElement(root, "EXTERNALINTERFACES")
    modules = SubElement(root, "MODULES")
    _core(modules, design)
    _interrupt_controller(modules, design)
    _processing_system(modules, design)
    text: bytes = ElementTree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return text


def _core(modules: Element, design: Design) -> None:
    module = _module(modules, CORE, f"xilinx.com:module_ref:{design.core}:1.0", {})
    ports, buses = SubElement(module, "PORTS"), SubElement(module, "BUSINTERFACES")
    _clocked(ports, "clk", "aresetn")
    if design.wired:
        _port(ports, "irq", "O", "INTERRUPT", (INTC, "intr"), SENSITIVITY="LEVEL_HIGH")
    else:
        _port(ports, "irq", "O", "INTERRUPT", SENSITIVITY="LEVEL_HIGH")
    _bus(buses, ports, "s_axi", "SLAVE", (PS, "M_AXI_GP0"))
    _bus(buses, ports, "m_axi", "MASTER", (PS, "S_AXI_HP0"))
    _range(
        SubElement(module, "MEMORYMAP"), PS, "S_AXI_HP0", "m_axi", 0, 0x2000_0000, "HP0_DDR_LOWOCM", "MEMORY"
    )


def _interrupt_controller(modules: Element, design: Design) -> None:
    module = _module(modules, INTC, "xilinx.com:ip:axi_intc:4.1", {"C_NUM_INTR_INPUTS": "1"})
    ports, buses = SubElement(module, "PORTS"), SubElement(module, "BUSINTERFACES")
    _clocked(ports, "s_axi_aclk", "s_axi_aresetn")
    source = ((CORE, "irq"),) if design.wired else ()
    _port(ports, "intr", "I", "INTERRUPT", *source, LEFT="0", RIGHT="0", SENSITIVITY="LEVEL_HIGH")
    _port(ports, "irq", "O", "INTERRUPT", (PS, "IRQ_F2P"), SENSITIVITY="LEVEL_HIGH")
    _bus(buses, ports, "s_axi", "SLAVE", (PS, "M_AXI_GP0"))


def _processing_system(modules: Element, design: Design) -> None:
    parameters = {
        "PCW_IRQ_F2P_INTR": "1",
        "PCW_USE_FABRIC_INTERRUPT": "1",
        "PCW_FPGA0_PERIPHERAL_FREQMHZ": "100",
    }
    for clock in range(4):
        parameters |= {
            f"PCW_FPGA_FCLK{clock}_ENABLE": "1" if clock == 0 else "0",
            f"PCW_FCLK{clock}_PERIPHERAL_DIVISOR0": "5" if clock == 0 else "1",
            f"PCW_FCLK{clock}_PERIPHERAL_DIVISOR1": "2" if clock == 0 else "1",
            f"PCW_FCLK{clock}_PERIPHERAL_CLKSRC": "IO PLL",
        }
    module = _module(modules, PS, "xilinx.com:ip:processing_system7:5.5", parameters, IS_PL="FALSE")
    ports, buses = SubElement(module, "PORTS"), SubElement(module, "BUSINTERFACES")
    sinks = [(CORE, "clk"), (INTC, "s_axi_aclk")]
    _port(ports, "FCLK_CLK0", "O", "clk", *sinks, CLKFREQUENCY="100000000")
    _port(ports, "FCLK_RESET0_N", "O", "rst", (CORE, "aresetn"), (INTC, "s_axi_aresetn"))
    _port(ports, "IRQ_F2P", "I", "INTERRUPT", (INTC, "irq"), LEFT="0", RIGHT="0", SENSITIVITY="LEVEL_HIGH")
    _bus(buses, ports, "M_AXI_GP0", "MASTER", (CORE, "s_axi"))
    _bus(buses, ports, "S_AXI_HP0", "SLAVE", (CORE, "m_axi"))
    memory = SubElement(module, "MEMORYMAP")
    _range(memory, CORE, "s_axi", "M_AXI_GP0", design.base, 0x1000, "reg0", "REGISTER")
    _range(memory, INTC, "s_axi", "M_AXI_GP0", INTC_BASE, 0x1_0000, "Reg", "REGISTER")


def _module(modules: Element, name: str, vlnv: str, parameters: dict[str, str], **more: str) -> Element:
    kind, version = vlnv.split(":")[2:]
    attributes = {
        "COREREVISION": "1", "FULLNAME": f"/{name}", "HWVERSION": version, "INSTANCE": name, "IPTYPE": "PERIPHERAL",
        "IS_ENABLE": "1", "MODCLASS": "PERIPHERAL", "MODTYPE": kind, "VLNV": vlnv,
    }  # fmt: skip
    module = SubElement(modules, "MODULE", attributes | more)
    listed = SubElement(module, "PARAMETERS")
    for key, value in parameters.items():
        SubElement(listed, "PARAMETER", NAME=key, VALUE=value)
    return module


def _port(ports: Element, name: str, direction: str, kind: str, *ends: tuple[str, str], **more: str) -> None:
    port = SubElement(ports, "PORT", {"DIR": direction, "NAME": name, "SIGIS": kind} | more)
    if ends:
        connections = SubElement(port, "CONNECTIONS")
        for instance, other in ends:
            SubElement(connections, "CONNECTION", INSTANCE=instance, PORT=other)


def _clocked(ports: Element, clock: str, reset: str) -> None:
    _port(ports, clock, "I", "clk", (PS, "FCLK_CLK0"), CLKFREQUENCY="100000000")
    _port(ports, reset, "I", "rst", (PS, "FCLK_RESET0_N"))


def _bus(buses: Element, ports: Element, name: str, kind: str, other: tuple[str, str]) -> None:
    """The signals that AXI4-Lite and AXI4 share; connected where the other end lists them, too."""
    bus = SubElement(buses, "BUSINTERFACE", BUSNAME=f"{name}_net", NAME=name, TYPE=kind, VLNV=AXIMM)
    maps = SubElement(bus, "PORTMAPS")
    for signal in LITE:
        physical = f"{name}_{signal if name.isupper() else signal.lower()}"
        SubElement(maps, "PORTMAP", LOGICAL=signal, PHYSICAL=physical)
        out = (signal in FROM_SLAVE) == (kind == "SLAVE")
        bus_name = other[1]
        end = (other[0], f"{bus_name}_{signal if bus_name.isupper() else signal.lower()}")
        _port(ports, physical, "O" if out else "I", "undef", end)


def _range(
    memory: Element, instance: str, slave: str, master: str, base: int, size: int, block: str, kind: str
) -> None:
    SubElement(memory, "MEMRANGE", ADDRESSBLOCK=block, BASENAME="C_BASEADDR", BASEVALUE=f"0x{base:08X}",
               HIGHNAME="C_HIGHADDR", HIGHVALUE=f"0x{base + size - 1:08X}", INSTANCE=instance, IS_DATA="TRUE",
               IS_INSTRUCTION="TRUE", MASTERBUSINTERFACE=master, MEMTYPE=kind,
               SLAVEBUSINTERFACE=slave)  # fmt: skip
