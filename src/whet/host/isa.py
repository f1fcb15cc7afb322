"""Which processor this is, and which of its instruction sets matter to inference."""

from dataclasses import dataclass

from whet.host.files import Tree, to_float, to_int

X86_ISA = (
    "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl", "avx_vnni", "avx512_vnni",
    "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
)  # fmt: skip
"""Flags of x86 kept, under the kernel's own names. Few kernels list ``amx_fp16``, so its absence proves nothing."""

ARM_ISA = {
    "asimd": "neon",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "svei8mm": "sve_i8mm",
    "svebf16": "sve_bf16",
    "sve2": "sve2",
    "sme": "sme",
}
"""Features of 64-bit ARM kept: the kernel's name -> the name used here."""

_NATIVE = {
    "bf16": {"avx512_bf16", "amx_bf16", "bf16", "sve_bf16"},
    "f16": {"avx512_fp16", "amx_fp16", "fp16"},
    "int8": {"avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm"},
}

_ARM_PARTS = {
    (0x41, 0xD03): "Cortex-A53", (0x41, 0xD08): "Cortex-A72", (0x41, 0xD0B): "Cortex-A76",
    (0x41, 0xD0C): "Neoverse-N1", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD83): "Neoverse-V3AE", (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD8E): "Neoverse-N3", (0xC0, 0xAC3): "Ampere-1", (0xC0, 0xAC4): "Ampere-1A",
}  # fmt: skip
_ARM_VENDORS = {0x41: "ARM", 0x48: "HiSilicon", 0x4E: "NVIDIA", 0x51: "Qualcomm", 0x61: "Apple", 0xC0: "Ampere"}


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor's identity and abilities; the same for all its cores.

    Attributes:
        arch: ``x86_64``, ``aarch64`` or empty when unknown.
        vendor: ``GenuineIntel``, ``AuthenticAMD``, ``ARM``, ...; empty when unknown.
        model: marketing name on x86; core name and part number on ARM; empty when unknown.
        isa: instruction sets that matter to inference and that every core has (:data:`X86_ISA`, :data:`ARM_ISA`).
        native: number formats beyond f32 with instructions of their own: of ``bf16``, ``f16``, ``int8``.
        current_mhz: clock of one core when the host was read, or None.
        base_mhz: guaranteed clock, or None.
        max_mhz: highest clock of the fastest core, or None.
    """

    arch: str
    vendor: str
    model: str
    isa: tuple[str, ...]
    native: tuple[str, ...]
    current_mhz: float | None
    base_mhz: float | None
    max_mhz: float | None


def cpuinfo(tree: Tree) -> list[dict[str, str]]:
    """Return /proc/cpuinfo as one mapping per logical CPU, in its order."""
    blocks: list[dict[str, str]] = []
    for line in tree.lines("proc/cpuinfo"):
        key, colon, value = line.partition(":")
        key = key.strip()
        if key == "processor":
            blocks.append({})
        if colon and blocks:
            blocks[-1].setdefault(key, value.strip())
    return blocks


def read_processor(tree: Tree, blocks: list[dict[str, str]], cpu: int) -> Processor:
    """Describe the processor from parsed /proc/cpuinfo ``blocks``; clocks are those of logical CPU ``cpu``."""
    first = blocks[0] if blocks else {}
    arch, vendor, model = _identity(first)
    features = [set(block.get("flags", block.get("Features", "")).split()) for block in blocks]
    # A program may be moved to any core, so only what every core has may be used.
    common = set.intersection(*features) if features else set()
    if not common:
        tree.note("/proc/cpuinfo lists no instruction sets; none beyond the base one is assumed")
    names = [(name, name) for name in X86_ISA] if arch != "aarch64" else list(ARM_ISA.items())
    isa = tuple(name for flag, name in names if flag in common)
    folder = f"sys/devices/system/cpu/cpu{cpu}/cpufreq"
    current = _khz(tree, f"{folder}/scaling_cur_freq")
    return Processor(
        arch=arch,
        vendor=vendor,
        model=model,
        isa=isa,
        native=native(isa),
        current_mhz=to_float(first.get("cpu MHz")) if current is None else current,
        base_mhz=_khz(tree, f"{folder}/base_frequency"),
        max_mhz=_khz(tree, f"{folder}/cpuinfo_max_freq"),
    )


def native(isa: tuple[str, ...]) -> tuple[str, ...]:
    """Return the number formats beyond f32 that ``isa`` computes with instructions of their own."""
    return tuple(name for name, any_of in _NATIVE.items() if any_of & set(isa))


def max_mhz(tree: Tree, cpu: int) -> float | None:
    """Return the highest clock of a logical CPU in MHz, or None where the kernel does not manage clocks."""
    return _khz(tree, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq")


def _identity(first: dict[str, str]) -> tuple[str, str, str]:
    """Return (arch, vendor, model) from the first block of /proc/cpuinfo."""
    if "flags" in first or "vendor_id" in first:
        return "x86_64", first.get("vendor_id", ""), first.get("model name", "")
    if "CPU implementer" not in first:
        return "", "", first.get("model name", "")
    implementer = _hex(first.get("CPU implementer"))
    part = _hex(first.get("CPU part"))
    name = first.get("model name") or _ARM_PARTS.get((implementer, part), "ARM core")
    return "aarch64", _ARM_VENDORS.get(implementer, f"{implementer:#x}"), f"{name} ({implementer:#x}/{part:#x})"


def _hex(text: str | None) -> int:
    try:
        return int(text or "0", 16)
    except ValueError:
        return 0


def _khz(tree: Tree, path: str) -> float | None:
    value = to_int(tree.text(path))
    return value / 1000 if value else None
