"""The command line: a function per verb, everything heavy imported inside it, so that ``--help`` stays fast.

Exit codes: 0 done, 1 targets not met, 2 usage, 3 bad input, 4 the environment lacks something, 130 interrupted.
Every verb prints for people on standard output and, with ``--json``, one document for programs; logs go to standard
error.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; never lets a traceback through."""
    import click

    from whet.cli.verbs import whet
    from whet.errors import WhetError

    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return int(whet.main(args=arguments, prog_name="whet", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        return _fail(arguments, "interrupted", "interrupted", 130)
    except KeyboardInterrupt:
        return _fail(arguments, "interrupted", "interrupted", 130)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except WhetError as error:
        return _fail(arguments, error.slug, str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output, `| head` say, has left
        sys.stderr.close()
        return 141
    except Exception as error:  # noqa: BLE001  the last line of defence: a bug is reported, its traceback kept aside
        return _fail(arguments, "bug", _bug(error), 70)


def _fail(arguments: Sequence[str], slug: str, message: str, code: int) -> int:
    if "--json" in arguments:
        import msgspec

        document = {"error": {"slug": slug, "message": message, "exit_code": code}}
        sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
    sys.stderr.write(f"whet: {message}\n")
    return code


def _bug(error: Exception) -> str:
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="whet-bug-", suffix=".txt", delete=False) as stream:
        traceback.print_exception(error, file=stream)
    return (
        f"this is a bug in Whet ({type(error).__name__}); nothing of yours was changed. "
        f"The details are in {stream.name}: please report them"
    )
