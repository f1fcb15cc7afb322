"""The shell: looks at a server twice, or reads a bundle, and returns an :class:`Observation`."""

import asyncio
import os
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from whet.doctor import local, scrape
from whet.doctor.observation import HostSeen, ModelSeen, Observation, WorkerSeen
from whet.errors import BundleError, UsageError, WhetError, WrongAnswer
from whet.host import Host, distance, read_counters, read_host
from whet.host.files import Tree, to_int
from whet.host.topology import ROOT
from whet.load.address import Address
from whet.load.http import HttpClient
from whet.models.artifact import Artifact, load_artifact
from whet.models.bundle import Bundle, PlanRecord, is_bundle, read_bundle
from whet.models.hosts import OTHERS, RESULT, evidence_folder, nearest
from whet.plan import Plan

INTERVAL_S = 5.0
TIMEOUT_S = 10.0
_USER_HZ_FIELDS = 7


def observe(subject: str, seconds: float = INTERVAL_S) -> Observation:
    """Observe a server (by URL or process id) or a bundle (by folder).

    Raises:
        UsageError: the subject is none of them, or ``seconds`` is not positive.
        Unreachable: nobody listens at the URL.
        BundleError: the bundle is damaged.
    """
    if seconds <= 0:
        raise UsageError(f"--interval is {seconds:g} s; it must be positive")
    if subject.isdecimal():
        found = local.by_pid(int(subject))
        return asyncio.run(_server(found.url, seconds, found))
    if "://" in subject:
        address = Address.parse(subject)
        if address.protocol != "http":
            raise UsageError(f"'{subject}': metrics are served over HTTP; give the server's http URL")
        here = local.by_port(address.port) if _is_local(address.host) else None
        return asyncio.run(_server(subject, seconds, here))
    folder = Path(subject)
    if not folder.exists():
        raise UsageError(f"'{subject}' is no URL, process id or folder; give http://HOST:PORT, a pid or a bundle")
    if not is_bundle(folder):
        raise BundleError(f"{folder} holds no bundle.json; give a bundle that whet optimize wrote")
    return of_bundle(read_bundle(folder), read_host())


async def _server(url: str, seconds: float, here: local.Found | None) -> Observation:
    client = HttpClient(replace(Address.parse(url), model="", version=""), timeout_s=TIMEOUT_S)
    try:
        pids = dict(here.workers) if here else {}
        waits = {index: local.waited(pid) for index, pid in pids.items()}
        own, busy = _own_cpu(here), _busy_s()
        began, before = time.monotonic(), await _scrape(client)
        await asyncio.sleep(seconds)
        after, lasted = await _scrape(client), time.monotonic() - began
    finally:
        await client.close()
    seen = Observation(
        subject=url,
        seconds=lasted,
        workers=scrape.workers(before, after),
        models=scrape.models(before, after),
        periods=_grown(before, after, "whet_cpu_periods_total"),
        throttled=_grown(before, after, "whet_cpu_throttled_periods_total"),
        throttled_s=after.total("whet_cpu_throttled_seconds_total") - before.total("whet_cpu_throttled_seconds_total"),
    )
    if here is None:
        return replace(seen, unseen=("its processes are not visible from here: plans, CPUs and memory are unknown",))
    others = None
    if own is not None and busy is not None and (now := _own_cpu(here)) is not None:
        others = max(0.0, (_busy_s() or 0.0) - busy - (now - own)) / lasted
    waited = {
        index: end - start
        for index, pid in pids.items()
        if (end := local.waited(pid)) is not None and (start := waits[index]) is not None and end >= start
    }
    return _with_processes(seen, here, waited, others)


async def _scrape(client: HttpClient) -> scrape.Scrape:
    reply = await client.request(client.head("GET", "/metrics"))
    if reply.status != 200:
        raise WrongAnswer(f"{client.address.url}/metrics answered {reply.status}; this is no Whet server")
    found = scrape.parse(reply.body.decode(errors="replace"))
    if "whet_info" not in found.samples:
        raise WrongAnswer(f"{client.address.url}/metrics holds none of Whet's metrics; this is another server")
    return found


def _grown(before: scrape.Scrape, after: scrape.Scrape, name: str) -> int:
    return max(0, int(after.total(name) - before.total(name)))


def _with_processes(
    seen: Observation, here: local.Found, waited: dict[int, float], others: float | None
) -> Observation:
    """Add what this machine tells of the workers, and what the supervisor tells of the plans."""
    looked = {index: local.look(pid) for index, pid in here.workers.items()}
    deployed = {str(one["name"]): one for one in here.models}
    planned = planned_threads(here.models) if here.models else None
    workers = tuple(
        replace(
            worker,
            cores=look.host.budget.cores,
            planned=planned,
            waited_s=waited.get(worker.index),
            remote=look.remote,
            ceiling=look.ceiling,
        )
        if (look := looked.get(worker.index)) is not None
        else worker
        for worker in seen.workers
    )
    host = read_host(pid=here.pid)
    models = tuple(
        _planned(model, deployed[model.name], host) if model.name in deployed else model for model in seen.models
    )
    return replace(
        seen, host=host_seen(host), workers=workers, models=models, others=others, unseen=(*seen.unseen, *here.unseen)
    )


