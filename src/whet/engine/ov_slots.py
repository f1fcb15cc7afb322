"""Places of an OpenVINO session: inputs in memory of ours, computed by a lane's thread or by OpenVINO's own."""

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.tensors import Array

if TYPE_CHECKING:
    from whet.engine.ov import OpenVINOSession

SHAPES_KEPT = 16
"""Input shapes whose arrays a slot keeps, where shapes vary."""
_own = threading.local()


class OpenVINOSlot:
    """See :class:`whet.engine.base.Slot`. One infer request per compiled size, its inputs over arrays of ours."""

    def __init__(self, session: "OpenVINOSession") -> None:
        self._session = session
        self._requests: dict[int | None, Any] = {}
        self._arrays: dict[tuple[tuple[int, ...], ...], dict[str, Array]] = {}
        self._shapes: Mapping[str, tuple[int, ...]] | None = None
        self._current: dict[str, Array] = {}
        self._request: Any = None
        self._results: Any = ()

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if shapes is self._shapes:
            return self._current
        session = self._session
        size = None if None in session.compiled else next(iter(shapes.values()))[0]
        request = self._requests.get(size)
        if request is None:
            request = self._requests[size] = self._create(size)
        key = tuple(shapes.values())
        arrays = self._arrays.get(key)
        if arrays is None:
            if len(self._arrays) >= SHAPES_KEPT:
                del self._arrays[next(iter(self._arrays))]
            dtypes = {spec.name: spec.dtype for spec in session.inputs}
            arrays = self._arrays[key] = {name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()}
        for name, array in arrays.items():
            request.set_tensor(name, session.ov.Tensor(array, shared_memory=True))
        self._request, self._shapes, self._current = request, shapes, arrays
        return arrays

    def run(self) -> None:
        """See :class:`whet.engine.base.Slot`. A failure raises here; in OpenVINO's callbacks it would be lost."""
        self._session.refuse_misfit(self._current)
        self._results = self._session.infer(self._request, {}, share_outputs=True, decode_strings=False)

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        return dict(zip(self._session.names, self._results.values(), strict=True))

    def _create(self, size: int | None) -> Any:
        return self._session.compiled[size].create_infer_request()


class StartedSlot(OpenVINOSlot):
    """See :class:`whet.engine.base.SelfRunning`. OpenVINO computes on its stream threads anyway: they report here."""

    def __init__(self, session: "OpenVINOSession") -> None:
        super().__init__(session)
        self._done: Callable[[], None] | None = None
        self._started = False

    def prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if self._started:  # it has reported, but its thread may be a moment away from letting go of it
            with contextlib.suppress(RuntimeError):  # what the run raised, ``over`` has told
                self._request.wait()
            self._started = False
        return super().prepare(shapes)

    def start(self, done: Callable[[], None]) -> None:
        """See :class:`whet.engine.base.SelfRunning`."""
        self._done, self._started, self._results = done, True, None
        self._session.start(self._request, {}, None)

    def over(self) -> bool:
        """See :class:`whet.engine.base.SelfRunning`. OpenVINO does not call back when a run fails: this tells."""
        return not self._started or bool(self._request.wait_for(0))

    def outputs(self) -> Mapping[str, Array]:
        """See :class:`whet.engine.base.Slot`."""
        if self._results is not None:
            return super().outputs()
        return {name: self._request.get_output_tensor(index).data for index, name in enumerate(self._session.names)}

    def _create(self, size: int | None) -> Any:
        request, told = super()._create(size), weakref.WeakMethod(self._report)  # nobody collects what OpenVINO holds

        def report(_: object) -> None:
            _stay()
            tell = told()
            if tell is not None:
                tell()

        request.set_callback(report, None)
        return request

    def _report(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done()


def _stay() -> None:
    """Let the calling thread of OpenVINO's keep its Python thread state, once and for all.

    It would be made for every callback and deleted after it, with a stack that is mapped and unmapped: 20 to 35 us.
    """
    if not hasattr(_own, "stays"):
        ctypes.pythonapi.PyGILState_Ensure()  # never released: the state lives as long as the process
        _own.stays = True
