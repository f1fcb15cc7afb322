"""What ``benchmarks/speedup.py`` says of the blocks it took: rows, ratios and tables. Pure."""

from collections.abc import Callable
from typing import Any

import numpy as np

from harness import Benchmark, Row
from speedup_nets import Net
from speedup_rounds import HINTS
from whet.stats import Interval, bootstrap

REACH_MEAN, REACH_BEST, REACH_HINT = 6.0, 12.0, 0.98


def median(values: list[float]) -> Interval:
    return bootstrap(np.asarray(values), np.median)


def faster(found: dict[str, Any], other: str) -> Interval:
    """Return Whet's throughput over another's, the median over rounds."""
    return median([a / b for a, b in zip(found["per_s"]["Whet"], found["per_s"][other], strict=True)])


def better_hint(found: dict[str, Any]) -> str:
    return max(HINTS, key=lambda name: float(np.median(found["per_s"][name])))


def mean_ratio(all_found: list[dict[str, Any]], other: Callable[[dict[str, Any]], str]) -> Interval:
    """Return the geometric mean of the nets' median ratios; rounds are drawn again within each net for its interval."""
    rng = np.random.default_rng(0)
    ratios = [np.array(one["per_s"]["Whet"]) / np.array(one["per_s"][other(one)]) for one in all_found]
    drawn = [np.median(rng.choice(each, (4000, len(each))), axis=1) for each in ratios]
    means = np.exp(np.mean(np.log(drawn), axis=0))
    value = float(np.exp(np.mean([np.log(np.median(each)) for each in ratios])))
    low, high = (float(np.quantile(means, q)) for q in (0.025, 0.975))
    return Interval(value, min(low, value), max(high, value))


def report(bench: Benchmark, net: Net, found: dict[str, Any]) -> None:
    """Add the rows of one net."""
    case = net.name if net.data is not None else f"{net.name} (speed only)"
    for name, blocks in found["per_s"].items():
        speed, late = median(blocks), median(found["p50_ms"][name])
        batch, callers = found["at"][name]
        how = f"{name}, batch {batch}" + (f", {callers} callers" if callers else ", own queue")
        bench.add(Row(case, how, speed.value, speed.low, speed.high, "/s"))
        bench.add(Row(case, f"{name}, p50 of batch 1", late.value, late.low, late.high, "ms", higher=False))
    for name in found["per_s"]:
        if name != "Whet":
            ratio = faster(found, name)
            bench.add(Row(case, f"Whet over {name}", ratio.value, ratio.low, ratio.high, "x"))
    hint = faster(found, better_hint(found))
    bench.add(Row(case, "lower bound over better hint", hint.low, None, None, "x", REACH_HINT))
    verdict = found["accuracy"]
    if verdict is not None:
        drop, floor = verdict["drop"], verdict["max_drop"]
        bench.add(Row(case, "drop of top-1, upper bound", drop["high"], None, None, "", floor, higher=False))


def verdict_of(net: Net, found: dict[str, Any]) -> str:
    if net.data is None:
        return "speed only"
    verdict = found["accuracy"]
    if verdict is None:
        return "f32: nothing to judge"
    drop = verdict["drop"]
    return (
        f"{verdict['verdict']} {verdict['max_drop']:g}: top-1 {verdict['parent']:.4f} -> {verdict['value']:.4f}, "
        f"drop at most {drop['high']:.4f} ({verdict['items']} items)"
    )


def table(all_found: dict[Net, dict[str, Any]]) -> str:
    """Return throughputs, latencies and ratios as two Markdown tables."""
    heads = ["own framework", "compiled / without oneDNN", "ONNX Runtime", "OpenVINO f32", *HINTS, "Whet"]
    fast = ["| net | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    slow = list(fast)
    ratios = [
        "| net | Whet's plan | over own framework | over OpenVINO's better hint | gate | taken (UTC) |",
        "|---|---|---|---|---|---|",
    ]
    for net, found in all_found.items():
        names = list(found["per_s"])
        columns = [*names[:2], "ONNX Runtime", "OpenVINO f32", *HINTS, "Whet"]
        for lines, values in ((fast, found["per_s"]), (slow, found["p50_ms"])):
            cells = [f"{np.median(values[one]):.3g}" if one in values else "no such file" for one in columns]
            lines.append(f"| {net.name} ({net.own}) | " + " | ".join(cells) + " |")
        own, hint = faster(found, names[0]), faster(found, better_hint(found))
        said = [f"{one.value:.2f}x [{one.low:.2f}, {one.high:.2f}]" for one in (own, hint)]
        which = better_hint(found).rpartition(" ")[2]
        taken = found["taken"][:16].replace("T", " ")
        cells = [net.name, found["plan"], said[0], f"{said[1]} {which}", verdict_of(net, found), taken]
        ratios.append("| " + " | ".join(cells) + " |")
    parts = ("Samples a second", fast), ("Median of one sample, ms", slow), ("Ratios of throughput", ratios)
    return "\n\n".join(f"{title}:\n\n" + "\n".join(lines) for title, lines in parts)


def conclude(bench: Benchmark, all_found: dict[Net, dict[str, Any]]) -> None:
    """Add what is said about all nets together, and print the tables."""
    listed = {net: found for net, found in all_found.items() if net.listed}
    own = {net.name: faster(found, next(iter(found["per_s"]))) for net, found in listed.items()}
    if listed:
        every = list(listed.values())
        mean = mean_ratio(every, lambda found: str(next(iter(found["per_s"]))))
        case = f"geometric mean of {len(every)} nets"
        bench.add(Row(case, "Whet over own framework", mean.value, mean.low, mean.high, "x", REACH_MEAN))
        hint = mean_ratio(every, better_hint)
        bench.add(Row(case, "Whet over OpenVINO's better hint", hint.value, hint.low, hint.high, "x"))
        best = max(own, key=lambda name: own[name].value)
        top = own[best]
        bench.add(Row(f"best: {best}", "Whet over own framework", top.value, top.low, top.high, "x", REACH_BEST))
    passed = [
        net.name for net, found in all_found.items() if (found["accuracy"] or {}).get("verdict") == "within the floor"
    ]
    bench.add(Row("nets that pass the gate on labels", ", ".join(passed) or "none", len(passed), None, None, "", 3))
    print("\n" + table(all_found))