def planned_threads(deployments: tuple[dict[str, Any], ...]) -> int:
    """Return the compute threads one worker may run at once: those behind a gate share its cores."""
    own = sum(_plan(one).compute_threads for one in deployments if not one.get("gate_cores"))
    gates = [int(one["gate_cores"]) for one in deployments if one.get("gate_cores")]
    shared = sum(_plan(one).compute_threads for one in deployments if one.get("gate_cores"))
    return own + min(shared, max(gates, default=0))


def _plan(deployment: dict[str, Any]) -> Plan:
    return msgspec.convert(deployment["plan"], Plan)


def _planned(model: ModelSeen, deployment: dict[str, Any], host: Host) -> ModelSeen:
    """Add the plan, the artifact, and what the bundle around it knows, to what a model did."""
    folder = Path(str(deployment["artifact"]))
    model = replace(model, plan=_plan(deployment), artifact=str(folder))
    try:
        model = _described(model, load_artifact(folder))
        bundle = folder.parent.parent
        return _tuned(model, read_bundle(bundle), host) if is_bundle(bundle) else model
    except WhetError:
        return model  # it was deleted or replaced after it was loaded: less is known, nothing is wrong with serving


def _described(model: ModelSeen, artifact: Artifact) -> ModelSeen:
    size = sum(path.stat().st_size for path in artifact.folder.rglob("*") if path.is_file())
    return replace(model, images=len(artifact.images), precision=artifact.precision, weight_bytes=size)


def _tuned(model: ModelSeen, bundle: Bundle, host: Host) -> ModelSeen:
    evidence = evidence_of(bundle, host)
    service = evidence.get("service") or {}
    plan = model.plan
    # Serving may narrow a plan or bound its queue; what was measured is the rest of it.
    mine = [record for record in bundle.plans if plan is not None and record.plan.artifact == plan.artifact]
    here = any(_found_here(record, host) for record in mine)
    gain, bound = service.get("batching_gain"), service.get("bound")
    return replace(
        model,
        tuned_here=here,
        batching_gain=float(gain) if isinstance(gain, int | float) else None,
        bound=bound if isinstance(bound, str) else "",
    )


def _found_here(record: PlanRecord, host: Host) -> bool:
    return bool(record.host) and bool(record.measured) and distance(host.fingerprint_fields, record.host) == 0


def evidence_of(bundle: Bundle, host: Host) -> dict[str, Any]:
    """Return this host's evidence in a bundle, else the newest; empty where there is none, or it cannot be read."""
    own = evidence_folder(bundle.folder) / OTHERS / host.fingerprint / RESULT
    path = own if own.is_file() else evidence_folder(bundle.folder) / RESULT
    try:
        document = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def of_bundle(bundle: Bundle, host: Host) -> Observation:
    """Return what a bundle tells: its plan against this host, and what was counted while it was measured."""
    record, _ = nearest(bundle, host.fingerprint_fields)
    plan, artifact = record.plan, bundle.artifacts[record.plan.artifact]
    evidence = evidence_of(bundle, host)
    model = _described(ModelSeen(bundle.name, plan=plan, artifact=str(artifact.folder.resolve())), artifact)
    counters = (((evidence.get("chosen") or {}).get("trial")) or {}).get("counters") or {}
    peak = ((evidence.get("roofline") or {}).get("bandwidth")) or {}
    return Observation(
        subject=str(bundle.folder),
        kind="bundle",
        host=host_seen(host),
        workers=(
            WorkerSeen(0, cores=host.budget.cores, planned=plan.compute_threads * plan.workers,
                       ceiling=plan.isa_ceiling or ""),
        ),
        models=(_tuned(model, bundle, host),),
        throttled_s=float(counters.get("throttled_ms") or 0.0) / 1e3,
        bandwidth_gbs=peak.get("value"),
        unseen=() if evidence else ("the bundle holds no evidence of a search",),
    )  # fmt: skip


def host_seen(host: Host) -> HostSeen:
    """Return what of a host matters to diagnoses."""
    return HostSeen(
        cores=host.budget.cores,
        physical=host.budget.physical,
        quota=host.budget.quota,
        threads_per_core=host.threads_per_core,
        nodes=len(host.nodes),
        isa=host.processor.isa,
    )


def _own_cpu(here: local.Found | None) -> float | None:
    return read_counters(here.pid).cpu_s if here else None


def _busy_s() -> float | None:
    """Return CPU seconds of the whole host spent on anything."""
    for line in Tree(ROOT).lines("proc/stat"):
        name, *words = line.split()
        if name == "cpu" and len(words) >= _USER_HZ_FIELDS:
            ticks = [to_int(word) or 0 for word in words]
            return (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / os.sysconf("SC_CLK_TCK")
    return None


def _is_local(host: str) -> bool:
    """Tell whether an address is one of this machine's: only such an address can be bound."""
    try:
        info = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        for family, kind, protocol, _, address in info:
            with socket.socket(family, kind, protocol) as sock:
                sock.bind((address[0], 0))
                return True
    except OSError:
        return False
    return False
