"""From an observation to diagnoses, ranked. Pure; thresholds stand at the top, each with its reason.

A rule that judges load stays silent below :data:`LEAST_REQUESTS`: an idle server has no bottleneck. A rule that judges
a choice the search made by measurement on such a host stays silent too: that choice was proven.
"""

from collections.abc import Callable, Iterator

from whet.doctor.diagnosis import Diagnosis, made
from whet.doctor.observation import HostSeen, ModelSeen, Observation, WorkerSeen
from whet.engine.environment import CEILINGS
from whet.host.isa import native

LEAST_REQUESTS = 20
"""Answered requests below which nothing is said about load: means of fewer are noise."""
THROTTLED = 0.05
"""Share of throttled periods that shows in a p99: one in twenty."""
WAITED = 0.25
"""Share of its running time a process's threads wait for a CPU: a busy, well-sized one stays far below."""
QUEUED = 0.5
"""Share of a request's time in the queue: more than everything else together."""
BUSY = 0.8
"""Utilisation of lanes past which queues grow without bound (a Poisson queue at 0.8 waits four service times)."""
TRANSPORT = 0.3
"""Share of a request's time in decoding and encoding; the binary form needs a few per cent."""
REMOTE = 0.1
"""Share of memory on other nodes; code and libraries shared between nodes stay below."""
BANDWIDTH = 0.6
"""Share of the measured bandwidth that weights alone take; activations take much of the rest."""
PADDED = 0.3
"""Share of computed rows that are padding."""
BATCH_GAIN = 1.15
"""Speed with batches over speed without, below which larger batches are not worth their latency."""
SMALL_BATCH = 8
"""From here on larger batches bring little on CPUs."""
LOADED_CORES = 0.2
"""CPUs' worth of work below which a share of it says nothing."""

Rule = Callable[[Observation], Iterator[Diagnosis]]


def diagnose(seen: Observation) -> list[Diagnosis]:
    """Return what is wrong, worst first; empty when nothing is. Queueing comes last: it is what causes lead to."""
    found = [each for rule in RULES for each in rule(seen)]
    return sorted(found, key=lambda each: (each.slug == "queueing", -each.cost, each.slug))


def healthy(seen: Observation, found: list[Diagnosis]) -> str:
    """Return one sentence for an observation without a diagnosis, or the worst one's words."""
    if found:
        return found[0].words
    answered = sum(model.requests for model in seen.models)
    if seen.kind == "server" and answered < LEAST_REQUESTS:
        return f"nothing is wrong; {answered} requests in {seen.seconds:.1f} s say nothing about load"
    return "nothing is wrong"


def quota(seen: Observation) -> Iterator[Diagnosis]:
    """The control group's CPU quota stops the server."""
    share = seen.throttled / seen.periods if seen.periods else 0.0
    recorded = seen.kind == "bundle" and seen.throttled_s > 0
    if not recorded and (share < THROTTLED or seen.throttled < 2):
        return
    granted = f"a quota of {seen.host.quota:g} CPUs" if seen.host and seen.host.quota else "its CPU quota"
    often = f"in {seen.throttled} of {seen.periods} periods " if seen.periods else ""
    yield made(
        "quota-throttled",
        share if seen.periods else 0.2,
        f"{granted} stopped the server {often}(CPUs stood still for {seen.throttled_s:.2f} s)",
        {"throttled_share": share, "throttled": seen.throttled, "periods": seen.periods,
         "throttled_s": seen.throttled_s},
        "compute on no more threads than the quota rounded down (restart the server, or whet optimize --max-cores), "
        "or raise the limit",
    )  # fmt: skip


