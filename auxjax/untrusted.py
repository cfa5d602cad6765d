"""JSON that anybody may have written: an ordinary value, or one line that refuses it."""

from __future__ import annotations

import json
from typing import Any

from auxjax.errors import AuxjaxError
from auxjax.storage import Folder, size

_LARGEST = 16 * 2**20  # bytes of a file
_WIDEST = 2**24  # of an image's sides and channels, and of classes
_DEEPEST = 32  # objects and lists in one another, far from where Python's own recursion ends


def read_json(path: Folder, what: str) -> dict[str, Any]:
    """Returns a file's JSON object; raises AuxjaxError, telling to do `what`, where it is none."""
    try:
        if not path.is_file() or size(path) > _LARGEST:
            raise ValueError
        value = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise AuxjaxError(f"{path} is no JSON: {what}")
    return value


def parse(text: str) -> Any:
    """Returns the value of a JSON text; raises ValueError where it is none, or nested out of all proportion."""
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        inner = [item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list)]
        layer = [item for items in inner for item in items]
    return value


def is_size(value: Any) -> bool:
    """Returns whether a JSON value can be the size of an axis."""
    return type(value) is int and 0 < value < _WIDEST
