"""Which plans are legal: budget x what the runtimes honour x targets x artifacts -> plans, and refusals with reasons.

Pure. Every axis is crossed with every other; what falls out says why and is counted, so the report can show it.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from whet.engine.base import Capabilities
from whet.engine.environment import ALLOCATORS, PACKAGES
from whet.plan import OpenMP, Plan, Targets

BATCHES = (1, 2, 4, 8, 16)
LADDERS: dict[int, tuple[int, ...]] = {1: (1,), 2: (1, 2), 4: (1, 4), 8: (1, 2, 8), 16: (1, 4, 16)}
"""Sizes compiled for a largest batch: each at most four times the one before, so padding never wastes much more than
half of a batch, and few enough that compiling and memory stay small."""
WINDOWS_MS = (0.0, 2.0)
BLOCKTIMES_MS = (0, 1, 10, 200)
"""KMP_BLOCKTIME: how long a thread of Intel's OpenMP spins before it sleeps; 200 is the library's own choice."""
AFFINITY = "granularity=fine,compact,1,0"
"""KMP_AFFINITY as Intel recommends it for inference: neighbours on neighbouring cores, siblings last."""
TOGETHER = "small effects that add up: tried one at a time"
BF16_CEILINGS = frozenset({"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX10_1_512_AMX"})
"""Instruction-set ceilings that leave bf16 arithmetic in."""
GAIN_OF_BATCHING = 4.0
"""A batch of B takes at least ``B / GAIN_OF_BATCHING`` times as long as one sample; used to rule out, never to rank."""
Level = Literal["system", "application", "algorithm"]
LEVELS: tuple[Level, ...] = ("system", "application", "algorithm")


@dataclass(frozen=True, slots=True)
class Variant:
    """An artifact that competes.

    Attributes:
        artifact: its sha256.
        label: how people call it, ``f32``, ``int8``, ``pruned30``.
        format: artifact format.
        batched: it has a batch axis.
        images: it has image preprocessing that could be fused.
        runtimes: the only runtimes it was made for, or empty for all that open its format.
        parent: it is the model as imported, whose float result is the reference.
        precisions: float precisions that may be tried with it.
        int8: it computes in int8, whose results depend on the instruction set (without VNNI, sums saturate).
        native: it is the user's own file, run by the framework that made it; the same net as the parent.
    """

    artifact: str
    label: str
    format: str
    batched: bool = True
    images: bool = False
    runtimes: tuple[str, ...] = ()
    parent: bool = True
    precisions: tuple[str, ...] = ("f32",)
    int8: bool = False
    native: bool = False


@dataclass(frozen=True, slots=True)
class Room:
    """What the host and the service leave to choose from.

    Attributes:
        cores: the cpu budget.
        physical: physical cores in it.
        nodes: NUMA nodes in it.
        allocators: allocators that can be preloaded here, ``default`` among them.
        intel_openmp: Intel's OpenMP can be preloaded here.
        service: ``online``, ``batch`` or ``stream``.
        sample_ms: measured time of one sample on the whole budget, milliseconds, or None before it is known.
    """

    cores: int
    physical: int
    nodes: int = 1
    allocators: tuple[str, ...] = ("default",)
    intel_openmp: bool = False
    service: str = "online"
    sample_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was not tried, or not kept, and why.

    Attributes:
        what: the knob or candidate.
        reason: in words.
        count: plans it concerns.
    """

    what: str
    reason: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Space:
    """Legal plans, and what is missing among them.

    Attributes:
        plans: every legal plan, simplest first.
        refused: by reason.
        variants: by artifact.
        fusing: runtimes that can take preprocessing into their graph; to leave it outside is a choice only there.
    """

    plans: tuple[Plan, ...]
    refused: tuple[Refusal, ...]
    variants: Mapping[str, Variant] = field(default_factory=dict)
    fusing: frozenset[str] = frozenset()

    def at(self, level: Level) -> tuple[Plan, ...]:
        """Return the plans reachable up to ``level``: it and the levels before it may differ from the default."""
        return tuple(plan for plan in self.plans if LEVELS.index(self.level_of(plan)) <= LEVELS.index(level))

    def level_of(self, plan: Plan) -> Level:
        """Return the highest level at which ``plan`` departs from f32, batch 1, as imported."""
        variant = self.variants[plan.artifact]
        if not (variant.parent or variant.native) or plan.precision != "f32":
            return "algorithm"
        if plan.max_batch > 1 or plan.dynamic_batch or plan.batch_window_ms or self.unfused(plan):
            return "application"
        return "system"

    def unfused(self, plan: Plan) -> bool:
        """Tell whether preprocessing is left outside a graph that could hold it."""
        return not plan.fused_preprocessing and plan.runtime in self.fusing

    def features(self, plan: Plan) -> dict[str, str | float]:
        """Return the axes of ``plan`` as plain values; numbers are compared by ratio, names by equality."""
        return {
            "runtime": plan.runtime,
            "variant": self.variants[plan.artifact].label,
            "precision": plan.precision,
            "streams": float(plan.streams),
            "threads": float(plan.threads),
            "batch": float(plan.max_batch),
            "dynamic": str(plan.dynamic_batch),
            "window": f"{plan.batch_window_ms:g}",
            "pinning": str(plan.pinning),
            "fused": str(plan.fused_preprocessing),
            "isa": plan.isa_ceiling or "",
            "allocator": plan.allocator,
            "openmp": openmp_words(plan.openmp),
            **dict(plan.options),
        }


