"""A resident process that runs one net in one library with its default settings: what Whet's plan is compared with.

Reads one JSON line a request on standard input, ``{"batch": 8, "callers": 2, "seconds": 1.0}``, and answers
``{"per_s": samples/s, "p50_ms": median of a call}``. A call takes numpy arrays and gives numpy arrays. ``callers``
threads call one after another without a pause; 0 stands for the library's own asynchronous queue (OpenVINO), with as
many requests in flight as it advises, inputs set once and results left where they are, as its benchmark_app does.

    contenders.py pytorch|compiled NET      the module, eager or through torch.compile, in inference mode
    contenders.py tensorflow FOLDER         the SavedModel's signature
    contenders.py onnxruntime FILE          InferenceSession(FILE)
    contenders.py openvino FILE --hint f32|latency|throughput     compile_model with this alone
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import labelled
import models
from whet.quiet import silence_telemetry

Arrays = dict[str, np.ndarray]
Call = Callable[[Arrays], Any]


def noise(shapes: dict[str, tuple[tuple[int, ...], str]], batch: int) -> Arrays:
    """Return a batch of noise; indices are 0 or 1, which every vocabulary has."""
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for name, (shape, dtype) in shapes.items():
        whole = (batch, *shape)
        made[name] = (
            rng.integers(0, 2, whole).astype(dtype) if "int" in dtype else rng.standard_normal(whole).astype(dtype)
        )
    return made


class Contender:
    """One library with the net loaded. ``prepared`` gives the call for a batch size."""

    shapes: dict[str, tuple[tuple[int, ...], str]]

    def prepared(self, batch: int) -> Call:
        raise NotImplementedError

    def queue(self, batch: int, seconds: float) -> float:
        """Samples a second through the library's own asynchronous queue."""
        raise NotImplementedError


class PyTorch(Contender):
    def __init__(self, name: str, *, compiled: bool) -> None:
        import torch

        self.torch = torch
        torch.manual_seed(0)
        own = {"video-quality": labelled.video_module, "digits-cnn": labelled.digits_cnn}
        own |= {"squeezenet": labelled.squeezenet_module, "bert-base": lambda: models.bert_base("sdpa")}
        image = {"video-quality": (3, 224, 224), "digits-cnn": (1, 32, 32), "squeezenet": (3, 227, 227)}
        module = (own.get(name) or models.MODELS[name][0])().eval()
        self.shapes = {"x": (image[name], "float32")} if name in image else models.MODELS[name][1]
        self.module = torch.compile(module, dynamic=False) if compiled else module

    def prepared(self, batch: int) -> Call:  # noqa: ARG002  (one module takes every size)
        torch, module = self.torch, self.module

        def call(arrays: Arrays) -> Any:
            with torch.inference_mode():
                found = module(*[torch.from_numpy(array) for array in arrays.values()])
                return [one.numpy() for one in (found if isinstance(found, tuple) else (found,))]

        return call


class TensorFlow(Contender):
    def __init__(self, folder: str) -> None:
        import tensorflow as tf

        self.tf = tf
        self.loaded = tf.saved_model.load(folder)
        self.function = self.loaded.signatures["serving_default"]
        takes = self.function.structured_input_signature[1]
        self.shapes = {name: (tuple(spec.shape[1:]), spec.dtype.name) for name, spec in takes.items()}

    def prepared(self, batch: int) -> Call:  # noqa: ARG002  (one function takes every size)
        tf, function = self.tf, self.function

        def call(arrays: Arrays) -> Any:
            found = function(**{name: tf.constant(array) for name, array in arrays.items()})
            return [one.numpy() for one in found.values()]

        return call


class OnnxRuntime(Contender):
    def __init__(self, file: str) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        kinds = {"tensor(float)": "float32", "tensor(int64)": "int64"}
        self.shapes = {one.name: (tuple(one.shape[1:]), kinds[one.type]) for one in self.session.get_inputs()}

    def prepared(self, batch: int) -> Call:  # noqa: ARG002  (one session takes every size)
        return lambda arrays: self.session.run(None, arrays)


class OpenVINO(Contender):
    def __init__(self, file: str, hint: str) -> None:
        silence_telemetry()
        import openvino as ov

        self.ov, self.core = ov, ov.Core()
        self.model = self.core.read_model(file)
        self.config = {"INFERENCE_PRECISION_HINT": "f32"} if hint == "f32" else {"PERFORMANCE_HINT": hint.upper()}
        self.shapes = {
            port.any_name: (
                tuple(dim.get_length() for dim in list(port.partial_shape)[1:]),
                port.element_type.to_dtype().name,
            )
            for port in self.model.inputs
        }
        self.compiled: dict[int, Any] = {}

    def compile(self, batch: int) -> Any:
        if batch not in self.compiled:
            self.model.reshape({name: [batch, *shape] for name, (shape, _) in self.shapes.items()})
            self.compiled[batch] = self.core.compile_model(self.model, "CPU", self.config)
        return self.compiled[batch]

    def prepared(self, batch: int) -> Call:
        request = self.compile(batch).create_infer_request()
        return request.infer

    def queue(self, batch: int, seconds: float) -> float:
        queue = self.ov.AsyncInferQueue(self.compile(batch))
        arrays = noise(self.shapes, batch)
        for request in queue:
            for name, array in arrays.items():
                request.get_tensor(name).data[:] = array
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            queue.start_async()
            done += batch
        queue.wait_all()
        return done / (time.perf_counter() - start)


def block(contender: Contender, batch: int, callers: int, seconds: float) -> dict[str, float]:
    """Let ``callers`` threads call for ``seconds``; a call that began is finished and counted, with its time."""
    if not callers:
        return {"per_s": contender.queue(batch, seconds)}
    arrays, taken = noise(contender.shapes, batch), list[float]()
    rates: list[float] = []

    def loop() -> None:
        call = contender.prepared(batch)
        start = now = time.perf_counter()
        count = 0
        while now - start < seconds:
            call(arrays)
            before, now = now, time.perf_counter()
            taken.append(now - before)
            count += batch
        rates.append(count / (now - start))

    threads = [threading.Thread(target=loop) for _ in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"per_s": sum(rates), "p50_ms": float(np.median(taken)) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=["pytorch", "compiled", "tensorflow", "onnxruntime", "openvino"])
    parser.add_argument("model")
    parser.add_argument("--hint", choices=["f32", "latency", "throughput"], default="f32")
    given = parser.parse_args()
    contender: Contender
    if given.library == "tensorflow":
        contender = TensorFlow(given.model)
    elif given.library == "onnxruntime":
        contender = OnnxRuntime(given.model)
    elif given.library == "openvino":
        contender = OpenVINO(given.model, given.hint)
    else:
        contender = PyTorch(given.model, compiled=given.library == "compiled")
    for batch in (1, 8):  # compiled, traced and warm before anything is timed
        call, arrays = contender.prepared(batch), noise(contender.shapes, batch)
        for _ in range(3):
            call(arrays)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(block(contender, asked["batch"], asked["callers"], asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
