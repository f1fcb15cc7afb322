"""Writes sample_result.json: made-up evidence in the shape of a search's, for tests of the reports.

Nothing in it was measured. Values are drawn from a fixed seed, so that running this again changes nothing.
"""

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np

rng = np.random.default_rng(2024)
PLACE = Path(__file__).parent / "sample_result.json"


def spread(value, relative=0.04):
    low, high = sorted(value * (1 + relative * rng.uniform(0.5, 1.2) * sign) for sign in (-1, 1))
    return {"value": round(value, 4), "low": round(low, 4), "high": round(high, 4)}


def latency(median_ms, count, tail=0.25):
    values = median_ms * rng.lognormal(0, tail, count) + rng.exponential(median_ms * 0.05, count)
    edges = np.geomspace(values.min(), values.max(), 41)
    edges[0], edges[-1] = values.min(), values.max()
    found = {"count": count, "mean": round(float(values.mean()), 4), "max": round(float(values.max()), 4)}
    for q, needed in ((50, 11), (90, 64), (95, 130), (99, 662)):
        enough = count >= needed
        found[f"p{q}"] = spread(float(np.percentile(values, q)), 0.03 if q < 99 else 0.09) if enough else None
    counts = np.histogram(values, edges)[0].tolist()
    return found | {"histogram": {"edges_ms": np.round(edges, 5).tolist(), "counts": counts}}


def trial(label, stage, runtime, precision, shape, rate, p50, **more):
    streams, threads, batch = shape
    plan = {
        "artifact": "5a" * 32 if "int8" in label else "f0" * 32, "runtime": runtime, "precision": precision,
        "streams": streams, "threads": threads, "batch_sizes": [1, batch] if batch > 1 else [1],
        "batch_window_ms": 2.0 if batch > 1 else 0.0, "workers": 1, "pinning": False,
    }  # fmt: skip
    known = {
        "plan": plan, "plan_id": hashlib.sha256(label.encode()).hexdigest()[:12], "artifact": plan["artifact"],
        "label": label, "stage": stage, "status": "ok", "reason": None, "throughput_per_s": spread(rate),
        "ratio_to_incumbent": spread(rate / 61.0, 0.03), "latency_ms": latency(p50, more.pop("count", 1800)),
        "rss_mb": round(150 + 20 * streams + 4 * batch + (30 if precision == "f32" else 0), 1),
        "load_ms": round(300 + 40 * streams, 1), "accuracy": None, "effective": {
            "precision": precision, "streams": streams, "threads": streams * threads,
            "raw": {"NUM_STREAMS": str(streams), "INFERENCE_PRECISION_HINT": precision}},
        "blocks": 8, "discarded": int(rng.integers(0, 3)),
        "counters": {"nr_throttled": 0, "steal_s": 0.04, "load_1m": 1.31, "others_share": 0.06},
    }  # fmt: skip
    return known | more


def accuracy(candidate, value, drop, verdict, items=1200, needs=None):
    return {
        "candidate": candidate, "metric": "top1", "formula": "share of items whose largest class is the label; "
        "higher is better", "parent": 0.9033, "value": value, "max_drop": 0.01, "items": items, "verdict": verdict,
        "drop": {"value": drop[0], "low": drop[1], "high": drop[2]}, "needs": needs, "lost": 11, "gained": 8,
        "snr_db": {"probs": 31.2},
        "per_class": [
            {"label": "motion blur", "items": 171, "parent": 0.8947, "value": 0.8713, "drop": 0.0234},
            {"label": "underexposed", "items": 169, "parent": 0.9231, "value": 0.9112, "drop": 0.0118},
            {"label": "blockiness", "items": 174, "parent": 0.8851, "value": 0.8793, "drop": 0.0057}],
        "worst": [{"index": 417, "parent": 1.0, "value": 0.0}, {"index": 733, "parent": 1.0, "value": 0.0}],
    }  # fmt: skip


def trials():
    found = []
    for runtime, name, scale in (("openvino", "openvino", 1.0), ("onnxruntime", "onnxruntime", 0.82)):
        for weights, precision, gain in (("f32", "f32", 1.0), ("bf16", "bf16", 1.34), ("int8+f32", "f32", 1.92)):
            if runtime == "onnxruntime" and weights == "bf16":
                continue
            for streams, threads in ((1, 1), (1, 2), (2, 1)):
                for batch in (1, 4, 8):
                    rate = 62 * scale * gain * {1: 0.54, 2: 1.0}[streams * threads] * (1 + 0.06 * (streams - 1))
                    rate *= {1: 1.0, 4: 1.12, 8: 1.15}[batch] * rng.lognormal(0, 0.02)
                    p50 = 1000 * streams * (1 + 0.62 * (batch - 1)) / rate * 1.25
                    label = f"{name} {weights} {streams}x{threads} b{batch}"
                    stage = "algorithm" if weights != "f32" else "application" if batch > 1 else "system"
                    found.append(trial(label, stage, runtime, precision, (streams, threads, batch), rate, p50))
    found.append(trial("openvino int8+bf16 2x1 b1", "algorithm", "openvino", "bf16", (2, 1, 1), 141.0, 15.1, count=420))
    failed = {"status": "failed", "reason": "crashed during 'block' (SIGSEGV): Illegal instruction",
              "throughput_per_s": None, "latency_ms": None, "ratio_to_incumbent": None}  # fmt: skip
    found.append(trial("onnxruntime bf16 2x1 b1", "algorithm", "onnxruntime", "bf16", (2, 1, 1), 1.0, 1.0) | failed)
    return found


