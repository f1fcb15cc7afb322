"""From what a user names to what is served: bundles, model files, artifacts and repository folders.

A repository folder holds one folder a model; in it a bundle, an artifact or a model, or folders with whole numbers for
names, each a version holding one of those, of which the highest is served. Names are checked and links resolved:
nothing outside is ever opened.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from whet.engine.unmeasured import carry_over, plain_plan, site_of
from whet.errors import BundleError, ModelError, NotFound, Unsupported, UsageError
from whet.host import Host, differences
from whet.models.artifact import MANIFEST, load_artifact
from whet.models.bundle import Bundle, PlanRecord, is_bundle, read_bundle
from whet.models.hosts import contents, host_words, nearest, recall
from whet.models.importers import Options, import_model, recognise
from whet.plan import Plan
from whet.serve.deployment import Deployment
from whet.settings import ServeSettings, cache_folder
from whet.tensors import read_shapes

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@ -]{0,254}")
_VERSION = re.compile(r"[0-9]{1,18}")


Known = Mapping[str, Sequence[PlanRecord]]
"""What revalidating found here of bundles that cannot be written: contents of a bundle -> this host's records."""


def resolve(
    settings: ServeSettings, host: Host, only: str | None = None, known: Known | None = None
) -> list[Deployment]:
    """Return everything the sources hold, one entry a model; models are imported where need be.

    Args:
        settings: names the sources.
        host: chooses among a bundle's plans.
        only: look at this model alone.
        known: what was found out about bundles here, beside what they hold.

    Raises:
        UsageError: no source, a name that may not be one, or the same name and version twice.
        NotFound: ``only`` is not among the sources.
        WhetError: a source that cannot be read; says which.
    """
    if not settings.sources:
        raise UsageError("nothing to serve; name a bundle, a model file or a repository folder")
    if settings.name and len(settings.sources) > 1:
        raise UsageError(
            f"--name '{settings.name}' is given for {len(settings.sources)} sources; it names a single one"
        )
    listed: dict[tuple[str, str], Path] = {}
    for source in settings.sources:
        for name, version, path in _list(Path(source), settings.name):
            if (name, version) in listed:
                raise UsageError(f"model '{name}' version {version} comes twice, the second time from {path}")
            listed[name, version] = path
    options = _options(settings, list(listed.values()))
    wanted = {key: path for key, path in listed.items() if only is None or key[0] == only}
    if only is not None and not wanted:
        raise NotFound(f"model '{only[:200]}' is in none of the sources; the repository index lists what there is")
    deploy = partial(_deploy, settings, options, host, known or {})
    return [deploy(*key, path) for key, path in wanted.items()]


def choose(bundle: Bundle, host: Host, known: Sequence[PlanRecord] = ()) -> tuple[Plan, str, bool]:
    """Return the plan to serve a bundle with on ``host``, why in words, and whether it was ever measured there.

    The chosen plan of the host most like this one, the preferred one among equals. One of another host is carried over:
    what does not fit here is changed.

    Args:
        bundle: what is served.
        host: where.
        known: what revalidating found here and could not put into the bundle.
    """
    record, away = nearest(bundle, host.fingerprint_fields)
    if away != 0 and known:
        record, away = known[0], 0.0
    plan, count = record.plan, len(bundle.plans)
    if away is None:
        return plan, f"plan {plan.id} of {count}, its host is not recorded", True
    if away == 0:
        seen = record.measured.get("revalidated")
        found = f"revalidated here: {seen['words']}" if isinstance(seen, dict) else "found on a host like this one"
        return plan, f"plan {plan.id} of {count}, {found}", True
    fits = carry_over(plan, record.host, site_of(host), bundle.targets.max_cores)
    differs = "; ".join(differences(record.host, host.fingerprint_fields)) or "nothing that matters"
    said = (
        f"plan {plan.id} of {count}, carried over from the nearest host ({host_words(record.host)}, {away:.1f} away: "
        f"{differs}); {'; '.join(fits.changes) or 'unchanged'}; measure again here with "
        f"`whet optimize --revalidate {bundle.folder}`"
    )
    return fits.plan, said, False


def _options(settings: ServeSettings, models: list[Path]) -> Options:
    """Return what was said about the model; only the permissions may be said about several.

    Raises:
        UsageError: a flag that describes one model, and several models or one that is imported already.
    """
    said = ("weights", "input_shape", "signature", "preprocess")
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in said if getattr(settings, name))
    if flags and len(models) != 1:
        raise UsageError(f"{flags} describes one model file, the sources hold {len(models)}; `whet import` them first")
    if flags and (is_bundle(models[0]) or (models[0] / MANIFEST).is_file()):
        raise UsageError(f"{flags} is given for {models[0]}, which is imported already; give it to `whet import`")
    return Options(
        weights=Path(settings.weights) if settings.weights else None,
        input_shapes=read_shapes(settings.input_shape),
        signature=settings.signature or None,
        allow_pickle=settings.allow_pickle,
        allow_converter_env=settings.allow_converter_env,
        preprocess=Path(settings.preprocess) if settings.preprocess else None,
    )


