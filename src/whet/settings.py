"""Settings: one frozen struct per verb, filled from flags, the environment, a TOML file and defaults, in that order.

A setting is one field. Its type, default, unit (at the end of its name: ``_ms``, ``_bytes``) and description stand on
that field, and everything else derives from them: the flag (``--drain-ms``), the environment name
(``WHET_SERVE_DRAIN_MS``), the file key (``serve.drain_ms``), the help text and the row in ``docs/settings.md``.
Unknown names are errors that name the path; secrets print as stars.

This is the only module that reads the process's environment; everything else asks :func:`environ` for a copy.
"""

import difflib
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from whet.errors import UsageError

PREFIX = "WHET_"
STARS = "********"
GLOBALS = {"WHET_CONFIG": "path of the settings file; the flag --config wins"}
"""Environment names that belong to no verb."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every verb's settings: frozen, and its printed form hides secrets."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in masked(self).items())
        return f"{type(self).__name__}({shown})"


K = TypeVar("K", bound=Settings)


def about(
    doc: str, *, positional: bool = False, secret: bool = False, separator: str = ",", **bounds: Any
) -> msgspec.Meta:
    """Describe a field.

    Args:
        doc: one sentence for help text and docs.
        positional: an argument of the command line instead of an option.
        secret: its value is never printed.
        separator: between the items of a list or the pairs in an environment variable.
        **bounds: bounds of the value, as :class:`msgspec.Meta` takes them (``ge``, ``le``, ...).
    """
    extra = {"positional": positional, "secret": secret, "separator": separator}
    return msgspec.Meta(description=doc, extra=extra, **bounds)


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Natural = Annotated[int, msgspec.Meta(ge=0)]


class ServeSettings(Settings, frozen=True, kw_only=True):
    """Settings of ``whet serve``."""

    sources: Annotated[
        tuple[str, ...], about("What to serve: bundles, model files, or repository folders.", positional=True)
    ] = ()
    name: Annotated[str, about("Name to serve a single source under, instead of its own.")] = ""
    host: Annotated[str, about("Address to listen on; 0.0.0.0 serves other machines.")] = "127.0.0.1"
    http_port: Annotated[Port, about("Port of HTTP; 0 takes a free one.")] = 8000
    grpc: Annotated[bool, about("Serve gRPC as well.")] = True
    grpc_port: Annotated[Port, about("Port of gRPC; 0 takes a free one.")] = 8001
    announce: Annotated[str, about("File to write when ready: JSON with URLs, ports and process ids.")] = ""
    workers: Annotated[
        Natural, about("Worker processes; 0 takes the plan's number, or one per NUMA node in the budget.")
    ] = 0
    revalidate: Annotated[
        bool, about("Measure the plan of a bundle that was found on another host before serving it; about 10 to 25 s.")
    ] = True
    front_cores: Annotated[
        int | None, about("Cores left to the event loops; by default 0 on fewer than 8 cores, else 1.")
    ] = None
    weights: Annotated[
        str, about("File with the weights of the one model served, where its format has two; else found beside it.")
    ] = ""
    input_shape: Annotated[
        tuple[str, ...],
        about("Shapes of the one model's inputs, as [NAME=]1,3,224,224; -1 is variable.", separator=";"),
    ] = ()
    signature: Annotated[str, about("Signature of the one TensorFlow SavedModel served.")] = ""
    preprocess: Annotated[
        str, about("TOML that describes preprocessing and labels of the one model served; else found beside it.")
    ] = ""
    allow_pickle: Annotated[bool, about("Unpickle models that are pickles, and so run the code they hold.")] = False
    allow_converter_env: Annotated[bool, about("Make an environment of its own for a converter that needs one.")] = (
        False
    )
    cpu_weights: Annotated[
        dict[str, float], about("Share of the cores by model name, as name=weight; 1 where not given.")
    ] = msgspec.field(default_factory=dict)
    queue_bound: Annotated[
        Positive | None, about("Samples that may wait per model and worker, instead of the plan's bound.")
    ] = None
    request_timeout_ms: Annotated[
        Positive | None, about("Longest time a request may take, unless its own deadline is shorter.")
    ] = None
    drain_ms: Annotated[Natural, about("How long a stopping server finishes what is in flight.")] = 20_000
    max_body_bytes: Annotated[Positive, about("Largest request body, after decompression.")] = 64 << 20
    max_json_bytes: Annotated[
        Positive, about("Largest JSON in a request; bigger tensors belong in the binary form.")
    ] = 16 << 20
    max_header_bytes: Annotated[
        Positive, about("Largest head of a request; for gRPC, before and after decompression.")
    ] = 32 << 10
    max_connections: Annotated[Positive, about("Connections a worker holds open, of HTTP and of gRPC each.")] = 8192
    header_timeout_ms: Annotated[Positive, about("Time a client has to send a request's head.")] = 10_000
    body_timeout_ms: Annotated[
        Positive, about("Time a client has for a body, beside its size at 50 kB/s, and for reading its answer.")
    ] = 30_000
    idle_timeout_ms: Annotated[Positive, about("Time an HTTP connection may lie idle between requests.")] = 75_000
    grpc_connection_age_ms: Annotated[
        Positive, about("Age at which gRPC connections are asked to reconnect, with more than one worker.")
    ] = 300_000
    repository_control: Annotated[
        bool, about("Let clients load and unload models by the repository calls of the protocol.")
    ] = False
    admin_token: Annotated[str, about("If set, repository calls need 'Authorization: Bearer TOKEN'.", secret=True)] = ""
    control_socket: Annotated[
        str, about("Path of the supervisor's Unix socket; by default one in a fresh temporary folder.")
    ] = ""
    cache_dir: Annotated[
        str, about("Folder for imported models and compiled blobs; by default under the user's cache folder.")
    ] = ""
    switch_interval_us: Annotated[
        Positive, about("How often a worker's interpreter lets another thread in; lower wakes lanes sooner.")
    ] = 200
    restart_backoff_ms: Annotated[Positive, about("Wait before a crashed worker is started again; doubles.")] = 100
    restart_backoff_max_ms: Annotated[Positive, about("Longest wait before a restart.")] = 10_000
    healthy_after_ms: Annotated[
        Positive, about("A worker that served this long is healthy: the wait before a restart begins anew.")
    ] = 30_000
    log_level: Annotated[Literal["debug", "info", "warning", "error"], about("What is logged.")] = "info"
    log_format: Annotated[Literal["text", "json"], about("How log lines look.")] = "text"


KINDS: dict[str, type[Settings]] = {"serve": ServeSettings}
"""Verb -> its settings. The verb is the table's name in the file and part of the environment names."""