def oversubscribed(seen: Observation) -> Iterator[Diagnosis]:
    """More threads compute than CPUs are granted, or others take the CPUs."""
    loaded = any(True for _ in _loaded(seen))
    for worker in seen.workers:
        if worker.planned is None or worker.cores is None:
            continue
        wait = _waiting(worker)
        if worker.planned > worker.cores:
            narrowed = " (serve will narrow it)" if seen.kind == "bundle" else ""
            who = "the plan" if seen.kind == "bundle" else f"worker {worker.index}"
            waiting = "" if wait is None or not seen.seconds else f"; its threads waited {wait:.0%} of their time"
            yield made(
                "oversubscribed",
                1 - worker.cores / worker.planned,
                f"{who} computes on {worker.planned} threads and may use {worker.cores} CPUs{waiting}{narrowed}",
                {"threads": worker.planned, "cpus": worker.cores, "waited_share": wait or 0.0},
                "restart the server so that it divides the CPUs it has now, or whet optimize for this host",
            )
        elif wait is not None and wait >= WAITED and loaded and _demand(seen, worker) >= LOADED_CORES:
            others = f"; other processes used {seen.others:.1f} CPUs" if seen.others is not None else ""
            yield made(
                "oversubscribed",
                wait / 2,  # part of it is the price of any neighbour
                f"threads of worker {worker.index} waited for a CPU {wait:.0%} of their time, though its plans need "
                f"only {worker.planned} of {worker.cores}{others}",
                {"threads": worker.planned, "cpus": worker.cores, "waited_share": wait,
                 "others_cpus": seen.others or 0.0},
                "give the server CPUs of its own (a mask or cpuset no other process shares), or move the neighbours",
            )  # fmt: skip


def remote_memory(seen: Observation) -> Iterator[Diagnosis]:
    """Memory lies on another NUMA node than the CPUs that read it."""
    if seen.host is None or seen.host.nodes < 2:
        return
    for worker in seen.workers:
        if worker.remote is not None and worker.remote >= REMOTE:
            yield made(
                "remote-numa",
                worker.remote / 2,  # remote access is some twice as slow, and caches hide part of it
                f"{worker.remote:.0%} of the memory of worker {worker.index} lies on NUMA nodes it has no CPU on",
                {"remote_share": worker.remote, "nodes": seen.host.nodes},
                "run one worker per NUMA node (--workers 0 does), and do not change masks of a running server",
            )


def queueing(seen: Observation) -> Iterator[Diagnosis]:
    """Requests wait for a lane, or for company."""
    for model in _loaded(seen):
        share = model.queue_s / model.spent_s if model.spent_s else 0.0
        full = sum(count for slug, count in model.refused.items() if slug in ("queue-full", "deadline-exceeded"))
        used = _used(seen, model)
        evidence: dict[str, float | str] = {
            "queue_share": share, "queue_ms": 1e3 * model.queue_s / model.requests,
            "compute_ms": 1e3 * model.compute_s / model.requests, "lanes_busy": used, "refused": full,
        }  # fmt: skip
        window = model.plan.batch_window_ms if model.plan else 0.0
        waited = f"requests wait {evidence['queue_ms']:.1f} ms to compute for {evidence['compute_ms']:.1f} ms"
        if used >= BUSY and (share >= QUEUED or full):
            refused = f", {full} were refused" if full else ""
            words = f"{model.name}: {waited}{refused}; its lanes are busy {used:.0%} of the time"
            remedy = "it is at its capacity: add cores or servers, lower the load, or find a faster plan"
            yield made("queueing", max(share, QUEUED), words, evidence, remedy, model.name)
        elif share >= QUEUED and window and used < BUSY / 2:
            words = f"{model.name}: {waited}, for a batch window of {window:g} ms that traffic does not fill"
            evidence["window_ms"] = window
            yield made("queueing", share / 2, words, evidence, "lower batch_window_ms in the plan", model.name)


def transport(seen: Observation) -> Iterator[Diagnosis]:
    """Turning bytes into tensors costs as much as computing."""
    for model in _loaded(seen):
        served = model.spent_s - model.queue_s
        share = (model.decode_s + model.encode_s) / served if served else 0.0
        if share < TRANSPORT:
            continue
        decode, encode, compute = (1e3 * s / model.requests for s in (model.decode_s, model.encode_s, model.compute_s))
        yield made(
            "decode-dominates",
            share,
            f"{model.name}: decoding takes {decode:.2f} ms and encoding {encode:.2f} ms of a request that computes for "
            f"{compute:.2f} ms",
            {"transport_share": share, "decode_ms": decode, "encode_ms": encode, "compute_ms": compute},
            "send tensors as raw bytes (the protocol's binary form, or gRPC) instead of JSON; images as uint8",
            model.name,
        )


def unfused(seen: Observation) -> Iterator[Diagnosis]:
    """Preprocessing runs outside the graph although the runtime could take it in."""
    for model in _judged(seen):
        if model.plan is not None and model.images and not model.plan.fused_preprocessing and not model.tuned_here:
            yield made(
                "preprocessing-not-fused",
                0.1,
                f"{model.name}: {model.images} image input(s) are prepared in numpy, outside the graph",
                {"images": model.images, "runtime": model.plan.runtime},
                "set fused_preprocessing in the plan, or whet optimize on this host, which measures both",
                model.name,
            )


