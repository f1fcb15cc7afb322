"""Runs a command that ends when the process that started it does: ``python -m whet.load.tied PARENT COMMAND ...``.

For servers that a search starts: killed itself, it must not leave one behind. The signal follows the thread that forks
(``prctl(2)``, PR_SET_PDEATHSIG), so start this from a thread that lives as long as the process.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def command(line: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``line`` tied to this process."""
    return (sys.executable, "-m", "whet.load.tied", str(os.getpid()), *line)


def main(arguments: list[str]) -> None:
    """Tie this process to its parent, then become the command."""
    parent, *line = arguments
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(parent):  # it ended before the line above
        sys.exit(1)
    os.execvp(line[0], line)  # noqa: S606  (the caller's own command; it takes this process's place)


if __name__ == "__main__":
    main(sys.argv[1:])
