"""Runs a PaddlePaddle model in Paddle: the one installed here, or that of the PIR converter's environment."""

import importlib.util
import sys
import tempfile
from pathlib import Path

import numpy as np

from whet.errors import ModelError
from whet.models.importers.isolated import Limits, run_program
from whet.models.importers.paddle_pir import environment_folder
from whet.models.importers.parents.request import Request, Samples, by_place

RUN = Limits(seconds=300.0)
_SCRIPT = """
import sys, numpy, paddle.inference
model, weights, feeds, answers = sys.argv[1:]
config = paddle.inference.Config(model, weights)
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
given, found = numpy.load(feeds), {}
for index in range(len({key.partition("/")[0] for key in given.files})):
    for place, name in enumerate(predictor.get_input_names()):
        key = f"{index}/{name}" if f"{index}/{name}" in given.files else [
            key for key in given.files if key.startswith(f"{index}/")][place]
        predictor.get_input_handle(name).copy_from_cpu(numpy.ascontiguousarray(given[key]))
    predictor.run()
    for place, name in enumerate(predictor.get_output_names()):
        found[f"{index}/{place:06}"] = predictor.get_output_handle(name).copy_to_cpu()
numpy.savez(answers, **found)
"""
"""What Paddle's own Python runs; it sees nothing of Whet."""


def in_converter_environment() -> bool:
    """Tell whether the PIR converter's environment, which holds Paddle, was made."""
    return (environment_folder() / "ready").exists()


def run(asked: Request, samples: Samples) -> Samples:
    """Run the samples.

    Raises:
        EnvironmentLacks: Paddle failed; carries its last line.
        ModelError: it ended without an answer.
    """
    here = importlib.util.find_spec("paddle") is not None
    python = Path(sys.executable) if here else environment_folder() / "bin" / "python"
    path = Path(asked.path)
    weights = asked.options.weights or path.with_suffix(".pdiparams")
    with tempfile.TemporaryDirectory(prefix="whet-paddle-") as folder:
        answers = Path(folder, "answers.npz")
        run_program([str(python), "-c", _SCRIPT, str(path), str(weights), asked.feeds, str(answers)], RUN)
        if not answers.is_file():
            raise ModelError("Paddle ended without an answer")
        with np.load(answers, allow_pickle=False) as arrays:
            found: list[list[object]] = [[] for _ in samples]
            for key in sorted(arrays.files, key=lambda key: (int(key.partition("/")[0]), key)):
                found[int(key.partition("/")[0])].append(arrays[key])
    return [by_place(asked.outputs, values) for values in found]
