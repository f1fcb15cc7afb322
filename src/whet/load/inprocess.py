"""Load on an engine in this very process: what a trial drives."""

from collections.abc import Sequence
from typing import Any, Protocol

from whet.load.http import rows_of
from whet.tensors import Tensors


class Inferring(Protocol):
    """The one method of :class:`whet.engine.Engine` that load needs."""

    async def infer(self, inputs: Tensors) -> Any:
        """Answer one request."""
        ...


class EngineTarget:
    """Samples submitted to an engine on the running loop.

    Args:
        engine: open and warm.
        samples: requests to draw from, each with its batch axis.
    """

    in_process = True

    def __init__(self, engine: Inferring, samples: Sequence[Tensors]) -> None:
        self._engine = engine
        self._samples = samples
        self._rows = [rows_of(sample) for sample in samples]

    async def __call__(self, index: int) -> int:
        """Send sample ``index``; see :class:`whet.load.runner.Target`."""
        await self._engine.infer(self._samples[index])
        return self._rows[index]
