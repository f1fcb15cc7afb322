"""Bundles the benchmarks serve: the nets of ``models.py`` under a plan, and the runtime that computes nothing."""

from pathlib import Path
from typing import Any

from models import build_int8
from whet.host import read_host
from whet.models.artifact import Artifact, ImageInput, seal
from whet.models.bundle import PlanRecord, write_bundle
from whet.plan import Plan, Targets
from whet.tensors import TensorSpec

MEAN, SCALE = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CLASSES = {"resnet50": 1000, "mobilenetv2": 1001}
IMAGE_BYTES = 224 * 224 * 3


def net_artifact(net: str, store: Path, mean: tuple[float, ...] = MEAN) -> Artifact:
    """Seal the int8 net; pictures are taken as uint8 and converted in the graph. ``mean`` makes it another artifact."""
    model = build_int8(net)
    if net == "bert-base":
        inputs = tuple(TensorSpec(name, "INT64", (-1, 128)) for name in ("input_ids", "attention_mask"))
        output, images = TensorSpec("y", "FP32", (-1, 768)), ()
    else:
        inputs = (TensorSpec("x", "FP32", (-1, 3, 224, 224)),)
        output, images = (
            TensorSpec("y", "FP32", (-1, CLASSES[net])),
            (ImageInput("x", 224, 224, mean=mean, scale=SCALE),),
        )
    described = Artifact(
        model.parent, model.name, "ir", "", inputs, (output,), batched=True, precision="int8", images=images
    )
    return seal(described, [model, model.with_suffix(".bin")], store)


def net_bundle(net: str, out: Path, name: str = "net", mean: tuple[float, ...] = MEAN, **knobs: Any) -> Path:
    """Write a bundle of the int8 net under a plan with ``knobs``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return _write(out, name, net_artifact(net, out.parent / f".{out.name}.store", mean), knobs)


def fake_bundle(out: Path, name: str = "net", options: tuple[tuple[str, str], ...] = (), **knobs: Any) -> Path:
    """Write a bundle that takes 150 KB pictures and answers, at once or as ``options`` say, 1000 values of each."""
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.parent / f".{out.name}.model"
    file.write_text("fake")
    spec = TensorSpec("x", "UINT8", (-1, 224, 224, 3))
    output = TensorSpec("y", "FP32", (-1, 1000))
    described = Artifact(Path(), file.name, "fake", "", (spec,), (output,), batched=True)
    artifact = seal(described, [file], out.parent / f".{out.name}.store")
    return _write(out, name, artifact, {"runtime": "fake", "options": options, **knobs})


def _write(out: Path, name: str, artifact: Artifact, knobs: dict[str, Any]) -> Path:
    evidence = out.parent / f".{out.name}.evidence"
    evidence.mkdir(exist_ok=True)
    record = PlanRecord(Plan(artifact.sha256, **knobs), host=dict(read_host().fingerprint_fields))
    write_bundle(out, name, [record], {artifact.sha256: artifact}, Targets(), evidence)
    return out
