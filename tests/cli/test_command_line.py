"""What the command line promises whatever the verb: speed of help, exit codes, one-screen errors, no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from whet.cli import main
from whet.cli.parse import named_paths, seconds
from whet.cli.verbs import VERBS, whet
from whet.errors import UsageError
from whet.tensors import read_shapes


def run(*args: str, **options) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-m", "whet", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False, **options)


def test_help_loads_no_runtime_and_no_array_library():
    code = (
        "import sys; from whet.cli import main; main(['--help']); "
        "print([m for m in ('numpy', 'openvino', 'onnxruntime', 'onnx', 'msgspec', 'grpc', 'rich', 'torch') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert "Usage: whet" in capsys.readouterr().out


def test_a_misspelt_verb_is_told_the_nearest_one(capsys):
    assert main(["optimise"]) == 2
    assert "Did you mean 'optimize'?" in capsys.readouterr().err


def test_a_misspelt_option_is_usage(capsys):
    assert main(["inspect", "--jsn"]) == 2
    assert "--json" in capsys.readouterr().err


def test_a_missing_model_is_one_line_and_exit_3():
    done = run("inspect", "no-such-model.onnx")
    assert done.returncode == 3
    assert "no-such-model.onnx" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_with_json_an_error_is_one_document_too():
    done = run("inspect", "no-such-model.onnx", "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["slug"] == "bad-model"
    assert error["exit_code"] == 3


def test_a_bug_is_named_as_one_and_its_traceback_is_kept_in_a_file(monkeypatch, capsys):
    import whet.host

    def broken():
        raise ZeroDivisionError("a bug of ours")

    monkeypatch.setattr(whet.host, "read_host", broken)
    assert main(["inspect"]) == 70
    said = capsys.readouterr().err
    assert "this is a bug in Whet (ZeroDivisionError)" in said
    kept = Path(next(word for word in said.split() if word.startswith("/")).rstrip(":"))
    assert "a bug of ours" in kept.read_text()
    kept.unlink()


def test_the_host_as_json_is_one_document():
    done = run("inspect", "--json")
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["host"]["budget"]["cores"] >= 1
    assert "openvino" in document["runtimes"]


@pytest.mark.parametrize(("text", "value"), [("60s", 60), ("2m", 120), ("1.5h", 5400), ("250ms", 0.25), ("7", 7)])
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0s", "-1s", "ten", "5 parsecs", "1e3s"])
def test_no_durations(text):
    with pytest.raises(UsageError, match="no duration"):
        seconds(text)


def test_input_shapes():
    assert read_shapes(("x=1,3,?,-1", "1,2")) == {"x": (1, 3, -1, -1), "": (1, 2)}
    assert read_shapes(("a=b:0=1,2",)) == {"a=b:0": (1, 2)}
    for bad in ("x=", "x=1,0", "x=1,a", "1,,2"):
        with pytest.raises(UsageError, match="no shape"):
            read_shapes((bad,))
    with pytest.raises(UsageError, match="twice"):
        read_shapes(("x=1", "x=2"))


def test_pairs():
    assert named_paths(("a=b=c",), "--variant") == {"a": "b=c"}
    with pytest.raises(UsageError, match="--variant 'a'"):
        named_paths(("a",), "--variant")


@pytest.mark.parametrize("verb", ["inspect", "import", "optimize", "serve"])
def test_what_is_said_about_a_model_is_said_alike_everywhere(verb):
    command = whet.get_command(None, verb)
    taken = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--weights", "--input-shape", "--signature", "--preprocess", "--allow-pickle"} <= taken
