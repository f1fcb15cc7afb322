"""Environment a plan needs before the interpreter of its process starts: OpenMP, oneDNN's ceiling, preloaded libraries.

The supervisor and the trials put it in force; :func:`unmet` tells afterwards, from inside, what of it did not hold.
"""

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from whet.errors import EnvironmentLacks
from whet.plan import Plan

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"
CEILINGS = (
    ("SSE41", ()),
    ("AVX2", ("avx2",)),
    ("AVX2_VNNI", ("avx_vnni",)),
    ("AVX512_CORE", ("avx512f", "avx512bw", "avx512dq", "avx512vl")),
    ("AVX512_CORE_VNNI", ("avx512_vnni",)),
    ("AVX512_CORE_BF16", ("avx512_bf16",)),
    ("AVX512_CORE_FP16", ("avx512_fp16",)),
    ("AVX512_CORE_AMX", ("amx_tile", "amx_int8", "amx_bf16")),
)
"""oneDNN's names for ceilings, lowest first, with the processor flags that make each different from the one below."""

ALLOCATORS = {"jemalloc": "libjemalloc.so.2", "tcmalloc": "libtcmalloc_minimal.so.4"}
"""Allocator -> the library that is preloaded."""
PACKAGES = {"jemalloc": "libjemalloc2", "tcmalloc": "libtcmalloc-minimal4"}
"""Allocator -> Debian's package of it."""
OPENMP = "libiomp5.so"
_LIBRARY_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
)


@cache
def isa_ceilings() -> tuple[str, ...]:
    """Return the ceilings that mean something on this host, lowest first; none off x86."""
    from whet.host.topology import read_host

    processor = read_host().processor
    if processor.arch != "x86_64":
        return ()
    return tuple(name for name, flags in CEILINGS if all(flag in processor.isa for flag in flags))


def environment(plan: Plan) -> dict[str, str]:
    """Return the variables ``plan`` needs in the environment of its process, on top of what is there.

    ``LD_PRELOAD`` holds whole paths; a variable that is absent here should be unset.

    Raises:
        EnvironmentLacks: a library to preload is not installed.
    """
    variables: dict[str, str] = {}
    preload: list[str] = []
    if plan.isa_ceiling is not None:
        variables[ISA_VARIABLE] = plan.isa_ceiling
    if plan.allocator != "default":
        preload.append(str(_allocator(plan.allocator)))
    if plan.openmp is not None:
        variables["OMP_NUM_THREADS"] = str(plan.openmp.threads)
        if plan.openmp.intel:
            preload.append(str(_intel_openmp()))
            if plan.openmp.blocktime_ms is not None:
                variables["KMP_BLOCKTIME"] = str(plan.openmp.blocktime_ms)
            if plan.openmp.affinity:
                variables["KMP_AFFINITY"] = plan.openmp.affinity
        elif plan.openmp.blocktime_ms is not None or plan.openmp.affinity:
            raise EnvironmentLacks(
                "KMP_BLOCKTIME and KMP_AFFINITY act only on Intel's OpenMP; set openmp.intel as well"
            )
    if preload:
        variables["LD_PRELOAD"] = ":".join(preload)
    return variables


def unmet(plan: Plan, env: Mapping[str, str], maps: str | None = None) -> list[str]:
    """Return what of ``plan`` the running process does not fulfil, in words; empty when all holds.

    Args:
        plan: the plan.
        env: the process's environment.
        maps: text of ``/proc/self/maps``, read when None: a preload counts only if the library is really mapped.
    """
    maps = Path("/proc/self/maps").read_text() if maps is None else maps
    wanted = environment(plan)
    wanted.pop("LD_PRELOAD", None)
    lacks = [
        f"{name} is {env.get(name, 'unset')}, not {value}" for name, value in wanted.items() if env.get(name) != value
    ]
    if plan.openmp is not None and plan.openmp.intel and OPENMP not in maps:
        lacks.append(f"{OPENMP} is not mapped")
    library = ALLOCATORS.get(plan.allocator)
    if library is not None and library not in maps:
        lacks.append(f"{library} is not mapped")
    return lacks


def can_preload(name: str) -> bool:
    """Tell whether an allocator (``jemalloc``, ``tcmalloc``) or ``libiomp5`` is installed."""
    try:
        _intel_openmp() if name == "libiomp5" else _allocator(name)
    except EnvironmentLacks:
        return False
    return True


def _allocator(name: str) -> Path:
    library = ALLOCATORS.get(name)
    if library is None:
        raise EnvironmentLacks(f"allocator '{name}' is unknown; known are default, {', '.join(ALLOCATORS)}")
    for folder in _LIBRARY_FOLDERS:
        if (Path(folder) / library).exists():
            return Path(folder) / library
    raise EnvironmentLacks(
        f"allocator {name} is not installed ({library}); on Debian: apt-get install {PACKAGES[name]}"
    )


def _intel_openmp() -> Path:
    """Return Intel's OpenMP; its wheel puts the library beside the interpreter, not among the packages."""
    path = Path(sys.prefix) / "lib" / OPENMP
    if path.exists():
        return path
    raise EnvironmentLacks(f"{OPENMP} is not installed in {sys.prefix}; install it: pip install intel-openmp")
