"""A bench document as rows of text, for a terminal. Pure."""

from collections.abc import Mapping
from typing import Any

Row = tuple[str, str]


def summary_rows(document: Mapping[str, Any]) -> list[Row]:
    """Return (what, how much) for the run as a whole."""
    result, request = document["result"], document["request"]
    answered = result["requests"]["answered"]
    rows = [
        ("model", f"{document['model']['name']} at {document['url']}"),
        ("scenario", _scenario(result, request["rows"])),
        ("requests", f"{answered} answered, {result['requests']['failed']} failed in {result['window_s']:.1f} s"),
        ("throughput", _per_second(result["throughput_per_s"])),
    ]
    rows += [(f"failed: {kind}", str(count)) for kind, count in result["errors"].items()]
    if result["client_cpu_share"] is not None:
        rows.append(("this client", f"used {result['client_cpu_share']:.0%} of a core"))
    late = result["late_ms"]
    if late and late["p99"]:
        rows.append(("sent late", f"p99 {late['p99']['value']:.2f} ms after the intended start"))
    if document["connections_opened"] is not None:
        rows.append(("connections", str(document["connections_opened"])))
    return rows


def latency_rows(document: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (percentile, latency, its 95 % interval, uncorrected latency); empty for offline, which has none.

    "Uncorrected" counts from when the request really left. In a closed loop both are the same.
    """
    result = document["result"]
    latency, service = result["latency_ms"], result["service_ms"]
    if latency is None:
        return []
    rows = []
    for name in ("p50", "p90", "p95", "p99"):
        found, raw = latency[name], service[name]
        if found is None:
            rows.append((name, "not enough data", f"{latency['count']} of {latency['needs'][name]} samples", ""))
        else:
            between = f"{found['low']:.2f} to {found['high']:.2f}"
            rows.append((name, f"{found['value']:.2f} ms", between, f"{raw['value']:.2f} ms" if raw else ""))
    if latency["mean"] is not None:
        rows.append(("mean", f"{latency['mean']:.2f} ms", "", f"{service['mean']:.2f} ms"))
        rows.append(("max", f"{latency['max']:.2f} ms", "", f"{service['max']:.2f} ms"))
    return rows


def _scenario(result: Mapping[str, Any], rows: int) -> str:
    per_request = "1 sample a request" if rows == 1 else f"{rows} samples a request"
    if result["open_loop"]:
        return f"{result['scenario']}: {result['offered_per_s']:g} requests/s, Poisson arrivals, {per_request}"
    callers = result["callers"]
    return f"{result['scenario']}: {callers} caller{'s' if callers != 1 else ''}, {per_request}"


def _per_second(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured: the window is empty"
    interval = "" if found["low"] is None else f" ({found['low']:.1f} to {found['high']:.1f})"
    return f"{found['value']:.1f} samples/s{interval}"
