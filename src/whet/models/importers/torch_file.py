"""PyTorch files: exported programs (``.pt2``) and TorchScript, traced or scripted. Nothing is ever unpickled freely.

A zip's names say what a file is without opening a pickle: code makes TorchScript, a lone ``data.pkl`` is a state dict
or a whole pickled module.
"""

import io
import json
import pickletools
import zipfile
from pathlib import Path
from typing import Any

from whet.errors import MissingExtra, ModelError, Unsupported, UsageError
from whet.models.importers import openvino_front
from whet.models.importers.base import Converted, Options
from whet.models.importers.isolated import one_line
from whet.models.importers.peek import head, zip_names
from whet.models.importers.reference import load_openvino

_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"
"""How ``torch.save`` without a zip begins: its magic number as a pickle."""
_STATE = ("collections.OrderedDict", "torch.", "builtins.dict", "builtins.set", "__builtin__.dict", "__builtin__.set")
"""How names begin that a pickle of mere tensors holds; ``torch.nn.`` is not among them."""
MAX_PICKLE_BYTES = 64 << 20


def sniff(path: Path) -> bool:
    """Recognise a PyTorch zip of any kind, or a legacy ``torch.save``."""
    return bool(_kind(path))


def convert(path: Path, options: Options, workdir: Path) -> Converted:
    """Convert to IR (or ONNX, from an exported program with ``--to onnx``).

    Raises:
        MissingExtra: PyTorch is not installed.
        Unsupported: a state dict or pickled module, or operators OpenVINO has no rule for.
        UsageError: TorchScript whose input shapes are neither in the file nor said.
    """
    kind = _kind(path)
    if kind in {"pickle", "legacy"}:
        raise Unsupported(_refusal(path, kind))
    torch = load_torch()
    if kind == "pt2":
        return convert_program(load_program(torch, path), path, options, workdir)
    if options.to == "onnx":
        raise Unsupported(
            f"{path}: PyTorch no longer exports TorchScript to ONNX; save it by torch.export (.pt2) instead"
        )
    module = load_script(torch, path)
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.convert_model(module), path, "TorchScript")
    _name(model, tuple(port.any_name for port in model.inputs))
    notes = ("TorchScript, which PyTorch has deprecated for torch.export", *_typed(ov, model))
    unknown = [port.any_name for port in model.inputs if port.partial_shape.rank.is_dynamic]
    if unknown and not options.input_shapes:
        raise UsageError(
            f"{path}: TorchScript does not say the shape of input {', '.join(unknown)}; "
            "say it, such as --input-shape 1,3,224,224"
        )
    return openvino_front.saved(model, workdir, notes, kind=kind)


def load_torch() -> Any:
    """Import torch.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise MissingExtra("reading PyTorch files", "torch") from None
    torch.set_grad_enabled(False)
    return torch


def load_module(path: Path) -> Any:
    """Return something callable: the exported program's module, or the script module. For comparing with."""
    torch = load_torch()
    return load_program(torch, path).module() if _kind(path) == "pt2" else load_script(torch, path)


def load_script(torch: Any, path: Path) -> Any:
    """Return a frozen script module: inlined, parameters folded in, which OpenVINO needs for scripted code."""
    try:
        return torch.jit.freeze(torch.jit.load(str(path), map_location="cpu").eval())
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{path} is a damaged TorchScript file: {one_line(error)}") from error


def load_program(torch: Any, path: Path) -> Any:
    """Return the exported program, after making sure that no member needs an unrestricted unpickler."""
    _check_pickles(torch, path)
    try:
        return torch.export.load(str(path))
    except Exception as error:
        raise ModelError(f"{path} is no exported program this PyTorch reads: {one_line(error)}") from error


def convert_program(program: Any, path: Path, options: Options, workdir: Path) -> Converted:
    """Convert an exported program; its own shapes are put back, which OpenVINO's importer loses."""
    torch = load_torch()
    if options.to == "onnx":
        target = workdir / "model.onnx"
        torch.onnx.export(program, dynamo=True, verbose=False).save(str(target))
        return Converted(target, (target,), "onnx", f"torch {torch.__version__} torch.onnx.export")
    names = program.graph_signature.user_inputs
    shapes = {
        node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names and "val" in node.meta
    }
    ov = load_openvino()
    model = openvino_front.read_ir(lambda: ov.convert_model(program), path, "PyTorch")
    _name(model, tuple(str(name) for name in names))
    exported = {
        port.any_name: ov.PartialShape([dim if isinstance(dim, int) else -1 for dim in shapes[port.any_name]])
        for port in model.inputs
        if port.any_name in shapes
    }
    model.reshape(exported)
    return openvino_front.saved(model, workdir, (), torch=torch.__version__)


