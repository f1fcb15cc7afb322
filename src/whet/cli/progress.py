"""A progress bar for long work: what is done, the best so far, time left. Plain lines where there is no terminal."""

import sys
import time
from types import TracebackType
from typing import Any, Self

QUIET_S = 10.0
"""A log says again where a long phase stands after so long."""


class Bar:
    """Shows :class:`whet.optimize.request.Status` values on standard error; a context manager."""

    def __init__(self) -> None:
        self._progress: Any = None
        self._task: Any = None
        self._said = ""
        self._at = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            from whet.cli.show import console

            columns = (
                "{task.fields[phase]:<12}",
                BarColumn(30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rest]}"),
            )
            made = (TextColumn(c) if isinstance(c, str) else c for c in columns)
            self._progress = Progress(*made, console=console(stderr=True), transient=True)
            self._task = self._progress.add_task("", total=None, phase="starting", rest="")
            self._progress.start()
        return self

    def show(self, status: Any) -> None:
        """Show where the search stands."""
        best = f"best: {status.best}  " if status.best else ""
        left = f"{max(0, round(status.left_s))} s left"
        if self._progress is not None:
            rest = f"{left}  {best}{status.words}"
            self._progress.update(
                self._task, completed=status.done, total=max(status.total, status.done), phase=status.phase, rest=rest
            )
        elif status.phase != self._said or time.monotonic() - self._at > QUIET_S:  # a log: now and then a line
            self._said, self._at = status.phase, time.monotonic()
            sys.stderr.write(f"{status.phase}: {status.done}/{status.total} trials, {left}. {best}{status.words}\n")
            sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()


class Words:
    """Shows what long work without a known length is doing, on standard error: one line that changes, or a log."""

    def __init__(self) -> None:
        self._status: Any = None
        self._said = ""

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from whet.cli.show import console

            self._status = console(stderr=True).status("starting")
            self._status.start()
        return self

    def show(self, words: str) -> None:
        """Show what is being done now."""
        if self._status is not None:
            self._status.update(words)
        elif words != self._said:
            self._said = words
            sys.stderr.write(f"{words}\n")
            sys.stderr.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