def label(plan: Plan, variant: str) -> str:
    """Return a short name for tables: ``openvino int8+bf16 2x1 b8``."""
    weights = variant if plan.precision == "f32" else f"{variant}+{plan.precision}"
    if variant == "f32":
        weights = plan.precision
    parts = [plan.runtime, weights, f"{plan.streams}x{plan.threads}", f"b{plan.max_batch}"]
    parts += ["dynamic"] if plan.dynamic_batch else []
    parts += ["pinned"] if plan.pinning else []
    parts += [] if plan.fused_preprocessing else ["unfused"]
    parts += [f"window {plan.batch_window_ms:g} ms"] if plan.batch_window_ms else []
    parts += [f"<={plan.isa_ceiling}"] if plan.isa_ceiling else []
    parts += [plan.allocator] if plan.allocator != "default" else []
    parts += [openmp_words(plan.openmp)] if plan.openmp is not None else []
    return " ".join(parts + [f"{name}={value}" for name, value in plan.options])


def openmp_words(openmp: OpenMP | None) -> str:
    """Return OpenMP's variables as they are known to practitioners, or the empty string."""
    if openmp is None:
        return ""
    words = [f"OMP_NUM_THREADS={openmp.threads}"]
    words += ["libiomp5"] if openmp.intel else []
    words += [f"KMP_BLOCKTIME={openmp.blocktime_ms}"] if openmp.blocktime_ms is not None else []
    return " ".join(words + ([f"KMP_AFFINITY={openmp.affinity}"] if openmp.affinity else []))


