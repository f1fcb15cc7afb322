"""How a batch should reach a runtime and its answer the loop: lanes of our own, or the runtime's own callbacks.

One process, one compiled net (MobileNetV2 int8 in OpenVINO, f32 in ONNX Runtime), one event loop (uvloop) that keeps
every place busy: it copies a picture in, starts, and copies the answer out when told. Blocks of the compared ways
alternate in random order. `docs/decisions/0002-lanes.md` tells what follows from the figures.

* lanes: threads that call the runtime and return; one place more than lanes is prepared ahead (what the engine does).
* lanes, none ahead: the same with as many places as lanes.
* callbacks: the runtime's own asynchronous call with one request more in flight than streams.

    .venv/bin/python benchmarks/lanes.py [--quick] [--json FILE] [--only WORD ...]
"""

import asyncio
import collections
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from bundles import net_artifact
from harness import Benchmark, Row, benchmark, paired, ratio
from models import build_onnx
from whet.engine import load_runtime
from whet.engine.lanes import Place, ThreadLanes
from whet.models.artifact import Artifact, ImageInput, seal
from whet.models.fuse import fuse_onnx
from whet.plan import Plan
from whet.tensors import TensorSpec

SWITCH_S = 0.0005


class Drive:
    """Keeps ``places`` busy for some time on one loop; counts what came back."""

    def __init__(self, places: int) -> None:
        self.places, self.done, self.live = places, 0, 0

    async def run(self, seconds: float, start: Callable[[int], None]) -> float:
        self.loop = asyncio.get_running_loop()
        self.idle: asyncio.Future[None] = self.loop.create_future()
        self.start, self.done, self.live = start, 0, self.places
        began = time.perf_counter()
        self.end = began + seconds
        for place in range(self.places):
            start(place)
        await self.idle
        return self.done / (time.perf_counter() - began)

    def finished(self, place: int) -> None:
        self.done += 1
        if time.perf_counter() < self.end:
            self.start(place)
            return
        self.live -= 1
        if not self.live:
            self.idle.set_result(None)


