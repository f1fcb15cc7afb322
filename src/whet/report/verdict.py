"""The result of a search in one sentence, and its key figures."""

from typing import Any

from whet.report.model import Accuracy, Baseline, Estimate, Evidence, estimate
from whet.report.page import Figure, Tone
from whet.report.words import (
    distinguishable,
    given,
    interval,
    many,
    number,
    points,
    points_between,
    quantity,
    ratio,
    seconds,
)


def verdict(evidence: Evidence) -> str:
    """Return the result in one sentence: what serves, how much faster than what, and whether the targets are met."""
    chosen = evidence.chosen
    if chosen is None or chosen.trial is None:
        return _nothing(evidence)
    parts = [f"{chosen_label(evidence)} serves {quantity(chosen.trial.throughput_per_s, 'samples/s')}"]
    over = headline(evidence)
    if over is not None:
        parts[0] += ", " + _compared(*over)
    p99, at = judged_p99(evidence)
    bound = _target(evidence, "p99_ms")
    if p99 is not None:
        judged = f", {_against(p99, bound, 'ms')}" if bound is not None else ""
        parts.append(f"p99 is {number(p99.value)} ms{' ' + at if at else ''}{judged}")
    record = chosen_accuracy(evidence)
    if record is not None:
        parts.append(_accuracy(record))
    return "; ".join(parts) + "."


def figures(evidence: Evidence) -> tuple[Figure, ...]:
    """Return the four or five numbers a reader looks for first; those that were not measured are left out."""
    chosen = evidence.chosen
    trial = chosen.trial if chosen else None
    if trial is None:
        return ()
    tone: Tone
    found = [Figure("Throughput", quantity(trial.throughput_per_s, "/s"), interval(trial.throughput_per_s))]
    over = headline(evidence)
    if over is not None:
        name, speedup = over
        apart = distinguishable(speedup)
        tone = _tone(speedup.value > 1) if apart else ""  # what cannot be told apart is neither good nor bad
        found.append(Figure("Against " + name, ratio(speedup), interval(speedup), tone))
    p99, at = judged_p99(evidence)
    bound = _target(evidence, "p99_ms")
    if p99 is not None:
        note = "; ".join(filter(None, (at, interval(p99))))
        tone = "" if bound is None else "good" if p99.ends[1] <= bound else "bad" if p99.value > bound else ""
        said = f"{note}; target {given(bound)} ms" if bound is not None else note
        found.append(Figure("p99 latency", f"{number(p99.value)} ms", said.removeprefix("; "), tone))
    record = chosen_accuracy(evidence)
    drop = estimate(record.drop) if record else None
    if record is not None and drop is not None:
        within = {"within the floor": True, "past the floor": False}.get(record.verdict)
        found.append(Figure(f"Drop of {record.metric}", points(drop.value), points_between(drop), _tone(within)))
    memory = estimate(trial.rss_mb)
    if memory is not None:
        found.append(Figure("Memory", f"{number(memory.value)} MB", "resident, one worker"))
    return tuple(found)


def judged_p99(evidence: Evidence) -> tuple[Estimate | None, str]:
    """Return the chosen plan's p99 and in which load: under random arrivals where that was measured.

    Callers that wait for answers never see a queue, so a closed loop is the second choice and goes without words.
    """
    chosen = evidence.chosen
    run = chosen.load.judged if chosen and chosen.load else None
    if run is not None and run.latency_ms is not None and (found := estimate(run.latency_ms.p99)) is not None:
        return found, f"at {number(run.qps)} requests/s"
    return (chosen.trial.p99_ms if chosen and chosen.trial else None), ""


def headline(evidence: Evidence) -> tuple[str, Estimate] | None:
    """Return the fastest baseline and the ratio to it: the comparison that flatters least."""
    chosen = evidence.chosen
    if chosen is None or chosen.speedup is None:
        return None
    known = [(name, found) for name, raw in chosen.speedup.over.items() if (found := estimate(raw)) is not None]
    return min(known, key=lambda pair: pair[1].value, default=None)


def chosen_label(evidence: Evidence) -> str:
    """Return the chosen plan's name."""
    chosen = evidence.chosen
    if chosen is None:
        return ""
    trial = chosen.trial.label if chosen.trial else ""
    listed = next((each.label for each in evidence.trials if each.plan_id == chosen.plan_id), "")
    return chosen.label or trial or listed or f"plan {chosen.plan_id}"


def chosen_accuracy(evidence: Evidence) -> Accuracy | None:
    """Return the accuracy record of the chosen plan: its own, or the one of its artifact's candidate."""
    chosen = evidence.chosen
    if chosen is None:
        return None
    own = chosen.accuracy or (chosen.trial.accuracy if chosen.trial else None)
    if own is not None:
        return own
    return next((each.accuracy for each in evidence.trials if each.plan_id == chosen.plan_id and each.accuracy), None)


def best_baseline(evidence: Evidence) -> Baseline | None:
    """Return the baseline with the highest throughput."""
    known = [
        (rate.value, index) for index, each in enumerate(evidence.baselines) if each.trial and (rate := each.trial.rate)
    ]
    return evidence.baselines[max(known)[1]] if known else None


def summary_words(evidence: Evidence) -> str:
    """Return how the search went: trials, refusals, time."""
    parts = [many(len(evidence.measured), "plan") + " measured"]
    refused = sum(each.count for each in evidence.refused)
    failed = sum(each.status == "failed" for each in evidence.trials)
    parts += [f"{many(refused, 'combination')} refused"] if refused else []
    parts += [f"{many(failed, 'trial')} failed"] if failed else []
    parts += [seconds(evidence.wall_s)] if evidence.wall_s is not None else []
    return ", ".join(parts)


def _nothing(evidence: Evidence) -> str:
    asked = ", ".join(f"{name} {value}" for name, value in evidence.targets.items() if value not in (None, ""))
    measured = many(len(evidence.measured), "measured plan")
    return f"No plan was chosen: none of the {measured} reaches the targets{f' ({asked})' if asked else ''}."


def _compared(name: str, speedup: Estimate) -> str:
    apart = distinguishable(speedup)
    if apart is False:
        return f"which cannot be told apart here from {name} ({ratio(speedup)}, {interval(speedup)})"
    between = interval(speedup)
    return ratio(speedup) + (f" ({between})" if between else "") + f" the throughput of {name}"


def _against(found: Estimate, bound: float, unit: str) -> str:
    low, high = found.ends
    said = f"the target of {given(bound)} {unit}"
    if high <= bound:
        return f"within {said}"
    if low > bound:
        return f"past {said}"
    return f"too close to {said} to tell ({interval(found)})"


def _accuracy(record: Accuracy) -> str:
    drop = estimate(record.drop)
    if drop is None:
        return f"accuracy ({record.metric}): {record.verdict or 'not measured'}"
    most = f", at most {points(drop.ends[1])} with 95 % confidence" if drop.bounded else ""
    return f"{record.metric} drops by {points(drop.value)}{most}" + (f": {record.verdict}" if record.verdict else "")


def _target(evidence: Evidence, name: str) -> float | None:
    value: Any = evidence.targets.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _tone(good: bool | None) -> Tone:
    return "" if good is None else "good" if good else "bad"
