"""Prometheus text, and what grew between two scrapes of a server's metrics. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from whet.doctor.observation import ModelSeen, WorkerSeen
from whet.errors import WrongAnswer

Labels = frozenset[tuple[str, str]]
_LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)(?: -?\d+)?")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)",?')
_ESCAPED = {r"\n": "\n", r"\"": '"', r"\\": "\\"}


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape.

    Attributes:
        samples: family -> labels -> value.
    """

    samples: Mapping[str, Mapping[Labels, float]]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of a family's samples that have the labels."""
        wanted = frozenset(labels.items())
        return sum(value for has, value in self.samples.get(name, {}).items() if wanted <= has)

    def values(self, name: str, label: str) -> dict[str, float]:
        """Return a family's values by one of its labels, summed over the others."""
        found: dict[str, float] = {}
        for has, value in self.samples.get(name, {}).items():
            key = dict(has).get(label, "")
            found[key] = found.get(key, 0.0) + value
        return found


def parse(text: str) -> Scrape:
    """Read Prometheus text.

    Raises:
        WrongAnswer: a line is no sample.
    """
    samples: dict[str, dict[Labels, float]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        try:
            name, labels, value = found.groups() if found else ("", "", "")
            samples.setdefault(name, {})[_labels(labels or "")] = float(value)
        except ValueError:
            raise WrongAnswer(f"the server's metrics hold a line that is no sample: '{line[:80]}'") from None
    return Scrape(samples)


def _labels(text: str) -> Labels:
    return frozenset(
        (name, re.sub(r"\\.", lambda found: _ESCAPED.get(found[0], found[0]), value))
        for name, value in _LABEL.findall(text)
    )


def models(before: Scrape, after: Scrape) -> tuple[ModelSeen, ...]:
    """Return what each version of a model did between two scrapes."""
    keys = sorted({(dict(has)["model"], dict(has)["version"]) for has in after.samples.get("whet_lanes", {})})
    return tuple(_model(before, after, name, version) for name, version in keys)


def _model(before: Scrape, after: Scrape, name: str, version: str) -> ModelSeen:
    def grown(metric: str, **labels: str) -> float:
        labels |= {"model": name, "version": version}
        # A worker that died takes its gauges along; what it had counted stays, so nothing shrinks for long.
        return max(0.0, after.total(metric, **labels) - before.total(metric, **labels))

    def refused() -> dict[str, int]:
        reasons = after.values("whet_refused_total", "reason")
        return {reason: count for reason in reasons if (count := int(grown("whet_refused_total", reason=reason)))}

    return ModelSeen(
        name=name,
        requests=int(grown("whet_requests_total", code="ok")),
        rows=int(grown("whet_samples_total")),
        refused=refused(),
        decode_s=grown("whet_decode_seconds_sum"),
        queue_s=grown("whet_queue_seconds_sum"),
        compute_s=grown("whet_compute_seconds_sum"),
        encode_s=grown("whet_encode_seconds_sum"),
        batches=int(grown("whet_batch_rows_count")),
        batch_rows=int(grown("whet_batch_rows_sum")),
        padded=int(grown("whet_padded_rows_total")),
        lanes=int(after.total("whet_lanes", model=name, version=version)),
        busy_s=grown("whet_lane_busy_seconds_total"),
    )


def workers(before: Scrape, after: Scrape) -> tuple[WorkerSeen, ...]:
    """Return what each worker did between two scrapes; one that was started between them counts from zero."""
    start, end = (scrape.values("whet_process_cpu_seconds_total", "worker") for scrape in (before, after))
    opened = after.values("whet_http_connections", "worker")
    return tuple(
        WorkerSeen(int(name), max(0.0, used - start.get(name, 0.0)), int(opened.get(name, 0)))
        for name, used in sorted(end.items(), key=lambda item: int(item[0]))
    )
