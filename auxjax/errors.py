"""One-line errors that name what was wrong, what was expected and the nearest valid names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# A supervisor starts what ends with this code again: EX_TEMPFAIL of sysexits.h.
TRY_AGAIN = 75


class AuxjaxError(ValueError):
    """A mistake in what the user gave; its message is one line, and the entry points exit with code 2."""


class TryAgainError(AuxjaxError):
    """Nothing is wrong with the command, which goes on when what stopped it is mended: a full disk, a lost peer."""


class NotFiniteError(AuxjaxError):
    """A loss or gradient that is not finite, at `step`: the run diverged."""

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns "; did you mean 'x'?" for the closest valid names, or an empty string."""
    close = difflib.get_close_matches(name, list(valid), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""


def unknown(what: str, name: str, valid: Iterable[str]) -> AuxjaxError:
    """Returns the error for a name that is in no registry, with the nearest valid ones and then all of them."""
    names = sorted(valid)
    return AuxjaxError(f"unknown {what} {name!r}{nearest(name, names) or ';'} valid: {', '.join(names)}")


def missing_extra(package: str, extra: str) -> AuxjaxError:
    """Returns the error for an optional package that is not installed."""
    return AuxjaxError(f"package {package!r} is missing: pip install 'auxjax[{extra}]'")