@dataclass(frozen=True, slots=True)
class Row:
    """One setting, as command line and docs show it.

    Attributes:
        name: the field.
        flag: ``--drain-ms``; for a positional argument its name in capitals.
        env: environment name.
        key: dotted key in the TOML file.
        type: the Python type, with bounds stripped.
        kind: the type in words.
        default: the default value.
        doc: one sentence.
        secret: never printed.
        positional: an argument instead of an option.
        separator: between items in an environment variable.
    """

    name: str
    flag: str
    env: str
    key: str
    type: Any
    kind: str
    default: Any
    doc: str
    secret: bool
    positional: bool
    separator: str


def fields(kind: type[Settings]) -> tuple[Row, ...]:
    """Return a row for every field of ``kind``, in the order they are written."""
    verb = _verb(kind)
    hints = typing.get_type_hints(kind, include_extras=True)
    defaults = kind()
    rows = []
    for name in kind.__struct_fields__:
        meta = next(m for m in reversed(hints[name].__metadata__) if isinstance(m, msgspec.Meta) and m.description)
        extra, bare = meta.extra or {}, _bare(hints[name])
        flag = name.upper() if extra["positional"] else "--" + name.replace("_", "-")
        env = f"{PREFIX}{verb}_{name}".upper()
        default = getattr(defaults, name)
        doc = meta.description or ""
        rows.append(
            Row(
                name,
                flag,
                env,
                f"{verb}.{name}",
                bare,
                _words(bare),
                default,
                doc,
                extra["secret"],
                extra["positional"],
                extra["separator"],
            )
        )
    return tuple(rows)


def load(
    kind: type[K],
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> K:
    """Return the settings of one verb: flags win over the environment, that over the file, that over defaults.

    Args:
        kind: which verb's settings.
        file: a TOML file; ``WHET_CONFIG`` names it when None.
        env: the environment; the process's own when None.
        flags: by field name; a value of None was not given.

    Raises:
        UsageError: an unknown name, a value that does not fit, or a file that cannot be read; names where it stands.
    """
    env = environ() if env is None else env
    if file is None and env.get("WHET_CONFIG"):
        file = Path(env["WHET_CONFIG"])
    rows = {row.name: row for row in fields(kind)}
    hints = typing.get_type_hints(kind, include_extras=True)
    values: dict[str, Any] = {}
    for name, (value, where) in _layers(kind, rows, file, env, flags or {}).items():
        try:
            values[name] = msgspec.convert(value, hints[name], strict=False)
        except msgspec.ValidationError as error:
            shown = STARS if rows[name].secret else repr(value)
            raise UsageError(f"{where} is {shown}: {error}; it is {rows[name].kind}. {rows[name].doc}") from None
    return kind(**values)


def table(kind: type[Settings]) -> str:
    """Return the settings of one verb as a Markdown table, as it stands in ``docs/settings.md``."""
    head = "| flag | environment | file | value | default | what it does |\n|---|---|---|---|---|---|\n"
    return head + "".join(
        f"| `{row.flag}` | `{row.env}` | `{row.key}` | {row.kind} | {_shown(row.default)} | {row.doc} |\n"
        for row in fields(kind)
    )


def masked(settings: Settings) -> dict[str, Any]:
    """Return the settings by name, with secrets that are set replaced by stars."""
    secrets = {row.name for row in fields(type(settings)) if row.secret}
    return {
        name: STARS if name in secrets and getattr(settings, name) else getattr(settings, name)
        for name in settings.__struct_fields__
    }


def environ() -> dict[str, str]:
    """Return a copy of the process's environment: for subprocesses, and for reading by nobody else."""
    return dict(os.environ)  # noqa: TID251  (this is the one place)


def cache_folder(chosen: str = "", env: Mapping[str, str] | None = None) -> Path:
    """Return the folder for caches: ``chosen``, or ``whet`` in the user's cache folder. It need not exist."""
    if chosen:
        return Path(chosen)
    env = environ() if env is None else env
    base = env.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path(env.get("HOME") or "/tmp") / ".cache") / "whet"  # noqa: S108


