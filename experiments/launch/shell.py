"""Commands are printed, then run: captured, or line by line with the worker's number before each."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

Result = TypeVar("Result")


class LaunchError(Exception):
    """A mistake, or a command that failed; its message is one line, with what to do."""


class Done(NamedTuple):
    """What a command gave: exit code, standard output, standard error."""

    code: int
    out: str
    error: str


def say(text: str) -> None:
    """Prints one line in one piece, so that lines of several threads do not mix."""
    print(text + "\n", end="", flush=True)


def show(argv: Sequence[str]) -> None:
    """Prints a command as it may be pasted into a shell."""
    say(f"$ {shlex.join(argv)}")


def capture(argv: Sequence[str]) -> Done:
    """Runs a command without printing it, for polls; one that is not installed is a LaunchError."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except FileNotFoundError:
        raise LaunchError(f"there is no command {argv[0]!r} on this machine: install it first") from None
    return Done(done.returncode, done.stdout, done.stderr)


def stream(argv: Sequence[str], prefix: str) -> int:
    """Prints a command, runs it, prints each line as it comes after `prefix`, and returns the exit code."""
    show(argv)
    try:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        raise LaunchError(f"there is no command {argv[0]!r} on this machine: install it first") from None
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            say(prefix + line.rstrip("\n"))
    return process.returncode


def each(function: Callable[[int], Result], count: int) -> list[Result]:
    """Returns `function(0), ..., function(count - 1)`, all at once in threads."""
    with ThreadPoolExecutor(max_workers=max(count, 1)) as pool:
        return list(pool.map(function, range(count)))


def last_line(text: str) -> str:
    """Returns the last line that is not empty: where a command says what went wrong."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
