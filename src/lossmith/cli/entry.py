"""`main`: runs a command and turns what went wrong into one message and an exit code.

0 done · 2 something that cannot be done, in one sentence · 130 Ctrl-C, 143 SIGTERM: what is finished is stored.
Any other exception is a bug of Lossmith or of the user's own code and keeps its traceback.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer

from lossmith.errors import Interrupted, UsageError

MISUSE, STOPPED, TERMINATED = 2, 128 + signal.SIGINT, 128 + signal.SIGTERM
_EXPRESSION = re.compile(r"-[^=]*[*/+^(].*", re.DOTALL)
_MISTAKE: Any = typer.BadParameter.__mro__[1]  # UsageError of typer, or of click under the older versions that need it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    from lossmith.cli.application import app

    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # no formula may break an old terminal
    given = [_shielded(text) for text in (sys.argv[1:] if arguments is None else arguments)]
    command = typer.main.get_command(app)
    with _signals() as arrived:
        try:
            code = command.main(args=given or ["--help"], prog_name="lossmith", standalone_mode=False)
            sys.stdout.flush()
        except UsageError as error:
            return _refuse(str(error))
        except _MISTAKE as error:
            return _refuse(_sentence(error))
        except Interrupted as error:
            _say(str(error))
            return TERMINATED if signal.SIGTERM in arrived() else STOPPED
        except BrokenPipeError:  # the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
    if code == STOPPED:  # Ctrl-C before anything was begun
        _say("stopped.")
    return code if isinstance(code, int) else 0


def _shielded(argument: str) -> str:
    """An expression such as -t*log(p) with a space before it, so that it is not taken for options."""
    return f" {argument}" if _EXPRESSION.fullmatch(argument) else argument


def _refuse(sentence: str) -> int:
    _say(sentence, "error: ")
    return MISUSE


def _say(sentence: str, opening: str = "") -> None:
    with suppress(BrokenPipeError):
        colour = opening and sys.stderr.isatty() and "NO_COLOR" not in os.environ
        print(f"\033[31m{opening}\033[0m{sentence}" if colour else f"{opening}{sentence}", file=sys.stderr, flush=True)


def _sentence(error: Any) -> str:
    """What typer has to say, and where the options are explained."""
    text = str(error.format_message()).strip()
    place = error.ctx.command_path if getattr(error, "ctx", None) else "lossmith"
    text = text if text.endswith(("?", "!", ".")) else f"{text}."
    return f"{text} `{place} --help` explains what it takes."


@contextmanager
def _signals() -> Iterator[Any]:
    """Gives a function that tells which signals have arrived, whoever handled them."""
    seen: set[int] = set()
    try:
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    except ValueError:  # not the main thread, where signals arrive
        yield lambda: seen
        return

    def arrived() -> set[int]:
        with suppress(BlockingIOError):
            seen.update(os.read(reader, 4096))
        return seen

    try:
        yield arrived
    finally:
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)