def shapes(room: Room, targets: Targets) -> list[tuple[int, int]]:
    """Return (streams, threads) that use the budget without overbooking it: most throughput-friendly last.

    Whole divisions of the budget, of its physical cores, and of one core less (left to the event loop) on small hosts;
    every size from one core up when the fewest cores are wanted.
    """
    cores = min(room.cores, targets.max_cores or room.cores)
    physical = min(room.physical, cores)
    sizes = {cores, physical}
    if cores <= 4:
        sizes.add(max(1, cores - 1))
    if targets.objective == "cores":
        sizes |= set(range(1, min(cores, 8) + 1)) | {1 << i for i in range(cores.bit_length())}
    found = {(s, size // s) for size in sizes if size <= cores for s in range(1, size + 1) if size % s == 0}
    return sorted(found, key=lambda shape: (shape[0] * shape[1], shape[0]))


def build(variants: Sequence[Variant], runtimes: Mapping[str, Capabilities], room: Room, targets: Targets) -> Space:
    """Return every legal plan and every refusal.

    Args:
        variants: artifacts that compete.
        runtimes: capabilities of the runtimes that are installed.
        room: host and service.
        targets: what must be reached.
    """
    refusals: Counter[tuple[str, str]] = Counter()
    plans = [
        plan
        for variant, (name, able) in itertools.product(variants, runtimes.items())
        for plan in _plans(variant, name, able, (room, targets), refusals)
    ]
    _refuse_everywhere(room, refusals)
    refused = tuple(Refusal(what, why, count) for (what, why), count in sorted(refusals.items()))
    return Space(
        tuple(sorted(plans, key=simplicity)),
        refused,
        {variant.artifact: variant for variant in variants},
        frozenset(name for name, able in runtimes.items() if able.fuses_images),
    )


def _refuse_everywhere(room: Room, refusals: Counter[tuple[str, str]]) -> None:
    """Write down the axes that have one value here, whatever the runtime."""
    workers = "one NUMA node: a second worker would pack the weights again and split the batches; streams share both"
    if room.nodes > 1:
        workers = "a trial measures one worker; placement gives each node one when it serves"
    refusals["workers per NUMA node", workers] += 1
    if room.physical >= room.cores:
        refusals["SMT", "the budget holds one hardware thread of each core: there is nothing to choose"] += 1
    for name in ALLOCATORS:
        if name not in room.allocators:
            refusals[f"allocator {name}", f"not installed; on Debian: apt-get install {PACKAGES[name]}"] += 1


def simplicity(plan: Plan) -> tuple[float, ...]:
    """Order of preference among equals: fewer cores, smaller batches, fewer compilations, fewer switches."""
    switches = len(plan.options) + sum(
        (
            plan.pinning,
            plan.dynamic_batch,
            not plan.fused_preprocessing,
            bool(plan.isa_ceiling),
            plan.openmp is not None,
            plan.precision != "f32",
        )
    )
    window = plan.batch_window_ms + (plan.allocator != "default")
    return (plan.compute_threads, plan.max_batch, len(plan.batch_sizes), switches + window, plan.streams)


def _plans(
    variant: Variant,
    runtime: str,
    able: Capabilities,
    where: tuple[Room, Targets],
    refusals: Counter[tuple[str, str]],
) -> Iterator[Plan]:
    room, targets = where
    if variant.runtimes and runtime not in variant.runtimes:
        refusals[f"{runtime} with {variant.label}", f"{variant.label} was made for {', '.join(variant.runtimes)}"] += 1
        return
    if variant.format not in able.formats:
        formats = ", ".join(sorted(able.formats))
        refusals[f"{runtime} with {variant.label}", f"{runtime} opens {formats}, not {variant.format}"] += 1
        return
    for precision in dict.fromkeys(("f32", *variant.precisions)):
        if precision not in able.precisions:
            refusals[f"{runtime} at {precision}", f"{runtime} does not honour {precision} on this host"] += 1
    precisions = [one for one in dict.fromkeys(("f32", *variant.precisions)) if one in able.precisions]
    switches = list(_switches(runtime, variant, able, room, refusals))
    axes = itertools.product(precisions, shapes(room, targets), _batching(variant, room, targets, refusals))
    for (precision, (streams, threads), (sizes, dynamic, window)), switch in itertools.product(axes, switches):
        openmp = switch["openmp"]
        if (dynamic or window) and switch != switches[0]:
            refusals["dynamic batches or a window with a switch", TOGETHER] += 1
        elif switch["pinning"] and streams * threads < min(room.cores, room.physical):
            refusals["pinning part of the budget", "pinned threads cannot move off a busy core; the mask suffices"] += 1
        elif variant.int8 and switch["isa_ceiling"] is not None:
            refusals["int8 below the host's instruction set", "sums may saturate there: accuracy was judged here"] += 1
        elif precision == "bf16" and switch["isa_ceiling"] not in {None, *BF16_CEILINGS}:
            refusals["bf16 below its instruction set", "a ceiling without bf16 instructions cannot compute it"] += 1
        else:
            yield Plan(
                artifact=variant.artifact,
                runtime=runtime,
                precision=precision,
                streams=streams,
                threads=threads,
                batch_sizes=sizes,
                dynamic_batch=dynamic,
                batch_window_ms=window,
                queue_bound=max(256, 16 * sizes[-1]),
                **{**switch, "openmp": None if openmp is None else replace(openmp, threads=threads)},
            )


def _batching(
    variant: Variant, room: Room, targets: Targets, refusals: Counter[tuple[str, str]]
) -> list[tuple[tuple[int, ...], bool, float]]:
    """Return (batch sizes, dynamic, window) that fit the model and the latency target."""
    if not variant.batched:
        refusals["batches", f"{variant.label} has no batch axis: rows cannot share a computation"] += 1
        return [((1,), False, 0.0)]
    latency = min((ms for ms in (targets.p99_ms, targets.p50_ms) if ms is not None), default=None)
    found: list[tuple[tuple[int, ...], bool, float]] = []
    for batch in BATCHES:
        if batch > 1 and targets.objective == "latency":
            refusals[f"batch {batch}", "the objective is latency: a batch makes its first sample wait"] += 1
            continue
        if latency is not None and room.sample_ms is not None and batch * room.sample_ms / GAIN_OF_BATCHING > latency:
            refusals[
                f"batch {batch}", f"takes over {latency:g} ms even at {GAIN_OF_BATCHING:g}x the speed per sample"
            ] += 1
            continue
        found.append((LADDERS[batch], False, 0.0))
        if batch == 1:
            continue
        found.append((LADDERS[batch], True, 0.0))
        for window in WINDOWS_MS[1:]:
            if room.service == "batch" or (latency is not None and window > latency / 4):
                refusals[
                    f"window {window:g} ms", "batches come full" if room.service == "batch" else "eats the target"
                ] += 1
            else:
                found.append((LADDERS[batch], False, window))
    return found


def _switches(
    runtime: str, variant: Variant, able: Capabilities, room: Room, refusals: Counter[tuple[str, str]]
) -> Iterator[dict[str, Any]]:
    """Yield the cross product of a runtime's own switches."""
    pinning = (False, True) if able.pinning else (False,)
    if not able.pinning:
        refusals[f"pinning in {runtime}", f"{runtime} does not pin its threads"] += 1
    fused: tuple[bool, ...] = (True,)
    if variant.images:
        fused = (True, False) if able.fuses_images else (False,)
        refusals[
            f"layout in {runtime}", "pictures reach the net in its own layout; turning them costs a copy each"
        ] += 1
    ceilings: Iterable[str | None] = (None, *(one for one in able.isa_ceilings[:-1] if one != "SSE41"))
    # Options without values are free-form, and "defaults" hands every choice to the runtime: neither is a knob to turn.
    knobs = {name: values for name, values in sorted(able.options.items()) if values and name != "defaults"}
    if "defaults" in able.options:
        refusals[f"hints and defaults of {runtime}", "they set streams, threads and pins, which are axes here"] += 1
    options = [[(name, value) for value in values] for name, values in knobs.items()]
    first = {name: values[0] for name, values in knobs.items()}
    allocators = [one for one in room.allocators if one in able.allocators]
    for one in room.allocators:
        if one not in allocators:
            refusals[f"{one} under {runtime}", f"{runtime} does not run under it"] += 1
    for pin, fuse, ceiling, allocator, openmp, chosen in itertools.product(
        pinning, fused, ceilings, allocators, _openmp(runtime, able, room, refusals), itertools.product(*options)
    ):
        # More than one switch off its default at a time is left out: their effects are small and add up.
        off = (
            *(pin, fuse != fused[0], bool(ceiling), allocator != "default", openmp is not None),
            *(first[name] != value for name, value in chosen),
        )
        if sum(off) > 1:
            refusals[f"several switches of {runtime} at once", TOGETHER] += 1
            continue
        yield {
            "pinning": pin,
            "fused_preprocessing": fuse,
            "isa_ceiling": ceiling,
            "allocator": allocator,
            "openmp": openmp,
            "options": tuple(item for item in chosen if item[1] != first[item[0]]),
        }


def _openmp(
    runtime: str, able: Capabilities, room: Room, refusals: Counter[tuple[str, str]]
) -> tuple[OpenMP | None, ...]:
    """Return the environments of OpenMP worth trying; the threads of each follow from the plan."""
    if not able.openmp:
        refusals[f"OpenMP variables with {runtime}", f"{runtime} does not compute on OpenMP threads"] += 1
        return (None,)
    if not room.intel_openmp:
        missing = "they act on Intel's OpenMP alone, which is not installed: pip install intel-openmp"
        refusals["KMP_BLOCKTIME and KMP_AFFINITY", missing] += 1
        return (None, OpenMP(1))
    spins = (OpenMP(1, intel=True, blocktime_ms=spin) for spin in BLOCKTIMES_MS)
    return (None, OpenMP(1), *spins, OpenMP(1, intel=True, affinity=AFFINITY))