def _list(source: Path, name: str) -> Iterator[tuple[str, str, Path]]:
    """Yield name, version and path of every model a source holds."""
    if _is_model(source):
        yield _checked(name or _name_of(source), source), "1", source
        return
    if not source.exists():
        raise ModelError(f"{source} does not exist; name a bundle, a model file or a repository folder")
    if not source.is_dir():
        _refuse(source)
    root = source.resolve()
    children = [child for child in sorted(source.iterdir()) if child.is_dir() and not child.name.startswith(".")]
    if name:
        raise UsageError(f"--name '{name}' is given for the repository {source}; its models are named by their folders")
    listed = [one for child in children for one in _versions(_inside(child, root), root)]
    if not listed:
        _refuse(source)
    yield from listed


def _versions(folder: Path, root: Path) -> list[tuple[str, str, Path]]:
    name = _checked(folder.name, folder)
    numbers = {
        int(child.name): child for child in folder.iterdir() if child.is_dir() and _VERSION.fullmatch(child.name)
    }
    if numbers and not is_bundle(folder):
        latest = max(numbers)
        return [(name, str(latest), _model_in(_inside(numbers[latest], root), root))]
    try:
        return [(name, "1", _model_in(folder, root))]
    except ModelError:
        return []  # a folder that holds no model is nobody's business


def _model_in(folder: Path, root: Path) -> Path:
    """Return the model a version's folder is, or holds."""
    if _is_model(folder):
        return folder
    models = [child for child in sorted(folder.iterdir()) if not child.name.startswith(".") and _stands_alone(child)]
    # Labels beside a model, or its weights, are no model; two models are a question.
    if len(models) != 1:
        names = ", ".join(child.name for child in models) or "nothing Whet knows"
        raise ModelError(f"{folder} must hold one model; it holds {names}")
    return _inside(models[0], root)


def _is_model(path: Path) -> bool:
    if path.is_dir() and (is_bundle(path) or (path / MANIFEST).is_file()):
        return True
    try:
        return recognise(path).name != "refused"
    except ModelError:
        return False


def _stands_alone(path: Path) -> bool:
    return _is_model(path) and (path.is_dir() or not recognise(path).accompanies(path))


def _refuse(source: Path) -> NoReturn:
    """Say what a source is instead of a model."""
    recognise(source).convert(source, Options(), source)  # raises: unknown, or known and refused
    raise Unsupported(f"{source} is no model and holds none; a repository has one folder a model")


def _deploy(
    settings: ServeSettings, options: Options, host: Host, known: Known, name: str, version: str, path: Path
) -> Deployment:
    if is_bundle(path):
        bundle = read_bundle(path)
        found = known.get(contents(bundle)) or recall(cache_folder(settings.cache_dir), bundle, host.fingerprint)
        plan, why, measured = choose(bundle, host, found)
        fallback, elsewhere = "", "" if measured else str(path)
        artifact = bundle.artifacts[plan.artifact]
    else:
        store = cache_folder(settings.cache_dir) / "imported"
        artifact = load_artifact(path) if (path / MANIFEST).is_file() else import_model(path, options, store)
        (plan, fallback), why = plain_plan(artifact, host.budget.physical), "no plan was found for it: safe defaults"
        elsewhere = ""
    if artifact.sha256 != plan.artifact:
        raise BundleError(f"{path}: plan {plan.id} is for another artifact; optimize again")
    if settings.queue_bound is not None:
        plan = plan.with_(queue_bound=max(settings.queue_bound, plan.max_batch))
    folder = str(artifact.folder.resolve())
    return Deployment(
        name=name,
        version=version,
        artifact=folder,
        sha256=artifact.sha256,
        plan=plan,
        why=why,
        fallback=fallback,
        elsewhere=elsewhere,
    )


def _name_of(path: Path) -> str:
    if is_bundle(path):
        return read_bundle(path).name
    if not path.exists():  # module:function
        return path.name.rpartition(":")[2]
    return (path if path.is_dir() else path.with_suffix("")).resolve().name


def _checked(name: str, path: Path) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{path}: '{name[:200]}' cannot name a model: letters, digits and _.+=@- can; use --name")
    return name


def _inside(path: Path, root: Path) -> Path:
    if not path.resolve().is_relative_to(root):
        raise UsageError(f"{path} leads out of the repository {root}; copy the model in instead of linking to it")
    return path
