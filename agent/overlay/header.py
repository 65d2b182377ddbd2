"""The RTL's parameter header from ``overlay.toml``: ``python -m agent.overlay.header`` writes those that ship."""

from __future__ import annotations

from agent.overlay.spec import SPEC_NAME, Overlay, parse_spec

HEADER_NAME = "npu_params.svh"


def header(spec: Overlay) -> str:
    """``npu_params.svh``: one localparam for every constant; fields as their lowest bit and number of bits."""
    lines = [
        f"// Made from {spec.id}/{SPEC_NAME} by: python -m agent.overlay.header",
        "// Included in modules, so without a guard, and (once) outside of them; none uses all of it.",
        "/* verilator lint_off UNUSEDPARAM */",
        "/* verilator lint_off VARHIDDEN */",
        f"localparam [31:0] NPU_VERSION = 32'd{spec.version};",
        f"localparam [31:0] NPU_CLOCK_HZ = 32'd{spec.clock.hz};",
        _integer("LANES", spec.lanes),
        _integer("ACTIVATION_WORDS", spec.memory.activation_words),
        _integer("WEIGHT_ROWS", spec.memory.weight_rows),
        _integer("ACCUMULATORS", spec.memory.accumulators),
        _integer("LINE_WORDS", spec.memory.line_words),
        _integer("ADDRESS_BITS", spec.axi.address_bits),
        _integer("MAX_BURST", spec.axi.max_burst),
        f"localparam [31:0] NPU_WATCHDOG_CYCLES = 32'd{spec.axi.watchdog_cycles};",
        _integer("PARAMETER_ROWS", spec.parameter_rows),
        _integer("PASS_ROWS", spec.pass_rows),
        _integer("DEPTHWISE_ROWS", spec.depthwise_rows),
    ]
    for name, register in spec.registers.items():
        lines.append(f"localparam [11:0] NPU_REG_{name} = 12'h{register.offset:03X};")
    for kind, codes in (("ERROR", spec.errors), ("OP", spec.opcodes), ("FLAG", spec.flags)):
        for name, code in codes.items():
            lines.append(f"localparam [7:0] NPU_{kind}_{name} = 8'h{code:02X};")
    lines += [_integer(f"SEM_{name}", index) for name, index in spec.semaphores.items()]
    for kind, fields in spec.descriptor.items():
        for name, field in fields.items():
            prefix = f"{'ADD' if kind == 'add' else 'F'}_{name.upper()}"
            lines += [_integer(f"{prefix}_LO", field.low), _integer(f"{prefix}_BITS", field.bits)]
    return "\n".join([*lines, "/* verilator lint_on UNUSEDPARAM */", "/* verilator lint_on VARHIDDEN */", ""])


def _integer(name: str, value: int) -> str:
    return f"localparam integer NPU_{name} = {value};"


def main() -> None:
    """Write the header of each overlay that ships."""
    from bitstreams import FOLDER

    for path in sorted(FOLDER.glob(f"*/{SPEC_NAME}")):
        (path.parent / HEADER_NAME).write_text(header(parse_spec(path.read_bytes())))


if __name__ == "__main__":
    main()