def _layers(
    kind: type[Settings], rows: Mapping[str, Row], file: Path | None, env: Mapping[str, str], flags: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Return name -> (value, where it was said), the strongest source of each."""
    found: dict[str, tuple[Any, str]] = {}
    for name, value in _from_file(kind, file).items():
        _known(name, rows, f"{file}: {_verb(kind)}.{name}")
        found[name] = (value, f"{file}: {_verb(kind)}.{name}")
    by_env = {row.env: row for row in rows.values()}
    _refuse_strangers(kind, env)
    for variable, row in by_env.items():
        if variable in env:
            found[row.name] = (_from_text(env[variable], row), variable)
    for name, value in flags.items():
        _known(name, rows, f"flag '{name}'")
        if value is not None and not (rows[name].positional and not value):
            text = isinstance(value, list | tuple) and _container(rows[name].type) is dict
            found[name] = (_pairs(value, rows[name].flag) if text else value, rows[name].flag)
    return found


def _from_file(kind: type[Settings], file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        document = tomllib.loads(file.read_text())
    except OSError as error:
        raise UsageError(f"cannot read settings file {file}: {error.strerror}; check --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"settings file {file} is no TOML: {error}") from error
    for table, content in document.items():
        if table not in KINDS:
            raise UsageError(
                f"{file}: '{table}' is unknown{_did_you_mean(table, KINDS)}; tables are {', '.join(KINDS)}"
            )
        if not isinstance(content, dict):
            raise UsageError(f"{file}: '{table}' must be a table: write [{table}] above its settings")
    section: dict[str, Any] = document.get(_verb(kind), {})
    return section


def _refuse_strangers(kind: type[Settings], env: Mapping[str, str]) -> None:
    """Refuse WHET_ variables that nothing reads: a setting that is misspelt must not be ignored in silence."""
    names = {row.env for other in {*KINDS.values(), kind} for row in fields(other)} | GLOBALS.keys()
    for variable in env:
        if variable.startswith(PREFIX) and variable not in names:
            raise UsageError(f"environment variable {variable} is unknown{_did_you_mean(variable, names)}; unset it")


def _known(name: str, rows: Mapping[str, Row], where: str) -> None:
    if name not in rows:
        verb = next(iter(rows.values())).key.partition(".")[0]
        raise UsageError(f"{where} is unknown{_did_you_mean(name, rows)}; `whet {verb} --help` lists the settings")


def _did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def _from_text(text: str, row: Row) -> Any:
    container = _container(row.type)
    if container is tuple:
        return [part for part in text.split(row.separator) if part]
    if container is dict:
        return _pairs([part for part in text.split(row.separator) if part], row.env)
    return None if not text and _optional(row.type) else text


def _pairs(parts: typing.Iterable[str], where: str) -> dict[str, str]:
    pairs = {}
    for part in parts:
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise UsageError(f"{where}: '{part}' is no name=value pair")
        pairs[name] = value
    return pairs


def _verb(kind: type[Settings]) -> str:
    return next(
        (verb for verb, known in KINDS.items() if known is kind), kind.__name__.removesuffix("Settings").lower()
    )


def _bare(hint: Any) -> Any:
    """Strip the annotations from a type, inside unions too."""
    if typing.get_origin(hint) is Annotated:
        return _bare(typing.get_args(hint)[0])
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.Union[tuple(_bare(part) for part in typing.get_args(hint))]  # noqa: UP007  (built at run time)
    return hint


def _shown(default: Any) -> str:
    if default is None or default in ("", (), {}):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _optional(kind: Any) -> bool:
    return type(None) in typing.get_args(kind)


def _container(kind: Any) -> Any:
    return typing.get_origin(kind)


def _words(kind: Any) -> str:
    parts = [part for part in typing.get_args(kind) if part is not type(None)] if _optional(kind) else [kind]
    origin = _container(parts[0])
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(parts[0])))
    if origin is tuple:
        return "a list of texts"
    if origin is dict:
        return "name=number pairs"
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[parts[0]]
    return f"{words}, or nothing" if _optional(kind) else words
