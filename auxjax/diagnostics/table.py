"""Records of diagnostics as text: an aligned table for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# What every record has, shown in its first line.
_WHAT = ("diagnostic", "loss")
_HEADER = (*_WHAT, "step", "split", "examples", "seconds")
# What the axes of a list stand for, a row and a column; of three, the middle one is shown for main alone.
_AXES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("weights", "trace", "norm_squared", "noise_scale", "minibatch_trace"), ("losses",)),
    "noise_to_signal": ("losses",),
    **dict.fromkeys(("norm", "unweighted", "trace_by_layer", "norm_squared_by_layer"), ("losses", "layers")),
    **dict.fromkeys(("cosine", "magnitude"), ("layers", "losses", "losses")),
    "conflict": ("losses", "losses"),
    "cka": ("layers", "layers"),
}
_LABELS = ("layers", "losses", "heads")


def table(record: Mapping[str, Any]) -> str:
    """Returns a record as lines: what it is, its numbers, and aligned tables of lists by layer, loss or head.

    Layers go down the page where the other axis is losses. A list whose axes have no names is shown if it is short.
    """
    labels = {key: list(record[key]) for key in _LABELS if key in record}
    loss = record.get("loss")  # of a landscape the losses
    what = str(record["diagnostic"]) + (f" of {loss}" if isinstance(loss, str) else "")
    where = ", ".join(f"{key} {_cell(record[key])}" for key in _HEADER if key in record and key not in _WHAT)
    lines, columns, matrices = [f"{what} ({where})"], dict[str, dict[str, Sequence[Any]]](), []
    for key, value in record.items():
        if key in (*_HEADER, *_LABELS) and not (key == "loss" and isinstance(value, list)):
            continue
        axes = _AXES.get(key, ()) if key != "accuracy" else tuple(labels)[:1]
        if not isinstance(value, list) or not axes or any(axis not in labels for axis in axes):
            lines.append(f"  {key}: {_nested(value)}")
        elif len(axes) == 1:
            columns.setdefault(axes[0], {})[key] = value
        elif len(axes) == 2:
            matrices.append(_matrix(key, value, *(labels[axis] for axis in axes)))
        else:
            shown = [row[0] for row in value]
            matrices.append(_matrix(f"{key} with {labels[axes[1]][0]}", shown, labels[axes[0]], labels[axes[2]]))
    for axis, found in columns.items():
        rows = zip(labels[axis], *found.values(), strict=False)  # weights have no row of a total
        matrices.insert(0, _aligned(["", *found], [[name, *map(_cell, cells)] for name, *cells in rows]))
    return "\n".join([*lines, *(line for matrix in matrices for line in matrix)])


def _matrix(title: str, value: Sequence[Sequence[Any]], rows: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Returns the lines of a matrix, by layers and losses with a row a layer; a list by losses may lack the total."""
    if rows is not columns and "main" in rows:
        rows, columns, value = columns, rows, list(zip(*value, strict=True))
    cells = [[name, *map(_cell, row)] for name, row in zip(rows, value, strict=False)]
    return _aligned([title, *columns][: len(cells[0])], cells)


def _aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  " + "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in (header, *rows)
    ]


def _nested(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {_nested(v)}" for key, v in value.items()) + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(_nested, value)) + "]" if len(value) <= 8 else f"{len(value)} numbers"
    return _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
