"""Puts diagnoses of how a server is asked to the test, by asking it both ways; its other clients wait meanwhile.

Requests are made up from the model's own description and sent by this process, in short closed-loop blocks in turn;
the ratio of paired blocks decides. What is compared is what a client gets, so the client's own work counts too.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from whet.doctor import paired
from whet.doctor.changes import in_flight
from whet.doctor.diagnosis import Diagnosis, Proof
from whet.doctor.observation import ModelSeen, Observation
from whet.doctor.paired import PAIRS, Block, in_turn
from whet.errors import RuntimeFailed, WhetError
from whet.load.address import Address
from whet.load.bench import model_metadata
from whet.load.http import HttpTarget, JsonTarget
from whet.load.messages import http_specs
from whet.load.runner import Scenario, run
from whet.load.samples import shapes_of, synthesise
from whet.tensors import Array

WARM_S = 0.1
TIMEOUT_S = 10.0
MOST_CALLERS = 16
"""Requests in flight at most, so that a full queue is not of the doctor's making."""
PER_WORKER = 4
"""Connections a worker from which on the kernel deals them out evenly enough; the remedy of ``few-connections``."""

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Ask:
    """Two ways to ask a model for the same samples.

    Attributes:
        what: the change, in words.
        callers: requests wanted at a time, on both sides.
        connections: as it is, and without the ailment.
        as_json: as it is: numbers written out; without the ailment they are raw.
    """

    what: str
    callers: int
    connections: tuple[int, int]
    as_json: bool


def prove_by_asking(
    seen: Observation, found: list[Diagnosis], progress: Progress = lambda _: None, *, pairs: int = PAIRS
) -> list[Diagnosis]:
    """Return the diagnoses, those of a running server that asking can show with their proof.

    Up to 16 requests are in flight, for ``2 * pairs`` blocks of half a second each.

    Args:
        seen: what they rest on.
        found: diagnoses.
        progress: told what is measured.
        pairs: blocks on each side, at least 2.
    """
    proven = []
    for each in found:
        model = _model(seen, each)
        ask = both_ways(each, seen, model) if seen.kind == "server" and model is not None else None
        if model is None or ask is None:
            proven.append(each)
            continue
        progress(f"{each.slug}, by asking the server: {ask.what}")
        proven.append(replace(each, proof=_measured(seen.subject, model.name, ask, pairs)))
    return proven


def both_ways(found: Diagnosis, seen: Observation, model: ModelSeen) -> Ask | None:
    """Return how to ask with and without an ailment, or None where asking makes no difference. Pure."""
    match found.slug:
        case "decode-dominates":
            callers = min(in_flight(seen, model), MOST_CALLERS)
            return Ask("raw tensors instead of JSON", callers, (callers, callers), as_json=True)
        case "few-connections":
            few, many = max(1, int(found.evidence["http_connections"])), PER_WORKER * len(seen.workers)
            if few >= many:
                return None
            callers = min(many, MOST_CALLERS)
            what = f"{callers} callers over a connection each instead of over {few}"
            return Ask(what, callers, (few, callers), as_json=False)
    return None


def _model(seen: Observation, found: Diagnosis) -> ModelSeen | None:
    """Return the model a diagnosis is about; the busiest where it is about the whole server."""
    named = [model for model in seen.models if model.name == found.model]
    return max(named or seen.models, key=lambda model: model.requests, default=None)


def _measured(url: str, model: str, ask: Ask, pairs: int) -> Proof:
    with asyncio.Runner() as runner:
        targets: list[HttpTarget] = []
        try:
            samples = runner.run(_samples(url, model))
            targets += _targets(url, model, ask, samples)
            ill, well = (_block(runner, target, ask.callers, len(samples)) for target in targets)
            return in_turn(ask.what, ill, well, pairs=pairs)
        except WhetError as error:
            return Proof(ask.what, None, None, None, 0, f"could not be measured: {error}")
        finally:
            for target in targets:
                runner.run(target.close())


async def _samples(url: str, model: str) -> list[dict[str, Array]]:
    specs = http_specs(await model_metadata(Address.parse(url).to(model), TIMEOUT_S))
    return synthesise(specs, shapes=shapes_of(specs))


def _targets(url: str, model: str, ask: Ask, samples: list[dict[str, Array]]) -> list[HttpTarget]:
    """Return the ill way and the well one."""
    server = Address.parse(url).to("").url
    kinds = (JsonTarget if ask.as_json else HttpTarget, HttpTarget)
    return [
        kind(server, model, samples, connections=connections, timeout_s=TIMEOUT_S)
        for kind, connections in zip(kinds, ask.connections, strict=True)
    ]


def _block(runner: asyncio.Runner, target: HttpTarget, callers: int, samples: int) -> Block:
    return lambda: runner.run(_speed(target, callers, samples))


async def _speed(target: HttpTarget, callers: int, samples: int) -> float:
    scenario = Scenario("closed", callers=callers, duration_s=paired.BLOCK_S, warmup_s=WARM_S)
    result = await run(target, scenario, samples=samples)
    if result.errors:
        failed = ", ".join(f"{slug} x{count}" for slug, count in result.errors.items())
        raise RuntimeFailed(f"the server refused or failed requests: {failed}")
    return result.steady_per_s or 0.0
