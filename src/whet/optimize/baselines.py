"""What you run today: the model in its own framework, ONNX Runtime and OpenVINO, each with its default settings.

Each is taken at its best of batch {1, 8} x callers {1, 2}, on the file as the user has it; what handicaps that file is
named beside the number. Baselines are handed ready-made tensors: no decoding, no preprocessing and no postprocessing is
counted against them, though the tuned service does all of it.
"""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from whet.engine import available_runtimes
from whet.models.artifact import MANIFEST, Artifact, Lineage, seal
from whet.optimize.data import Dataset, Sample
from whet.optimize.lab import Case
from whet.optimize.pool import Pool, materialise, open_pool
from whet.optimize.state import Baseline, State
from whet.plan import Plan

BATCHES = (1, 8)
CALLERS = (1, 2)
TENSORFLOW = frozenset({"savedmodel", "tf-savedmodel", "tensorflow", "frozen", "tf_frozen", "saved_model"})
TORCH = frozenset({"torchscript", "pt2", "torch"})
OWN = {
    "tensorflow": ("TensorFlow defaults", "the SavedModel's signature, default settings"),
    "torch": ("PyTorch defaults", "the program as saved, default settings"),
}
"""Runtime -> name of its baseline, and how it is run."""


def define(state: State) -> list[Baseline]:
    """Return the baselines of this model, measured or with the reason why one is not."""
    wanted = state.request.runtimes
    found = [_own(state), _onnxruntime(state)]
    found += [_openvino(state, hint) for hint in ("throughput", "latency")]
    return [one for one in found if not wanted or not one.plans or one.plans[0].runtime in wanted]


def measure(state: State, seconds: float, tell: Callable[[str], None]) -> None:
    """Find the best of batch x callers of each baseline with one short block each."""
    known = {case.key for one in state.baselines for case in _cases(one) if state.past.take(case, state.record(case))}
    if not known:
        state.lab.ready([one.plans[0] for one in state.baselines if one.plans])
    for baseline in state.baselines:
        for plan in baseline.plans:
            tell(baseline.name)
            cases = _cases(baseline, plan)
            state.lab.round([case for case in cases if case.key not in known], 1, seconds)
            records = {case.key: state.record(case) for case in cases}
            ok = [record for record in records.values() if record.kept and not record.failure]
            if ok:
                baseline.tried = [record.case for record in ok]
                baseline.best = max(ok, key=lambda record: record.kept[-1].throughput_per_s).case
                break
            baseline.reason = next(iter(records.values())).failure or "no block could be kept"
        if baseline.best is not None:
            baseline.reason = ""


def _cases(baseline: Baseline, plan: Plan | None = None) -> list[Case]:
    """Return the loads a plan of a baseline is measured under; of all its plans where none is given."""
    plans = baseline.plans if plan is None else (plan,)
    return [Case(one, callers, rows) for one in plans for rows in one.batch_sizes for callers in CALLERS]


def _baseline(
    state: State, runtime: str, name: str, what: str, artifact: Artifact, options: dict[str, str]
) -> Baseline:
    if runtime not in available_runtimes():
        return Baseline(name, what, reason=f"{runtime} is not installed")
    state.lab.artifacts.setdefault(artifact.sha256, artifact)
    if artifact.service_inputs != state.artifact.service_inputs:
        state.lab.pools[artifact.sha256] = net_pool(state).folder
    plan = Plan(
        artifact=artifact.sha256,
        runtime=runtime,
        streams=max(CALLERS),  # lanes for as many callers; threads are the library's own choice
        options=tuple(sorted(options.items())),
    )
    sizes = [(1, 8), (1,)] if artifact.batched else [(1,)]
    plans = tuple(plan.with_(batch_sizes=one) for one in sizes)
    return Baseline(name, what, plans, handicaps=tuple(state.artifact.notes))


def _openvino(state: State, hint: str) -> Baseline:
    what = f"compile_model with PERFORMANCE_HINT={hint.upper()}, f32, nothing else; ready-made tensors"
    return _baseline(state, "openvino", f"OpenVINO f32 {hint.upper()} defaults", what, _bare(state), {"defaults": hint})


