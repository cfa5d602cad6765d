"""What a run's folder says of its network, checked as if a stranger had written it before anything is built from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from auxjax import config as configs
from auxjax import run
from auxjax.check import finalize
from auxjax.errors import AuxjaxError
from auxjax.manifest import shown
from auxjax.storage import Folder, PathLike, place

# Far beyond any network that was trained, and small enough that a description of nonsense is refused in seconds.
_LARGEST_FIELD = 2**20
_MOST_CALLS = 10_000
_NO_SIZES = ("weight", "stop_gradient")  # what of a head may count steps


def read(workdir: PathLike, *sections: str) -> tuple[Folder, Any, dict[str, Any]]:
    """Returns (folder, config, dataset) of a run, of whose config `sections` are checked and complete.

    Only those, since a run of another version may have keys that this one has not; keys that it lacks get their
    defaults. Raises AuxjaxError where there is no run, and for what is no config: types, names and sizes.
    """
    folder = place(workdir)
    given, dataset = configs.plain(run.read_config(folder)), run.read_dataset(folder)
    full = configs.base().to_dict()
    for section in sections:
        if section not in given:
            raise AuxjaxError(f"{folder / 'config.json'} has no {section!r}: it was damaged, or edited by hand")
        known = isinstance(full[section], dict) and section not in configs.OPEN and isinstance(given[section], dict)
        full[section] = full[section] | given[section] if known else given[section]
    check_sizes(full["model"], f"{folder / 'config.json'}: model")
    for name, head in full["heads"].items() if isinstance(full["heads"], dict) else ():
        fields = {key: value for key, value in head.items() if key not in _NO_SIZES} if isinstance(head, dict) else head
        check_sizes(fields, f"{folder / 'config.json'}: head {shown(str(name))}")
    try:
        made = configs.plain(finalize(full))
    except AuxjaxError as error:
        raise AuxjaxError(f"{folder / 'config.json'}: {shown(str(error), 600)}") from None
    return folder, ConfigDict(given | {section: made[section] for section in sections}).lock(), dataset


@contextlib.contextmanager
def building(folder: Folder) -> Iterator[None]:
    """Makes one line of whatever building from a description raises, and ends what would never end."""
    calls = 0

    def count(following: Any, args: Any, kwargs: Any, context: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > _MOST_CALLS:
            raise AuxjaxError(f"the network in {folder} has no end: its config was damaged, or edited by hand")
        return following(*args, **kwargs)

    try:
        with nn.intercept_methods(count):
            yield
    except AuxjaxError as error:
        if len(str(error)) <= 600:
            raise
        raise AuxjaxError(shown(str(error), 600)) from None
    except Exception as error:
        text = shown(" ".join(str(error).split()))
        raise AuxjaxError(f"the config in {folder} makes no network ({type(error).__name__}: {text})") from error


def check_sizes(fields: Any, where: str) -> None:
    """Raises AuxjaxError for a number in a network's fields that is out of all proportion."""
    for leaf in jax.tree.leaves(fields):
        if isinstance(leaf, int) and abs(leaf) > _LARGEST_FIELD:
            raise AuxjaxError(f"{where} has {shown(str(leaf))}: no network is that large")
