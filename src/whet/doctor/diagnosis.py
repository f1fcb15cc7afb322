"""A diagnosis: what is wrong, what it costs, what to do, and whether that was put to the test."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["severe", "marked", "slight"]
Measure = Literal["throughput", "latency"]


@dataclass(frozen=True, slots=True)
class Proof:
    """A diagnosis put to the test: the same work without the ailment, measured in turn with the work as it is.

    Attributes:
        what: the change.
        value: speed without the ailment over speed with it, median of paired blocks; low and high bound it at 95 %.
        low: lower end.
        high: upper end.
        pairs: blocks on each side.
        verdict: ``confirmed``, ``refuted``, ``cannot tell apart`` or why it could not be measured.
        measure: whose rate the value compares: samples answered a second, or how soon an answer comes.
    """

    what: str
    value: float | None
    low: float | None
    high: float | None
    pairs: int
    verdict: str
    measure: Measure = "throughput"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One ailment.

    Attributes:
        slug: its stable name.
        severity: ``severe`` (half or more is lost), ``marked`` (a fifth), ``slight``.
        cost: estimated share of time or capacity lost, 0 to 1; ranks diagnoses.
        words: what is wrong, with the numbers.
        evidence: the numbers.
        remedy: what to do.
        model: the model concerned, or empty.
        proof: the measured counterfactual, or None.
    """

    slug: str
    severity: Severity
    cost: float
    words: str
    evidence: dict[str, float | str]
    remedy: str
    model: str = ""
    proof: Proof | None = None


def made(
    slug: str, cost: float, words: str, evidence: dict[str, float | str], remedy: str, model: str = ""
) -> Diagnosis:
    """Return a diagnosis; its severity follows from ``cost``, which is cut to 0..1."""
    cost = round(min(max(cost, 0.0), 1.0), 4)
    severity: Severity = "severe" if cost >= 0.5 else "marked" if cost >= 0.2 else "slight"
    return Diagnosis(slug, severity, cost, words, evidence, remedy, model)