def _onnxruntime(state: State) -> Baseline:
    name, what = "ONNX Runtime f32 defaults", "InferenceSession with default options, ready-made tensors"
    original = _original_onnx(state)
    if original is not None:
        return _baseline(state, "onnxruntime", name, f"{what}, on the file as given", original, {"defaults": "1"})
    if state.artifact.format != "onnx":
        return Baseline(name, what, reason=f"the model has no ONNX form (it is {state.artifact.format})")
    return _baseline(state, "onnxruntime", name, f"{what}, on the imported model", _bare(state), {"defaults": "1"})


def _original_onnx(state: State) -> Artifact | None:
    """Return an artifact of the very file the user gave, where that is an ONNX file."""
    model = state.request.model
    if state.artifact.format != "onnx" or not model.is_file() or model.suffix.lower() != ".onnx":
        return None
    return as_given(replace(state.artifact, images=(), post=()), model, "onnx", state.store)


def as_given(artifact: Artifact, path: Path, kind: str, store: Path) -> Artifact:
    """Seal the user's own file as an artifact with the tensors, and the surroundings, of the imported one."""
    step = Lineage("as given", str(path), "none: the file as it is")
    described = replace(artifact, model=path.name, format=kind, lineage=(step,))
    files = (
        [path, *(one for one in path.parent.glob(f"{path.name}*data") if one.is_file())] if path.is_file() else [path]
    )
    return seal(described, files, store)


def _bare(state: State) -> Artifact:
    """Return the imported model without what is around the net."""
    if not state.artifact.images and not state.artifact.post:
        return state.artifact
    return seal(replace(state.artifact, images=(), post=()), _files(state.artifact), state.store)


def _files(artifact: Artifact) -> list[Path]:
    return [path for path in artifact.folder.iterdir() if path.name != MANIFEST]


def net_pool(state: State) -> Pool:
    """Return samples as the net takes them: what a baseline is handed."""
    folder = state.work / "net"
    if (folder / "pool.json").is_file():
        return open_pool(folder)
    from whet.models.around import apply_images

    pool, bare = state.data.measure, replace(state.artifact, images=(), post=())

    def read(index: int) -> Sample:
        found = apply_images(state.artifact, pool.rows(index, 1))
        return {name: array[0] if pool.batched else array for name, array in found.items()}

    dataset = Dataset("samples as the net takes them", len(pool), read, str)
    return materialise(dataset, range(len(pool)), bare, folder)


def own_framework(artifact: Artifact, model: Path) -> tuple[str, str] | None:
    """Return the runtime that made a model, and the format it opens the user's file as; None where none can."""
    said = artifact.lineage[0].settings if artifact.lineage else {}
    kind = str(said.get("format", ""))
    if kind in TENSORFLOW and model.is_dir():
        return "tensorflow", "savedmodel"
    if kind in TORCH or artifact.format in TORCH:
        script = "torchscript" in {kind, artifact.format} or said.get("kind") == "script"
        return "torch", "torchscript" if script else "pt2"
    return None


def _own(state: State) -> Baseline:
    """Return the model's own framework with default settings."""
    own = own_framework(state.artifact, state.request.model)
    if own is None:
        kind = str(state.artifact.lineage[0].settings.get("format", "")) if state.artifact.lineage else ""
        words = f"a model given as {kind or state.artifact.format} cannot be run by the framework it was made with"
        return Baseline("own framework defaults", "the framework the model was trained in", reason=words)
    runtime, kind = own
    name, what = OWN[runtime]
    if runtime not in available_runtimes():
        return Baseline(name, what, reason=f"{runtime} is not installed: pip install 'whet[{runtime}]' to compare")
    bare = replace(state.artifact, images=(), post=())
    return _baseline(
        state, runtime, name, what, as_given(bare, state.request.model, kind, state.store), {"defaults": "1"}
    )


def forget(state: State) -> None:
    """Remove what was only copied to be compared with."""
    state.lab.ready([one.plans[0] for one in state.baselines if one.plans])
    for baseline in state.baselines:
        for plan in baseline.plans:
            if plan.artifact != state.artifact.sha256:
                shutil.rmtree(state.store / plan.artifact, ignore_errors=True)
