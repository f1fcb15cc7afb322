"""Paddle's converter runs apart: never made silently, bounded in time and memory; a stand-in plays it here.

The real one is run by `scripts/try_paddle_pir`: its environment takes 1.3 GB.
"""

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from whet.errors import EnvironmentLacks, ModelError, Unsupported
from whet.models.importers import Limits, Options, import_model
from whet.models.importers.isolated import GIGABYTE
from whet.models.importers.paddle_pir import environment_folder

PIR = "paddle/pir.json"
ALLOWED = Options(allow_converter_env=True)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of its own, so that no environment is there."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def converter(home):
    """Put a stand-in where the converter's Python lies: a shell script with this body."""

    def put(body):
        folder = environment_folder()
        (folder / "bin").mkdir(parents=True)
        (folder / "ready").touch()
        python = folder / "bin" / "python"
        python.write_text(f"#!/bin/sh\n{body}\n")
        python.chmod(0o755)

    assert environment_folder().is_relative_to(home)
    return put


def test_an_environment_is_never_made_without_the_word(shared_data, tmp_path, home):
    with pytest.raises(Unsupported, match=r"Paddle's own converter reads.*1\.1 GB in .*--allow-converter-env"):
        import_model(shared_data / PIR, Options(), tmp_path / "store")
    assert list(home.rglob("*")) == []


def test_what_the_converter_writes_is_imported_and_named(shared_data, tmp_path, converter):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, ["N", 4])],
        [value("y", TensorProto.FLOAT, ["N", 4])],
        [weight],
    )
    made = tmp_path / "made.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), made)
    converter(f'cp {made} "$5"; echo "$3 $4" > {tmp_path}/asked')
    artifact = import_model(shared_data / PIR, ALLOWED, tmp_path / "store")
    assert artifact.lineage[0].recipe.startswith("paddlepaddle==3.3.1 paddle2onnx==2.1.0")
    assert (tmp_path / "asked").read_text().split() == [
        str(shared_data / PIR),
        str(shared_data / "paddle/pir.pdiparams"),
    ]


@pytest.mark.parametrize(
    ("body", "limits", "kind", "said"),
    [
        ("echo boom >&2; exit 3", Limits(), EnvironmentLacks, r"bin/python' failed with exit code 3: boom$"),
        ("exit 0", Limits(), ModelError, "ended without an ONNX file"),
        ("sleep 60", Limits(seconds=4), ModelError, "longer than 4 s and was stopped"),
        (
            f"exec {sys.executable} -c 'bytearray(3 << 30)'",
            Limits(memory_bytes=GIGABYTE),
            EnvironmentLacks,
            "failed with exit code 1: MemoryError",
        ),
    ],
    ids=["fails", "writes nothing", "hangs", "swells"],
)
def test_a_converter_is_bounded(shared_data, tmp_path, converter, body, limits, kind, said):
    converter(body)
    with pytest.raises(kind, match=said) as raised:
        import_model(shared_data / PIR, ALLOWED, tmp_path / "store", limits)
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "store").iterdir()) == []
