"""``whet optimize --revalidate BUNDLE``: does the bundle's plan hold on this host? In seconds, by measuring.

On a host the bundle does not know, the plan of the nearest one is carried over, its answers are compared with plain
f32's, and it is measured beside the plain f32 plan in interleaved blocks. What wins is filed under this host. On a host
the bundle knows, the plan's recorded ratio over plain f32 is measured again. Figures of another hour or host are never
compared, only ratios of one run.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.engine import available_runtimes
from whet.engine.base import Capabilities
from whet.engine.legal import refuse_illegal
from whet.engine.unmeasured import carry_over, plain_plan, site_of
from whet.errors import OutputError, PlanRefused, WhetError
from whet.host import read_host
from whet.models.artifact import Artifact
from whet.models.bundle import Bundle, PlanRecord, read_bundle
from whet.models.hosts import host_words, nearest
from whet.optimize import relook
from whet.optimize.answers import compare_answers, recorded, seeded, strays
from whet.optimize.floor import judged
from whet.optimize.lab import Lab
from whet.optimize.prepare import memory_of
from whet.optimize.probe import capabilities
from whet.optimize.relook import Look, RevalidateRequest
from whet.optimize.request import Outcome, Progress, silent
from whet.optimize.stages import load_of
from whet.optimize.trial import Bench
from whet.optimize.values import plain
from whet.optimize.verdicts import CARRIED, PLAIN, Standing, settle
from whet.plan import Plan

LEAST, MOST = 6, 24
"""Rounds: from six pairs on the interval of a ratio is a bootstrap's."""
BLOCK_S = 0.4
WIDE = "carried over, one stream a core"


def revalidate(request: RevalidateRequest, progress: Progress = silent) -> Outcome:
    """Measure a bundle's plan on this host and file what holds here under it.

    A bundle that cannot be written is left as it is; the result says so and holds the records all the same.

    Returns:
        Exit code 0: the plan holds here. 1: it does not; the message says what serves instead, or what is left of it.

    Raises:
        UsageError: no bundle, or too small a budget.
        BundleError: it is damaged.
        DataError: the samples do not fit, or the model takes inputs no seed can make.
        PlanRefused: not one plan can be measured here.
    """
    began = time.monotonic()
    request.check()
    with _opened(request, progress, began + request.budget_s) as look:
        _candidates(look)
        _same_answers(look)
        _measure(look)
        standing = _stand(look)
        found = relook.records(look, standing)
        why = relook.keep(look, found)
        said = standing.words + (f"; not kept: {why}" if why else "")
        result = relook.document(look, standing, found)
        result |= {"words": said, "why_not_kept": why, "wall_s": round(time.monotonic() - began, 3)}
    return Outcome(read_bundle(request.bundle), result, 0 if standing.holds else 1, said)


