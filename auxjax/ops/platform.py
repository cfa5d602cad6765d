"""Which form of an operation is traced."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import jax

_library = contextvars.ContextVar("library", default=False)


@contextlib.contextmanager
def library_form() -> Iterator[None]:
    """Traces the library's own operations inside the block, which forward-mode derivatives and other targets need.

    A function that is compiled already keeps the form it was traced in.
    """
    token = _library.set(True)
    try:
        yield
    finally:
        _library.reset(token)


def fast_on_cpu() -> bool:
    """Returns whether operations are being traced in the form that is fast on a CPU."""
    return not _library.get() and jax.default_backend() == "cpu"