def bandwidth(seen: Observation) -> Iterator[Diagnosis]:
    """Reading weights limits it."""
    for model in _judged(seen):
        rate = model.weight_bytes * model.batches / seen.seconds / 1e9 if model.weight_bytes and seen.seconds else None
        share = rate / seen.bandwidth_gbs if rate is not None and seen.bandwidth_gbs else None
        gain = model.batching_gain
        measured = model.bound == "memory" and gain is not None
        if (share is None or share < BANDWIDTH) and not measured:
            continue
        evidence: dict[str, float | str] = {}
        said = []
        if rate is not None and share is not None and seen.bandwidth_gbs:
            evidence |= {"weights_gbs": rate, "bandwidth_gbs": seen.bandwidth_gbs, "share": share}
            said.append(f"weights are read at {rate:.1f} of {seen.bandwidth_gbs:.1f} GB/s")
        if measured and gain is not None:
            evidence["batching_gain"] = gain
            said.append(f"the search found that batches make it {gain:.2f} times as fast")
        yield made(
            "memory-bandwidth",
            share / 2 if share is not None else 0.1,
            f"{model.name}: memory limits it: {'; '.join(said)}",
            evidence,
            "read weights less often (larger batches, fewer streams) or make them smaller (int8)",
            model.name,
        )


def isa(seen: Observation) -> Iterator[Diagnosis]:
    """Kernels may not use what the processor has, or it lacks what the model was quantized for."""
    if seen.host is None or not seen.host.isa:
        return
    ceiling = next((worker.ceiling for worker in seen.workers if worker.ceiling), "")
    best = best_ceiling(seen.host)
    models = [model for model in seen.models if not model.tuned_here]
    if models and ceiling and best and _rank(ceiling) < _rank(best):
        yield made(
            "isa-ceiling",
            0.4,  # AVX2 against AVX512_CORE_VNNI: 54 against 185 inferences/s of a ResNet-50 in int8
            f"oneDNN may use {ceiling} at most, this processor has {best}",
            {"ceiling": ceiling, "processor": best},
            "take isa_ceiling out of the plan, unless a search on this host measured it to be faster",
            models[0].name,
        )
    formats = native(under(seen.host.isa, ceiling))
    for model in models:
        wants = "int8" if model.precision == "int8" else model.plan.precision if model.plan else ""
        if wants in ("int8", "bf16", "f16") and wants not in formats:
            why = f"under {ceiling}" if wants in native(seen.host.isa) else "on this processor"
            yield made(
                "no-vnni",
                0.3,
                f"{model.name} computes in {wants}, for which there are no instructions {why}",
                {"format": wants, "native": ", ".join(formats) or "f32 only"},
                "whet optimize on this host: an f32 plan may well be faster here",
                model.name,
            )


def smt(seen: Observation) -> Iterator[Diagnosis]:
    """Compute threads share the execution units of a core."""
    host = seen.host
    if host is None or host.threads_per_core < 2 or not any(not model.tuned_here for model in _judged(seen)):
        return
    planned = sum(worker.planned or 0 for worker in seen.workers)
    if host.physical < planned <= host.cores:
        yield made(
            "smt-contention",
            0.15,
            f"{planned} compute threads share {host.physical} physical cores: two on one get hardly more done",
            {"threads": planned, "physical": host.physical, "logical": host.cores},
            f"plan {host.physical} compute threads, and let the siblings serve the event loops",
        )


