"""Where the numbers of a search come from: model, host, versions and data, as the evidence holds them."""

from typing import Any

from whet.optimize.state import State
from whet.optimize.values import plain


def versions(state: State) -> dict[str, str]:
    """Return versions of Whet and of the runtimes that were measured."""
    from importlib import metadata

    found = {"whet": metadata.version("whet")} if _installed("whet") else {}
    found |= {name: able.version for name, able in state.runtimes.items()}
    for name in ("numpy", "onnx", "nncf"):
        if _installed(name):
            found[name] = metadata.version(name)
    return found


def _installed(name: str) -> bool:
    from importlib import metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def model(state: State) -> dict[str, Any]:
    """Return what was searched."""
    artifact = state.artifact
    return {
        "name": state.request.name or state.request.model.stem,
        "path": str(state.request.model),
        "artifact": artifact.sha256,
        "format": artifact.format,
        "inputs": [plain(spec) for spec in artifact.service_inputs],
        "outputs": [plain(spec) for spec in artifact.outputs],
        "net_inputs": [plain(spec) for spec in artifact.inputs],
        "batched": artifact.batched,
        "precision": artifact.precision,
        "notes": list(artifact.notes),
        "lineage": [plain(step) for step in artifact.lineage],
    }


def host(state: State) -> dict[str, Any]:
    """Return where it was measured."""
    found = state.host
    return {
        "fingerprint": state.machine.fingerprint,
        **plain(state.machine.fingerprint_fields),
        "budget": plain(found.budget),
        "kernel": found.kernel,
        "virtual": plain(found.virtual),
        "load": plain(found.load),
        "notes": list(found.notes),
    }


def data(state: State) -> dict[str, Any]:
    """Return on which samples."""
    known = state.data
    return {
        "source": state.request.data,
        "words": known.dataset.words,
        "samples": len(known.dataset),
        "synthetic": known.dataset.synthetic,
        "calibration": len(known.split.calibration),
        "evaluation": len(known.evaluation) if known.evaluation is not None else 0,
        "grouped": known.split.grouped,
        "metric": known.metric.name if known.metric is not None else None,
        "formula": known.metric.formula if known.metric is not None else None,
        "max_drop": state.request.max_drop,
    }