def _name(model: Any, inputs: tuple[str, ...]) -> None:
    """Name inputs as the program does (script arguments lose their ``.1``), outputs ``output`` or ``output_0``, ..."""
    plain = [name.partition(".")[0] for name in inputs]
    names = plain if len(set(plain)) == len(plain) else list(inputs)
    if len(names) == len(model.inputs):
        for port, name in zip(model.inputs, names, strict=True):
            port.get_tensor().set_names({name})
    single = len(model.outputs) == 1
    for place, port in enumerate(model.outputs):
        port.get_tensor().set_names({"output" if single else f"output_{place}"})


def _typed(ov: Any, model: Any) -> tuple[str, ...]:
    """Give every input whose type the program does not say one, and return what was taken.

    Where all that uses it turns it into integers (ids of an embedding) that is INT64, PyTorch's own; else FP32. Left
    open, OpenVINO refuses to compile a net that begins with a linear layer or an embedding (2026.4.1).
    """
    taken = []
    for port in model.inputs:
        node = port.get_node()
        if not port.get_element_type().is_dynamic():
            continue
        users = [target.get_node() for target in port.get_target_inputs()]
        ids = bool(users) and all(
            user.get_type_name() == "Convert" and user.get_output_element_type(0).is_integral_number() for user in users
        )
        node.set_element_type(ov.Type.i64 if ids else ov.Type.f32)
        taken.append(
            f"TorchScript does not say the type of input '{port.any_name}': taken as {'INT64' if ids else 'FP32'}"
        )
    model.validate_nodes_and_infer_types()
    return tuple(taken)


def _kind(path: Path) -> str:
    if head(path, len(_LEGACY)) == _LEGACY:
        return "legacy"
    names = [name.partition("/")[2] for name in zip_names(path)] + list(zip_names(path))
    if any(name in {"serialized_exported_program.json", "models/model.json"} for name in names):
        return "pt2"
    if "data.pkl" not in names:
        return ""
    return "script" if any(name.startswith("code/") for name in names) else "pickle"


def _refusal(path: Path, kind: str) -> str:
    wanted = (
        "give Whet the code as module:function that returns the loaded module, or save it by torch.export.save (.pt2)"
    )
    if kind == "legacy":
        return f"{path} is an old torch.save file, a pickle, and pickles are code; {wanted}"
    names = _globals(path)
    foreign = sorted(name for name in names if not name.startswith(_STATE) or name.startswith("torch.nn."))
    if foreign:
        shown = ", ".join(foreign[:4])
        return f"{path} is a pickled module ({shown}), and unpickling runs code; {wanted}"
    return f"{path} is a state dict: weights without the code that uses them; {wanted}"


def _globals(path: Path) -> set[str]:
    """Return the classes and functions a zip's ``data.pkl`` names, read as opcodes; nothing is unpickled."""
    with zipfile.ZipFile(path) as archive:
        member = next(name for name in archive.namelist() if name.partition("/")[2] == "data.pkl" or name == "data.pkl")
        with archive.open(member) as stream:
            data = stream.read(MAX_PICKLE_BYTES)
    found: set[str] = set()
    texts: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL" and len(texts) >= 2:
                found.add(".".join(texts[-2:]))
            elif isinstance(argument, str):
                texts.append(argument)
    except (ValueError, IndexError):
        found.add("a damaged pickle")
    return found


def _check_pickles(torch: Any, path: Path) -> None:
    """Refuse a ``.pt2`` any member of which needs more than ``weights_only``: its own loader would fall back.

    Members the archive's tables list as raw tensors, and text, are not pickles.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            plain = _raw_members(archive)
            for info in archive.infolist():
                name = info.filename
                text = name.endswith((".json", "version", "byteorder", "archive_format", ".data/serialization_id", "/"))
                padding = name.endswith((".storage_alignment", ".format_version"))
                if text or padding or name.rpartition("/")[2] in plain:
                    continue
                data = archive.read(info)
                try:
                    torch.load(io.BytesIO(data), weights_only=True)
                except Exception as error:
                    raise Unsupported(
                        f"{path}: '{name}' is a pickle of more than tensors ({one_line(error, 120)}), and unpickling "
                        "runs code; export the program again without custom objects"
                    ) from error
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{path} is a damaged archive: {one_line(error)}") from error


def _raw_members(archive: zipfile.ZipFile) -> set[str]:
    plain: set[str] = set()
    for name in archive.namelist():
        if name.endswith(("_weights_config.json", "_constants_config.json")):
            table = json.loads(archive.read(name))
            entries = table.get("config", {}).values()
            plain |= {entry["path_name"] for entry in entries if not entry.get("use_pickle", True)}
    return plain
