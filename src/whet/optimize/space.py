"""Which plans are legal: budget x what the runtimes honour x targets x artifacts -> plans, and refusals with reasons.

Pure. Every axis is crossed with every other; what falls out says why and is counted, so the report can show it.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from whet.engine.base import Capabilities
from whet.plan import Plan, Targets

BATCHES = (1, 2, 4, 8, 16)
LADDERS: dict[int, tuple[int, ...]] = {1: (1,), 2: (1, 2), 4: (1, 4), 8: (1, 2, 8), 16: (1, 4, 16)}
"""Sizes compiled for a largest batch: each at most four times the one before, so padding never wastes much more than
half of a batch, and few enough that compiling and memory stay small."""
WINDOWS_MS = (0.0, 2.0)
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


@dataclass(frozen=True, slots=True)
class Room:
    """What the host and the service leave to choose from.

    Attributes:
        cores: the cpu budget.
        physical: physical cores in it.
        nodes: NUMA nodes in it.
        allocators: allocators that can be preloaded here, ``default`` among them.
        service: ``online``, ``batch`` or ``stream``.
        sample_ms: measured time of one sample on the whole budget, milliseconds, or None before it is known.
    """

    cores: int
    physical: int
    nodes: int = 1
    allocators: tuple[str, ...] = ("default",)
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
    """

    plans: tuple[Plan, ...]
    refused: tuple[Refusal, ...]
    variants: Mapping[str, Variant] = field(default_factory=dict)

    def at(self, level: Level) -> tuple[Plan, ...]:
        """Return the plans reachable up to ``level``: it and the levels before it may differ from the default."""
        return tuple(plan for plan in self.plans if LEVELS.index(self.level_of(plan)) <= LEVELS.index(level))

    def level_of(self, plan: Plan) -> Level:
        """Return the highest level at which ``plan`` departs from f32, batch 1, as imported."""
        if not self.variants[plan.artifact].parent or plan.precision != "f32":
            return "algorithm"
        if plan.max_batch > 1 or plan.dynamic_batch or plan.batch_window_ms or not plan.fused_preprocessing:
            return "application"
        return "system"

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
    return " ".join(parts + [f"{name}={value}" for name, value in plan.options])


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
    if room.nodes > 1:
        refusals[
            "workers per NUMA node", "a trial measures one worker; placement gives each node one when it serves"
        ] += 1
    refused = tuple(Refusal(what, why, count) for (what, why), count in sorted(refusals.items()))
    return Space(tuple(sorted(plans, key=simplicity)), refused, {variant.artifact: variant for variant in variants})


def simplicity(plan: Plan) -> tuple[float, ...]:
    """Order of preference among equals: fewer cores, smaller batches, fewer compilations, fewer switches."""
    switches = len(plan.options) + sum(
        (
            plan.pinning,
            plan.dynamic_batch,
            not plan.fused_preprocessing,
            bool(plan.isa_ceiling),
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
        if switch["pinning"] and streams * threads < min(room.cores, room.physical):
            refusals["pinning part of the budget", "pinned threads cannot move off a busy core; the mask suffices"] += 1
            continue
        if variant.int8 and switch["isa_ceiling"] is not None:
            refusals["int8 below the host's instruction set", "sums may saturate there: accuracy was judged here"] += 1
            continue
        if precision == "bf16" and switch["isa_ceiling"] not in {None, *BF16_CEILINGS}:
            refusals["bf16 below its instruction set", "a ceiling without bf16 instructions cannot compute it"] += 1
            continue
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
            **switch,
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
    fused = (True, False) if variant.images and able.fuses_images else (True,)
    ceilings: Iterable[str | None] = (None, *(one for one in able.isa_ceilings[:-1] if one != "SSE41"))
    # Options without values are free-form, and "defaults" hands every choice to the runtime: neither is a knob to turn.
    knobs = {name: values for name, values in sorted(able.options.items()) if values and name != "defaults"}
    options = [[(name, value) for value in values] for name, values in knobs.items()]
    first = {name: values[0] for name, values in knobs.items()}
    for pin, fuse, ceiling, allocator, chosen in itertools.product(
        pinning, fused, ceilings, room.allocators, itertools.product(*options)
    ):
        # More than one switch off its default at a time is left out: their effects are small and add up.
        off = (pin, not fuse, bool(ceiling), allocator != "default", *(first[name] != value for name, value in chosen))
        if sum(off) > 1:
            refusals[f"several switches of {runtime} at once", "small effects that add up: tried one at a time"] += 1
            continue
        yield {
            "pinning": pin,
            "fused_preprocessing": fuse,
            "isa_ceiling": ceiling,
            "allocator": allocator,
            "options": tuple(item for item in chosen if item[1] != first[item[0]]),
        }