def layers():
    kinds = (("Convolution", "i8"), ("Convolution", "i8"), ("GroupConvolution", "i8"), ("Add", "f32"),
             ("Reorder", "f32"), ("Convolution", "i8"), ("FullyConnected", "f32"))  # fmt: skip
    times = np.sort(rng.pareto(1.6, 31) * 0.05 + 0.02)[::-1]
    total = float(times.sum())
    return [
        {"name": f"features.{index // 3}/conv.{index % 3}/{kinds[index % 7][0]}", "type": kinds[index % 7][0],
         "precision": kinds[index % 7][1], "time_ms": round(float(time), 4), "share": round(float(time) / total, 4)}
        for index, time in enumerate(times)
    ]  # fmt: skip


def served(median_ms, rate):
    return {
        "scenario": "server", "open_loop": True, "offered_per_s": 110.0, "callers": None, "rows": 6600,
        "requests": {"sent": 6600, "answered": 6600, "failed": 0}, "errors": {}, "throughput_per_s": spread(rate, 0.01),
        "latency_ms": latency(median_ms, 6600), "service_ms": None, "late_ms": None, "warmup_s": 1.0, "window_s": 60.0,
        "wall_s": 61.1, "client_cpu_s": 5.5, "client_cpu_share": 0.09,
    }  # fmt: skip


def load(best, rate):
    runs = []
    for part, stretch, failed in ((0.85, 1.1, 0), (0.94, 1.6, 0), (0.99, 4.2, 3)):
        found = latency(best["latency_ms"]["mean"] * stretch * 0.85, 1400)
        runs.append({"qps": round(part * rate, 2), "achieved_per_s": spread(part * rate, 0.01), "failed": failed,
                     "latency_ms": found})  # fmt: skip
    return {"arrivals": "poisson", "highest_qps": runs[1]["qps"], "runs": runs}