class Mailbox:
    """What callbacks of a runtime's threads post to: one wake-up a burst, as the lanes do it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finished: Callable[[int], None]) -> None:
        self.loop, self.finished = loop, finished
        self.posts: collections.deque[int] = collections.deque()
        self.woken = False

    def post(self, place: int) -> None:
        self.posts.append(place)
        if not self.woken:
            self.woken = True
            self.loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        self.woken = False
        while self.posts:
            self.finished(self.posts.popleft())


class Ways:
    """The compared ways over one session."""

    def __init__(self, session: Any, streams: int, batch: int, model: bytes = b"") -> None:
        self.session, self.streams, self.batch, self.model = session, streams, batch, model
        self.pooled: Any = None
        spec = session.inputs[0]
        self.name, self.shapes = spec.name, {spec.name: spec.with_batch(batch)}
        rng = np.random.default_rng(0)
        self.picture = rng.integers(1, 255, spec.with_batch(batch)).astype(spec.dtype)

    def lanes(self, seconds: float, ahead: int = 1) -> float:
        return uvloop.run(self._lanes(seconds, ahead)) * self.batch

    async def _lanes(self, seconds: float, ahead: int) -> float:
        places = [Place(self.session.slot()) for _ in range(self.streams + ahead)]
        index = {id(place): number for number, place in enumerate(places)}
        drive = Drive(len(places))
        loop = asyncio.get_running_loop()

        def collect() -> None:
            for place in lanes.finished():
                if place.error is not None:
                    raise place.error
                for array in place.slot.outputs().values():
                    array.copy()
                drive.finished(index[id(place)])

        def start(number: int) -> None:
            places[number].slot.prepare(self.shapes)[self.name][...] = self.picture
            lanes.start(places[number])

        lanes = ThreadLanes(self.streams, lambda: loop.call_soon_threadsafe(collect), "bench")
        try:
            return await drive.run(seconds, start)
        finally:
            lanes.close()

    def callbacks(self, seconds: float, ahead: int = 1) -> float:
        way = self._openvino if hasattr(self.session, "compiled") else self._onnxruntime
        return uvloop.run(way(seconds, self.streams + ahead)) * self.batch

    async def _openvino(self, seconds: float, places: int) -> float:
        import openvino as ov

        compiled = self.session.compiled[self.batch]
        requests = [compiled.create_infer_request() for _ in range(places)]
        arrays = [np.zeros_like(self.picture) for _ in requests]
        drive = Drive(places)

        def finished(number: int) -> None:
            requests[number].get_output_tensor().data.copy()
            drive.finished(number)

        box = Mailbox(asyncio.get_running_loop(), finished)
        for number, (request, array) in enumerate(zip(requests, arrays, strict=True)):
            request.set_input_tensor(ov.Tensor(array, shared_memory=True))
            request.set_callback(box.post, number)

        def start(number: int) -> None:
            arrays[number][...] = self.picture
            requests[number].start_async()

        return await drive.run(seconds, start)

    async def _onnxruntime(self, seconds: float, places: int) -> float:
        """``run_async`` needs a pool to run on, and the calling thread computes nothing: a session with that pool."""
        session = self._pooled()
        arrays = [np.zeros_like(self.picture) for _ in range(places)]
        drive = Drive(places)
        box = Mailbox(asyncio.get_running_loop(), drive.finished)

        def done(outputs: Any, number: int, error: str) -> None:
            if error:
                raise RuntimeError(error)
            outputs[0].copy()
            box.post(number)

        def start(number: int) -> None:
            arrays[number][...] = self.picture
            session.run_async(self.session.names, {self.name: arrays[number]}, done, number)

        return await drive.run(seconds, start)

    def _pooled(self) -> Any:
        if self.pooled is None:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = self.streams + 1, 1
            self.pooled = onnxruntime.InferenceSession(self.model, options, providers=["CPUExecutionProvider"])
        return self.pooled

    def raw(self, seconds: float) -> float:
        """The runtime without a loop: threads (one a stream) that run the same slots again and again."""
        counts = []

        def work() -> None:
            slot = self.session.slot()
            slot.prepare(self.shapes)[self.name][...] = self.picture
            count, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                slot.run()
                count += 1
            counts.append(count / seconds)

        threads = [threading.Thread(target=work) for _ in range(self.streams)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) * self.batch

    def busy_loop(self, way: Callable[[float], float], seconds: float) -> float:
        """The same while another thread holds the GIL for 3 ms of every 10, as parsing JSON does."""
        stop = threading.Event()

        def hog() -> None:
            while not stop.wait(0.007):
                end = time.perf_counter() + 0.003
                while time.perf_counter() < end:
                    pass

        thread = threading.Thread(target=hog)
        thread.start()
        try:
            return way(seconds)
        finally:
            stop.set()
            thread.join()


def cpu_ms(way: Callable[[float], float], seconds: float) -> float:
    """Return the CPU time a row cost, in every thread of the process: steadier than speed beside busy neighbours."""
    cpu, began = time.process_time(), time.perf_counter()
    rate = way(seconds)
    wall = time.perf_counter() - began
    return (time.process_time() - cpu) / (rate * wall) * 1e3


def onnx_artifact(store: Path) -> Artifact:
    model = build_onnx("mobilenetv2")
    files = [path for path in model.parent.iterdir() if path.name.startswith(model.name)]
    image = ImageInput("x", 224, 224, mean=(123.7, 116.3, 103.5), scale=(58.4, 57.1, 57.4))
    inputs, outputs = (TensorSpec("x", "FP32", (-1, 3, 224, 224)),), (TensorSpec("y", "FP32", (-1, 1001)),)
    described = Artifact(model.parent, model.name, "onnx", "", inputs, outputs, batched=True, images=(image,))
    return seal(described, files, store)


def fused(artifact: Artifact) -> bytes:
    import onnx

    return fuse_onnx(onnx.load(artifact.path), artifact).SerializeToString()


def compare(bench: Benchmark, case: str, ways: Ways, blocks: tuple[int, float]) -> None:
    count, seconds = blocks
    for way in (ways.raw, ways.lanes, ways.callbacks):
        way(seconds / 2)
    sides = {
        "lanes / callbacks": (ways.lanes, ways.callbacks),
        "CPU a row, lanes / callbacks": (lambda s: cpu_ms(ways.lanes, s), lambda s: cpu_ms(ways.callbacks, s)),
        "CPU a row, lanes / no loop": (lambda s: cpu_ms(ways.lanes, s), lambda s: cpu_ms(ways.raw, s)),
        "lanes / no loop at all": (ways.lanes, ways.raw),
        "one ahead / none ahead": (ways.lanes, lambda s: ways.lanes(s, 0)),
        "lanes / callbacks, one at a time": (
            (lambda s: ways.lanes(s, 1 - ways.streams), lambda s: ways.callbacks(s, 1 - ways.streams))
        ),
        "lanes / callbacks, GIL busy": (
            lambda s: ways.busy_loop(ways.lanes, s),
            lambda s: ways.busy_loop(ways.callbacks, s),
        ),
    }
    for metric, (a, b) in sides.items():
        pairs = paired(lambda a=a: a(seconds), lambda b=b: b(seconds), count)
        bench.add(Row(case, metric, *ratio(pairs), "ratio"))
        if metric == "lanes / callbacks":
            bench.add(Row(case, "lanes", float(np.median([x for x, _ in pairs])), None, None, "rows/s"))


def sharing(bench: Benchmark, artifact: Artifact, blocks: tuple[int, float]) -> None:
    """Two streams of ONNX Runtime: one session that both call, against a session (and its weights) for each."""
    count, seconds = blocks
    runtime = load_runtime("onnxruntime")
    plan = Plan(artifact.sha256, "onnxruntime", streams=2, threads=1)
    shared, other = runtime.open(artifact, plan), runtime.open(artifact, plan)
    ways = Ways(shared, 2, 1)

    class Either:
        """Hands out slots of the two sessions in turn."""

        inputs, turn = shared.inputs, 0

        def slot(self) -> Any:
            self.turn += 1
            return (shared, other)[self.turn % 2].slot()

    apart = Ways(Either(), 2, 1)
    bench.add(Row("onnxruntime 2x1 b1", "one session / one a stream", *ratio(paired(
        lambda: ways.raw(seconds), lambda: apart.raw(seconds), count)), "ratio"))  # fmt: skip


def main() -> None:
    bench = benchmark("lanes", __doc__)
    sys.setswitchinterval(SWITCH_S)
    blocks = (5, 0.4) if bench.quick else (15, 0.5)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        made: dict[str, Callable[[], Artifact]] = {
            "openvino": lambda: net_artifact("mobilenetv2", store),
            "onnxruntime": lambda: onnx_artifact(store),
        }
        shapes = [(2, 1)] if bench.quick else [(1, 1), (2, 1), (2, 8)]
        for runtime, make in made.items():
            artifact = make()
            for streams, batch in shapes:
                case = f"{runtime} {streams}x1 b{batch}"
                if bench.wants(case):
                    plan = Plan(artifact.sha256, runtime, streams=streams, batch_sizes=(batch,))
                    session = load_runtime(runtime).open(artifact, plan)
                    model = fused(artifact) if runtime == "onnxruntime" else b""
                    compare(bench, case, Ways(session, streams, batch, model), blocks)
                    session.close()
            if runtime == "onnxruntime" and bench.wants("one session"):
                sharing(bench, artifact, blocks)
    bench.close()


if __name__ == "__main__":
    main()
