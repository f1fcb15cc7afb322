"""PyTorch, for TorchScript and exported programs: for models no other runtime takes, and for baselines.

Pickles are never opened: ``torch.jit.load`` and ``torch.export.load`` read archives of code and tensors.
"""

import logging
import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.engine.base import Capabilities
from whet.engine.environment import unmet
from whet.engine.legal import refuse_illegal
from whet.errors import MissingExtra, PlanRefused, RuntimeFailed
from whet.models.artifact import Artifact
from whet.plan import Effective, Plan
from whet.settings import environ
from whet.tensors import Array, TensorSpec

log = logging.getLogger("whet.engine")


class Torch:
    """The runtime; see :class:`whet.engine.base.Runtime`."""

    def __init__(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise MissingExtra("PyTorch", "torch") from error
        self.torch: Any = torch

    def capabilities(self) -> Capabilities:
        """See :class:`whet.engine.base.Runtime`."""
        return Capabilities(
            formats=frozenset({"torchscript", "pt2"}),
            precisions=frozenset({"f32", "bf16"}),
            pinning=False,
            openmp=True,
            fuses_images=False,
            isa_ceilings=(),
            options={
                "compile": ("none", "freeze"),
                "defaults": ("0", "1"),  # what is compared with, never searched
            },
            version=self.torch.__version__.split("+")[0],
        )

    def open(self, artifact: Artifact, plan: Plan, cache_dir: Path | None = None) -> "TorchSession":  # noqa: ARG002
        """See :class:`whet.engine.base.Runtime`."""
        refuse_illegal("PyTorch", self.capabilities(), artifact, plan)
        lacks = unmet(plan, environ()) if plan.openmp is not None else []
        if lacks:
            raise PlanRefused(f"plan needs another environment: {'; '.join(lacks)}; start the process with it")
        try:
            model = self._load(artifact, plan)
        except Exception as error:
            log.exception("PyTorch cannot open artifact %s", artifact.sha256[:12])
            raise RuntimeFailed("PyTorch cannot open this model; its words are in the log") from error
        return TorchSession(self.torch, model, artifact, plan)

    def _load(self, artifact: Artifact, plan: Plan) -> Any:
        torch = self.torch
        if artifact.format == "pt2":
            if plan.option("compile", "none") != "none":
                raise PlanRefused("PyTorch cannot freeze an exported program; leave option 'compile' at none")
            return torch.export.load(str(artifact.path)).module()
        with warnings.catch_warnings():  # PyTorch calls TorchScript old; files of it are still there to be served
            warnings.simplefilter("ignore", DeprecationWarning)
            model = torch.jit.load(str(artifact.path), map_location="cpu").eval()
            if plan.option("compile", "none") == "freeze":
                model = torch.jit.optimize_for_inference(torch.jit.freeze(model))
        return model


class TorchSession:
    """See :class:`whet.engine.base.Session`. One module, called from several lanes: its weights are only read."""

    def __init__(self, torch: Any, model: Any, artifact: Artifact, plan: Plan) -> None:
        self.torch = torch
        self.model = model
        self.inputs = artifact.inputs
        self.outputs = artifact.outputs
        self.post = artifact.post
        self.bf16 = plan.precision == "bf16"
        own = plan.option("defaults", "0") == "1"  # a baseline: the library's own choice
        self.threads = None if own else min(plan.threads, len(os.sched_getaffinity(0)))
        self._ready = threading.local()
        self.enter()
        made = torch.get_num_threads()
        streams = min(plan.streams, len(os.sched_getaffinity(0)))
        raw = {
            "num_threads": str(made),
            "interop_threads": str(torch.get_num_interop_threads()),
            "mkldnn": str(torch.backends.mkldnn.is_available()),
            "parallel": _parallel(torch),
        }
        cores = len(os.sched_getaffinity(0))
        self.effective = Effective(plan.precision, streams, min(streams * made, cores), raw)

    def enter(self) -> None:
        """Give the calling thread its number of compute threads: OpenMP keeps it by the thread that opens a region."""
        if self.threads is not None and not hasattr(self._ready, "done"):
            self.torch.set_num_threads(self.threads)
            self._ready.done = True

    def slot(self) -> "TorchSlot":
        """See :class:`whet.engine.base.Session`."""
        return TorchSlot(self)

    def close(self) -> None:
        """See :class:`whet.engine.base.Session`."""
        self.model = None


def _parallel(torch: Any) -> str:
    lines = torch.__config__.parallel_info().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if "ATen parallel backend" in line), "unknown")


class TorchSlot:
    """See :class:`whet.engine.base.Slot`."""

    def __init__(self, session: TorchSession) -> None:
        self._session = session
        self._dtypes = {spec.name: spec.dtype for spec in session.inputs}
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._arrays: dict[str, Array] = {}
        self._tensors: list[Any] = []
        self._results: Sequence[Any] = ()

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if shapes is not self._shapes:
            self._arrays = {name: np.zeros(shape, self._dtypes[name]) for name, shape in shapes.items()}
            self._tensors = [self._session.torch.from_numpy(self._arrays[spec.name]) for spec in self._session.inputs]
            self._shapes = shapes
        return self._arrays

    def run(self) -> None:
        """See :class:`whet.engine.base.Slot`."""
        session, torch = self._session, self._session.torch
        session.enter()
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=session.bf16):
            self._results = _flat(session.model(*self._tensors), session.outputs)

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        specs = self._session.outputs
        return {
            spec.name: _numpy(self._session.torch, result, spec)
            for spec, result in zip(specs, self._results, strict=True)
        }


def _flat(result: Any, specs: Sequence[TensorSpec]) -> Sequence[Any]:
    """Return the outputs in the order of ``specs``: models answer one tensor, a tuple, or a dict."""
    if isinstance(result, Mapping):
        by_name = {name: result[name] for name in (spec.name for spec in specs) if name in result}
        return list(by_name.values()) if len(by_name) == len(specs) else list(result.values())
    return list(result) if isinstance(result, list | tuple) else [result]


def _numpy(torch: Any, result: Any, spec: TensorSpec) -> Array:
    tensor = result.detach().contiguous()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    array: Array = tensor.numpy()
    return array.astype(spec.dtype, copy=False)