def result():
    all_trials = trials()
    best = max((t for t in all_trials if t["status"] == "ok"
                and t["latency_ms"]["p99"] and t["latency_ms"]["p99"]["high"] <= 30),
               key=lambda t: t["throughput_per_s"]["value"])  # fmt: skip
    rate = best["throughput_per_s"]["value"]
    records = [
        accuracy("openvino int8+f32 (mixed preset)", 0.9008, (0.0025, -0.0049, 0.0091), "within the floor"),
        accuracy("openvino int8+f32 (performance preset)", 0.8842, (0.0192, 0.0098, 0.0287), "past the floor"),
        accuracy("openvino bf16", 0.9030, (0.0003, -0.0011, 0.0018), "within the floor"),
        accuracy("onnxruntime int8", 0.8980, (0.0053, -0.0031, 0.0138), "not enough data", 400, 2900),
    ]
    best["accuracy"] = records[0]
    base = {"ONNX Runtime f32 defaults": 38.4, "PyTorch eager defaults": 22.7, "OpenVINO f32 defaults": 64.9}
    details = {"ONNX Runtime f32 defaults": (8, 2), "PyTorch eager defaults": (8, 1), "OpenVINO f32 defaults": (1, 2)}
    baselines = [
        {"name": name, "what": "the model as it is, default session settings", "batch": details[name][0],
         "callers": details[name][1],
         "trial": trial(name, "system", "x", "f32", (1, 2, details[name][0]), value, 1000 * details[name][0] / value),
         "handicaps": ["lists its 244 initializers as inputs"] if "ONNX" in name else []}
        for name, value in base.items()
    ]  # fmt: skip
    values = [38.4, 47.1, 64.9, 68.2, 71.0, rate]
    steps = ["ONNX Runtime f32, defaults", "its threads set to the budget", "OpenVINO f32, latency defaults",
             "2 streams x 1 thread", "preprocessing fused into the graph", "int8 weights, f32 elsewhere"]  # fmt: skip
    levels = ["system", "system", "system", "system", "application", "algorithm"]
    gains = [None, *(spread(b / a, 0.02) for a, b in itertools.pairwise(values))]
    gains[4] = {"value": 1.041, "low": 0.987, "high": 1.096}
    return {
        "schema": 1,
        "model": {"name": "video-quality (synthetic sample)", "format": "onnx", "parameters": 2236106, "gflops": 0.61},
        "host": {"cpu": "Synthetic Xeon @ 2.80GHz", "budget": {"cores": 2, "reason": "affinity mask of 2 CPUs"},
                 "isa": ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"], "caches": "L2 2 x 2 MiB, L3 1 x 33 MiB",
                 "numa": "1 node", "quota": None, "fingerprint": "c0ffee123456"},
        "versions": {"whet": "0.1.0", "openvino": "2026.4.1", "onnxruntime": "1.31.1", "nncf": "3.4.0",
                     "python": "3.11.7"},
        "targets": {"p99_ms": 30.0, "max_drop": 0.01, "metric": "top1", "objective": "throughput", "min_qps": None},
        "service": {"kind": "online", "bound": "compute", "words": "Compute-bound: throughput doubles with the second "
                    "core and hardly changes with the batch. Latency matters, so streams come before batches."},
        "baselines": baselines,
        "trials": all_trials,
        "chosen": {"plan": best["plan"], "plan_id": best["plan_id"], "trial": best,
                   "label": best["label"], "accuracy": records[0], "load": load(best, rate),
                   "speedup": {"over": {name: spread(rate / value, 0.05) for name, value in base.items()}}},
        "accuracy": records,
        "ablation": [{"step": step, "level": level, "throughput_per_s": spread(value, 0.025), "gain": gained}
                     for step, level, value, gained in zip(steps, levels, values, gains, strict=True)],
        "pareto": [{"label": t["label"], "throughput_per_s": t["throughput_per_s"]["value"],
                    "latency_p99_ms": t["latency_ms"]["p99"]["value"] if t["latency_ms"]["p99"] else None,
                    "accuracy": 0.9008 if "int8" in t["label"] else 0.9033,
                    "chosen": t["plan_id"] == best["plan_id"]} for t in all_trials if t["status"] == "ok"],
        "layers": layers(),
        "roofline": {
            "peaks": [{"name": "f32", "value": 148.0, "low": 141.0, "high": 153.0, "best": 158.0, "how": "1024 x 1024 "
                       "matrix product, 2 cores"},
                      {"name": "int8", "value": 561.0, "low": 540.0, "high": 570.0, "best": 588.0, "how": "the same"}],
            "bandwidth": {"name": "memory", "value": 17.2, "low": 16.4, "high": 17.9, "best": 18.3, "how": "reading"},
            "achieved": [{"label": "chosen plan", "gflops": 87.0, "gbs": 4.1, "intensity": 21.2, "roof": "int8",
                          "share": 0.22},
                         {"label": "OpenVINO f32 defaults", "gflops": 40.2, "gbs": 3.2, "intensity": 12.6,
                          "roof": "f32", "share": 0.27}],
            "words": "The chosen plan computes 87 GFLOP/s, 22 % of what int8 kernels reach here on a large matrix "
                     "product. Depthwise convolutions use few of the multipliers, so most of it is out of reach."},
        "refused": [
            {"what": "float precision f16", "reason": "the CPU has no native f16: OpenVINO reads it back as bf16",
             "count": 24},
            {"what": "more than 2 compute threads", "reason": "the budget is 2 cores", "count": 61},
            {"what": "openvino int8 (performance preset)", "reason": "past the accuracy floor of 0.01: drop 0.0192 "
             "[0.0098, 0.0287] over 1200 items", "count": 9}],
        "advice": [
            {"words": "Two streams instead of one: more throughput at the same latency.",
             "counterfactual": {"ratio": 1.07, "paired": {"value": 1.06, "low": 1.02, "high": 1.11}, "plan_id": "0",
                                "label": "openvino int8+f32 1x2"}},
            {"words": "A batch of 8 would gain little here and costs latency.",
             "counterfactual": {"throughput": {"value": 1.15, "low": 1.11, "high": 1.19}, "p99_ms": 71.4}},
            {"words": "All cores are busy at the chosen plan's capacity; only more cores or a smaller net go further.",
             "counterfactual": None}],
        "noise": {"floor": {"value": 1.003, "low": 0.981, "high": 1.024}, "discarded_share": 0.11,
                  "measuring_cpu_share": 0.013},
        "data": {"words": "2400 made-up frames of 40 scenes"},
        "served": {"http": served(9.1, 109.6), "grpc": served(9.8, 109.1)},
        "wall_s": 173.2,
        "started": "2026-05-04T09:30:12+00:00",
    }  # fmt: skip


if __name__ == "__main__":
    PLACE.write_text(json.dumps(result(), indent=1) + "\n")