@contextmanager
def _opened(request: RevalidateRequest, progress: Progress, end: float) -> Iterator[Look]:
    host, bundle = read_host(), read_bundle(request.bundle)
    origin, away = nearest(bundle, host.fingerprint_fields)
    net = _net(bundle, origin)
    with tempfile.TemporaryDirectory(prefix="whet-revalidate-", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        shapes = known.shapes if (known := recorded(origin.measured)) is not None else {}
        pool = seeded(net, shapes, work / "seeded")
        room = host.limited(cores=bundle.targets.max_cores).budget
        bench = Bench(room.cpus, work, memory_of(host), max(15.0, request.budget_s))
        rng = random.Random(request.seed)  # noqa: S311  (the order of blocks is no secret)
        lab = Lab(bench, pool.folder, dict(bundle.artifacts), room.cores, rng)
        lab.narrow = bundle.targets.objective == "cores"
        try:
            yield Look(request, host, bundle, origin, away, net, lab, pool, work, end, progress)
        finally:
            lab.close()


def _net(bundle: Bundle, origin: PlanRecord) -> Artifact:
    """Return the f32 net: what the origin's host, else any host, compared with; the plan's own in an old bundle."""
    references = [one for one in bundle.plans if one.role == "reference"]
    own = [one for one in references if one.fingerprint == origin.fingerprint]
    return bundle.artifacts[(own or references or [origin])[0].plan.artifact]


def _candidates(look: Look) -> None:
    """Settle what competes: the plan as it fits this host, plain f32, and another shape where the shape had to change.

    Raises:
        PlanRefused: neither can run here.
    """
    look.tell("revalidate", f"from {host_words(look.origin.host)}")
    site, most = site_of(look.host), look.bundle.targets.max_cores
    fits = carry_over(look.origin.plan, look.origin.host, site, most) if look.away != 0 else None
    carried = fits.plan if fits is not None else look.origin.plan
    look.changes = fits.changes if fits is not None else ()
    base, fallback = plain_plan(look.net, min(site.physical, look.lab.cores))
    plans = {PLAIN: base, CARRIED: carried}
    if carried.compute_threads != look.origin.plan.compute_threads and carried.threads > 1:
        plans[WIDE] = carried.with_(streams=carried.compute_threads, threads=1, openmp=None)
    able = _able({plan.runtime for plan in plans.values()} | {fallback})
    if base.runtime not in able and fallback in able:
        plans[PLAIN] = base.with_(runtime=fallback)
    for label, plan in plans.items():
        try:
            if plan.runtime not in able:
                raise PlanRefused(
                    f"{plan.runtime} is not installed here, or does not work; `whet inspect` lists what is"
                )
            refuse_illegal(plan.runtime, able[plan.runtime], look.bundle.artifacts[plan.artifact], plan)
            if plan not in [case.plan for case in look.cases.values()]:
                look.cases[label] = load_of(look.bundle.targets, plan)
        except WhetError as error:
            look.refused[label] = str(error)
    look.lab.ready([case.plan for case in look.cases.values()])
    for label, case in list(look.cases.items()):
        if reason := look.lab.failure(case.plan):
            look.refused[label] = reason
            del look.cases[label]
    if PLAIN not in look.cases:
        raise PlanRefused(f"not even the plain f32 plan runs here: {look.refused[PLAIN]}; optimize on this host")


def _able(names: set[str]) -> dict[str, Capabilities]:
    """Return what those of ``names`` honour that are installed and work here; the fake runtime is always there."""
    usable = sorted(names & {*available_runtimes(), "fake"})
    return capabilities(usable, installed=usable)[0] if usable else {}


def _same_answers(look: Look) -> None:
    """Take out what answers otherwise than where it was proven: on data where it is given, else on seeded inputs."""
    plain_case = look.cases[PLAIN].plan
    for label, case in list(look.cases.items()):
        exact = case.plan.artifact == plain_case.artifact and case.plan.precision == "f32"
        if label == PLAIN:
            continue
        look.tell("answers", label)
        try:
            if look.request.data is not None and not exact:
                verdict = judged(look, look.request.data, plain_case, case.plan)
                look.answers = {"verdict": plain(verdict)}
                reason = "" if verdict.passes else str(verdict)
            else:
                found = compare_answers(look.lab, plain_case, case.plan, look.pool, look.work)
                there = recorded(look.origin.measured)
                look.answers = {"here": plain(found), "there": plain(there)}
                reason = strays(found, there, exact=exact)
                if not reason and not exact and there is None and look.away != 0:
                    reason = "what it answers was not recorded where it was proven: give --data to judge it here"
        except OutputError:
            raise
        except WhetError as error:
            reason = f"its answers could not be compared: {error}"
        if reason:
            look.refused[label] = reason
            del look.cases[label]


def _measure(look: Look) -> None:
    """Measure what is left in interleaved rounds, until plain f32 and the others are told apart or the time is up."""
    cases, rounds = list(look.cases.values()), 0
    while len(cases) > 1 and rounds < MOST:
        look.tell("measure", f"block {rounds + 1} of {len(cases)} plans, {MOST} at most")
        look.lab.round(cases, 1, BLOCK_S)
        rounds += 1
        ratios = [relook.ratio_of(look, label) for label in look.cases if label != PLAIN]
        decided = rounds >= LEAST and all(ratio is not None and ratio.excludes(1.0) for ratio in ratios)
        if decided or (rounds >= LEAST and look.left_s < len(cases) * BLOCK_S):
            return
    if len(cases) == 1:
        look.lab.round(cases, 2, BLOCK_S)


def _stand(look: Look) -> Standing:
    """Decide what serves here."""
    for label, case in list(look.cases.items()):
        if failure := look.lab.record(case).failure:
            look.refused[label] = failure
            del look.cases[label]
    if PLAIN not in look.cases:
        raise PlanRefused(f"the plain f32 plan failed while it was measured: {look.refused[PLAIN]}")
    ratios = {label: relook.ratio_of(look, label) for label in look.cases if label != PLAIN}
    same = look.cases[PLAIN].plan == _carried(look)
    before = look.origin.measured.get("over_f32") if look.away == 0 else None
    return settle(ratios, look.refused.get(CARRIED, ""), before, same=same)


def _carried(look: Look) -> Plan | None:
    case = look.cases.get(CARRIED)
    if case is not None:
        return case.plan
    return None if CARRIED in look.refused else look.cases[PLAIN].plan  # it was the plain plan itself