def batches(seen: Observation) -> Iterator[Diagnosis]:
    """Batches are too small for the load, or padded for want of a smaller size."""
    for model in _loaded(seen):
        if not model.batches:
            continue
        mean = model.batch_rows / model.batches
        most = model.plan.max_batch if model.plan else mean
        gains = model.batching_gain is None or model.batching_gain >= BATCH_GAIN
        evidence: dict[str, float | str] = {"mean_rows": mean, "max_batch": most, "padded": model.padded}
        if most < SMALL_BATCH and mean >= 0.9 * most and _used(seen, model) >= BUSY and gains and _queues(model):
            evidence["lanes_busy"] = _used(seen, model)
            said = f", which the search measured to be worth {model.batching_gain:.2f}x" if model.batching_gain else ""
            yield made(
                "too-small-batch",
                0.25 if model.batching_gain is None else 1 - 1 / model.batching_gain,
                f"{model.name}: samples wait while batches hold {mean:.1f} of at most {most:g}; they could be computed "
                f"together{said}",
                evidence,
                "allow larger batches (batch_sizes in the plan), or whet optimize --service batch",
                model.name,
            )
        share = model.padded / (model.padded + model.batch_rows) if model.padded else 0.0
        if share >= PADDED and _used(seen, model) >= BUSY / 2:
            yield made(
                "too-small-batch",
                share,
                f"{model.name}: {share:.0%} of what is computed is padding: batches hold {mean:.1f} samples",
                evidence | {"padded_share": share},
                "add smaller batch_sizes to the plan, or a batch window so that they fill",
                model.name,
            )


def connections(seen: Observation) -> Iterator[Diagnosis]:
    """Too few connections to spread over the workers: the kernel gives each connection to one worker for good."""
    count = len(seen.workers)
    total = sum(worker.cpu_s for worker in seen.workers)
    if count < 2 or not list(_loaded(seen)) or total < LOADED_CORES * seen.seconds:
        return
    busiest = max(seen.workers, key=lambda worker: worker.cpu_s)
    share = busiest.cpu_s / total
    opened = max(0, sum(worker.connections for worker in seen.workers) - 1)  # the doctor's own
    # Halfway between an even share and all of it.
    if share < (1 + 1 / count) / 2:
        return
    yield made(
        "few-connections",
        share - 1 / count,
        f"worker {busiest.index} does {share:.0%} of the work of {count} workers, over {opened} HTTP connection(s)",
        {"busiest_share": share, "workers": count, "http_connections": opened},
        f"open at least {4 * count} connections (channels that are not shared, in gRPC), or run fewer, wider workers",
    )


RULES: tuple[Rule, ...] = (
    quota, oversubscribed, remote_memory, queueing, transport, unfused, bandwidth, isa, smt, batches, connections,
)  # fmt: skip
"""Every rule; a new ailment is one function and its place here."""


def best_ceiling(host: HostSeen) -> str:
    """Return the highest of oneDNN's ceilings that the processor reaches, or empty."""
    reached = [name for name, flags in CEILINGS if all(flag in host.isa for flag in flags)]
    return reached[-1] if "avx2" in host.isa else ""


def under(isa: tuple[str, ...], ceiling: str) -> tuple[str, ...]:
    """Return the instruction sets left under one of oneDNN's ceilings; all without one."""
    if _rank(ceiling) < 0:
        return isa
    allowed = {flag for _, flags in CEILINGS[: _rank(ceiling) + 1] for flag in flags}
    known = {flag for _, flags in CEILINGS for flag in flags}
    return tuple(flag for flag in isa if flag in allowed or flag not in known)


def _rank(ceiling: str) -> int:
    names = [name for name, _ in CEILINGS]
    return names.index(ceiling) if ceiling in names else -1


def _loaded(seen: Observation) -> Iterator[ModelSeen]:
    return (model for model in seen.models if model.requests >= LEAST_REQUESTS and seen.seconds > 0)


def _judged(seen: Observation) -> Iterator[ModelSeen]:
    """Yield models whose plan may be judged: those under load, and all of a bundle."""
    return iter(seen.models) if seen.kind == "bundle" else _loaded(seen)


def _used(seen: Observation, model: ModelSeen) -> float:
    """Return the utilisation of a model's lanes, 0 to 1."""
    room = model.lanes * seen.seconds
    return min(model.busy_s / room, 1.0) if room else 0.0


def _queues(model: ModelSeen) -> bool:
    return model.queue_s >= model.compute_s / 2


def _waiting(worker: WorkerSeen) -> float | None:
    """Return the share of their running time that a worker's threads waited for a CPU."""
    if worker.waited_s is None or worker.cpu_s + worker.waited_s <= 0:
        return None
    return worker.waited_s / (worker.cpu_s + worker.waited_s)


def _demand(seen: Observation, worker: WorkerSeen) -> float:
    """Return the CPUs' worth of work a worker had to do."""
    return (worker.cpu_s + (worker.waited_s or 0.0)) / seen.seconds
