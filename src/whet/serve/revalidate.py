"""Before a server is ready: bundles whose plan comes from another host are measured here, by ``whet optimize``.

It runs as a process of its own: the optimiser and the server do not know each other. What it finds goes into the
bundle; where that cannot be written, into the cache folder; where that cannot be either, it is kept in memory. Whatever
goes wrong costs only the measurement: the plan is then served as it was carried over, and the log says so.
"""

import asyncio
import logging
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec

from whet.errors import WhetError
from whet.models.bundle import Bundle, PlanRecord, read_bundle
from whet.models.hosts import contents, remember
from whet.serve.deployment import Deployment
from whet.settings import ServeSettings, cache_folder, environ

log = logging.getLogger(__name__)
PATIENCE_S = 180.0
"""A measurement that takes longer is given up."""
_FOUND = {0, 1}
"""Exit codes that carry a result: the plan holds here, or it does not."""


class _Result(msgspec.Struct):
    words: str
    records: tuple[PlanRecord, ...]
    why_not_kept: str = ""


async def revalidate(
    settings: ServeSettings, deployments: Iterable[Deployment], known: dict[str, tuple[PlanRecord, ...]]
) -> bool:
    """Measure every bundle among ``deployments`` whose plan nobody measured here, one after another.

    Args:
        settings: of the server.
        deployments: what is to be served.
        known: takes up what cannot be put into a bundle.

    Returns:
        Whether anything was found out, so that the sources have to be read again.
    """
    folders = list(dict.fromkeys(one.elsewhere for one in deployments if one.elsewhere))
    outcomes = [await _one(settings, Path(folder), known) for folder in folders]
    return any(outcomes)


async def _one(settings: ServeSettings, folder: Path, known: dict[str, tuple[PlanRecord, ...]]) -> bool:
    log.info("%s: its plan was found on another host; measuring it on this one, --no-revalidate skips that", folder)
    try:
        bundle = read_bundle(folder)
        found = await asyncio.wait_for(_run(folder), PATIENCE_S)
    except (WhetError, OSError, TimeoutError, msgspec.DecodeError) as error:
        said = f"took longer than {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else error
        log.warning("%s: not revalidated (%s); serving its plan as it was carried over", folder, said)
        return False
    log.info("%s: revalidated; the plan %s", folder, found.words)
    if found.why_not_kept:
        _keep(settings, bundle, found.records, known)
    return True


async def _run(folder: Path) -> _Result:
    command = (sys.executable, "-m", "whet", "optimize", "--revalidate", "--json", str(folder))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, env=environ()
    )
    try:
        answer, _ = await process.communicate()
    except BaseException:
        process.kill()  # its trials die with it
        await process.wait()
        raise
    if process.returncode not in _FOUND:
        raise OSError(_complaint(answer) or f"`whet optimize --revalidate` ended with exit code {process.returncode}")
    return msgspec.json.decode(answer, type=_Result)


def _complaint(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""


def _keep(
    settings: ServeSettings,
    bundle: Bundle,
    records: tuple[PlanRecord, ...],
    known: dict[str, tuple[PlanRecord, ...]],
) -> None:
    cache = cache_folder(settings.cache_dir)
    known[contents(bundle)] = records
    try:
        remember(cache, bundle, records)
        log.info("%s cannot be written; what was found is kept in %s", bundle.folder, cache)
    except OSError as error:
        log.warning("neither %s nor %s can be written (%s): measured again at the next start", bundle.folder, cache,
                    error.strerror)  # fmt: skip
