"""How much is left: the chosen plan's layers and its place under this host's roofs, seen by a process of its own."""

from pathlib import Path

import msgspec

from whet.engine.layers import Layer, profile_layers
from whet.engine.peaks import compute_peaks
from whet.errors import WhetError
from whet.host import memory_read, read_host
from whet.models.artifact import load_artifact
from whet.models.inspect import inspect_model
from whet.optimize.look import in_child
from whet.optimize.pool import open_pool
from whet.optimize.profile_words import Order, Profile, Subject
from whet.optimize.state import State
from whet.plan import Plan

LEAST_S = 8.0
"""Peaks, two compilations and some runs take this long."""
FROM_BUDGET_S = 60.0
"""Searches of at least this budget keep :data:`LEAST_S` of it and always look; shorter ones do if time is left."""
MOST_S = 60.0
"""A process that takes longer has failed."""
RUNS = (3, 20)
"""Fewest and most runs of the net."""
RUNS_S = 1.0
"""Time the runs may take, about."""
BANDWIDTH_S = 0.5
"""Seconds of the memory measurement."""


def profile(state: State) -> None:
    """Look into the chosen plan; what could not be told goes to the refusals, with its reason."""
    case = state.chosen
    if case is None:
        return
    if state.clock.budget_s < FROM_BUDGET_S and state.clock.left_s < LEAST_S:
        state.refuse(
            "layers and roofline", f"the budget was spent; they take {LEAST_S:g} s: give a longer --budget to see them"
        )
        return
    state.say("profile", "layers and peaks")
    try:
        state.profile = answered(_order(state, case.plan), state.lab.bench.cpus)
    except WhetError as error:
        state.refuse("layers and roofline", str(error))
        return
    for words in state.profile.unseen:
        what, _, reason = words.partition(": ")
        state.refuse(what, reason)


def reserve_s(budget_s: float) -> float:
    """Return the seconds of a budget that are kept for looking inside the chosen plan."""
    return LEAST_S if budget_s >= FROM_BUDGET_S else 0.0


def answered(order: Order, cpus: tuple[int, ...]) -> Profile:
    """Return the answer to ``order``, found in a process of its own under the plan's environment, on ``cpus``.

    Raises:
        WhetError: it crashed, hung, or could not be started; says how.
    """
    asked = msgspec.json.encode(order, enc_hook=str)
    found = in_child(f"{__name__}:ask", asked, order.chosen.plan, cpus=cpus, seconds=MOST_S)
    return msgspec.json.decode(found, type=Profile)


def ask(question: bytes) -> bytes:
    """Answer an encoded :class:`Order`; runs in the child."""
    order = msgspec.json.decode(question, type=Order)
    unseen: list[str] = []
    layers = _layers(order.chosen, unseen)
    parent = _layers(order.parent, unseen) if order.parent is not None else []
    peaks, bandwidth = {}, None
    try:
        peaks = compute_peaks(order.cores)
        bandwidth = memory_read(read_host(), seconds=BANDWIDTH_S)
    except WhetError as error:
        unseen.append(f"peaks of this host: {error}")
    flops = {one.plan.artifact: count for one in (order.chosen, order.parent) if one and (count := _flops(order, one))}
    if order.parent is not None and (known := flops.get(order.parent.plan.artifact)):
        flops.setdefault(order.chosen.plan.artifact, known)  # compressing changes how it is computed, not what
    if not flops:
        unseen.append("arithmetic of the model: operators or shapes in it are not known; see whet inspect")
    return msgspec.json.encode(Profile(layers, parent, flops, peaks, bandwidth, unseen))


def _layers(subject: Subject, unseen: list[str]) -> list[Layer]:
    try:
        return profile_layers(load_artifact(Path(subject.artifact)), subject.plan, subject.runs)
    except WhetError as error:
        unseen.append(f"times of layers: {error}")
        return []


def _flops(order: Order, subject: Subject) -> float | None:
    """Return two a multiply-add, where there is one: what quantizing adds around them is no work of the model's."""
    try:
        card = inspect_model(load_artifact(Path(subject.artifact)), order.shapes)
    except WhetError:
        return None
    return None if card.macs is None else float(2 * card.macs or card.flops or 0)


def uncompressed(state: State, plan: Plan) -> Plan:
    """Return the same knobs over what the plan's artifact was compressed from, in f32; for an f32 plan itself."""
    steps = state.lab.artifacts[plan.artifact].lineage
    source = steps[-1].source if steps and steps[-1].action == "compress" else plan.artifact
    return plan.with_(artifact=source if source in state.lab.artifacts else plan.artifact, precision="f32")


def _order(state: State, plan: Plan) -> Order:
    parent = uncompressed(state, plan)
    same = parent.id == plan.id
    pool = open_pool(state.data.measure.folder)
    shapes = {name: tuple(array.shape) for name, array in pool.rows(0, 1).items()}
    return Order(
        chosen=_subject(state, plan),
        parent=None if same else _subject(state, parent),
        cores=state.host.budget.physical,
        shapes={spec.name: shapes[spec.name] for spec in state.artifact.inputs if spec.name in shapes},
    )


def _subject(state: State, plan: Plan) -> Subject:
    ready = next((one.ready for one in state.lab.records.values() if one.case.plan.id == plan.id and one.ready), None)
    known = ready.service_ms.get(plan.max_batch) if ready is not None else None
    fewest, most = RUNS
    runs = most if not known else max(fewest, min(most, int(1e3 * RUNS_S / known)))
    return Subject(str(state.lab.artifacts[plan.artifact].folder), plan, runs)
