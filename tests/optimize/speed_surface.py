"""A made-up but shaped surface of speeds over the real space of a two-core host: strategies are replayed on it."""

import math

import numpy as np

from whet.engine.base import Capabilities
from whet.optimize.space import Room, Space, Variant, build, simplicity
from whet.optimize.strategy import Candidate
from whet.plan import Targets

OPENVINO = Capabilities(
    formats=frozenset({"onnx", "ir"}),
    precisions=frozenset({"f32", "bf16"}),
    pinning=True,
    openmp=False,
    fuses_images=True,
    isa_ceilings=("AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"),
    options={},
    version="2026.4",
)
ONNXRUNTIME = Capabilities(
    formats=frozenset({"onnx"}),
    precisions=frozenset({"f32"}),
    pinning=False,
    openmp=False,
    fuses_images=False,
    isa_ceilings=(),
    options={"spinning": ("1", "0"), "graph": ("all", "extended")},
    version="1.31",
)
F32 = Variant("a" * 64, "f32", "onnx", images=True, precisions=("f32", "bf16"))
INT8 = Variant(
    "b" * 64, "int8", "ir", images=True, parent=False, int8=True, precisions=("f32", "bf16"), runtimes=("openvino",)
)


def space(cores: int = 2, targets: Targets | None = None) -> Space:
    room = Room(cores=cores, physical=cores)
    return build([F32, INT8], {"openvino": OPENVINO, "onnxruntime": ONNXRUNTIME}, room, targets or Targets())


def candidates(of: Space) -> list[Candidate]:
    """What a closed loop can tell apart: windows only matter when requests do not queue."""
    return [Candidate(plan.id, of.features(plan), simplicity(plan)) for plan in of.plans if not plan.batch_window_ms]


class Surface:
    """Log-speeds with main effects and interactions drawn per seed, and noise with a common mood per block."""

    def __init__(self, of: list[Candidate], seed: int, noise: float = 0.04, mood: float = 0.12) -> None:
        rng = np.random.default_rng(seed)
        self.noise, self.mood, self.seed = noise, mood, seed
        effects: dict[object, float] = {}

        def effect(key: object, size: float) -> float:
            if key not in effects:
                effects[key] = float(rng.normal(0, size))
            return effects[key]

        self.truth = {}
        for one in of:
            f = one.features
            total = sum(effect((axis, f[axis]), 0.12) for axis in ("streams", "threads", "batch", "precision"))
            total += effect(("variant", f["variant"]), 0.3) + effect(("runtime", f["runtime"]), 0.3)
            total += sum(
                effect((axis, f.get(axis)), 0.03) for axis in ("dynamic", "pinning", "fused", "spinning", "graph")
            )
            total += -0.4 * (("AVX2", "AVX512_CORE", "").index(str(f["isa"])) == 0) - 0.2 * (f["isa"] == "AVX512_CORE")
            total += effect(("sb", f["streams"], f["batch"]), 0.05) + effect(("vb", f["variant"], f["batch"]), 0.05)
            total += effect(("rv", f["runtime"], f["streams"]), 0.05) + effect(one.key, 0.015)
            self.truth[one.key] = total

    def score(self, key: str, block: int) -> float:
        mood = float(np.random.default_rng((self.seed, 1, block)).normal(0, self.mood))
        own = float(np.random.default_rng((self.seed, 2, block, int(key, 16) % 2**32)).normal(0, self.noise))
        return 100.0 * math.exp(self.truth[key] + mood + own)

    def regret(self, key: str) -> float:
        return 1.0 - math.exp(self.truth[key] - max(self.truth.values()))
