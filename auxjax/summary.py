"""summary(): a table of a network with its taps, its heads, and what each part costs."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from auxjax import flops
from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.heads import Head
from auxjax.taps import list_taps, method_of, mode_flags, parse, reads

_HEADER = ("tap", "output", "parameters", "MFLOP", "heads")
_HEADS_HEADER = ("head", "at", "module", "loss", "weight", "parameters", "MFLOP", "in training", "in inference")

Cells = list[tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One tap: its output with the batch, the parameters and FLOPs an example inside it, the heads that read it."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    params: int
    flops: float
    heads: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class HeadRow:
    """One head, and its cost an example; an inference program has none of it."""

    name: str
    at: str
    module: str
    loss: str
    weight: str
    params: int
    flops: float


@dataclasses.dataclass(frozen=True)
class Summary:
    """A network as rows; `params` and `flops` (of a forward pass, an example) are the model's alone: what ships."""

    rows: tuple[Row, ...]
    heads: tuple[HeadRow, ...]
    params: int
    flops: float

    @property
    def training_params(self) -> int:
        """The parameters with all heads."""
        return self.params + sum(head.params for head in self.heads)

    @property
    def training_flops(self) -> float:
        """The FLOPs of a forward pass with all heads, an example."""
        return self.flops + math.fsum(head.flops for head in self.heads)

    def __str__(self) -> str:
        return "\n\n".join(_text(*table) for table in self._tables())

    def _repr_html_(self) -> str:
        return "".join(_html(*table) for table in self._tables())

    def _tables(self) -> Iterator[tuple[tuple[str, ...], Cells]]:
        """Returns header and cells of the tables: taps, heads where there are any, totals."""
        yield (
            _HEADER,
            [
                (row.path, f"{row.dtype}{list(row.shape)}", *_cost(row.params, row.flops), ", ".join(row.heads))
                for row in self.rows
            ],
        )
        if self.heads:
            yield _HEADS_HEADER, [
                (
                    head.name, head.at, head.module, head.loss, head.weight, *_cost(head.params, head.flops),
                    f"{_more(head.flops, self.flops)} FLOPs, {_more(head.params, self.params)} parameters", "0",
                )
                for head in self.heads
            ]  # fmt: skip
        totals: Cells = [("model, which ships", *_cost(self.params, self.flops))]
        if self.heads:
            params, work = self.training_params, self.training_flops
            totals.append(("heads", *_cost(params - self.params, work - self.flops)))
            totals.append(("model and heads, in training", *_cost(params, work)))
        yield ("total", "parameters", "MFLOP"), totals


def summary(network: nn.Module | Attached, *inputs: Any, depth: int = 1) -> Summary:
    """Returns the table of a model, or of one with heads, called on `inputs` (arrays or shape structs) in inference.

    A row is a tap in the order in which outputs come to be, a module after those inside it; `depth` limits the nesting
    of paths, 1 being the top-level submodules, except where a head reads. FLOPs are of one forward pass and one
    example, as `auxjax.flops.count` counts them; the first input's first axis is the batch. A module called more than
    once, or with several outputs, has all its parameters and FLOPs in its first row. The backward pass costs the model
    and the heads about twice their forward pass alike. Nothing is computed.
    Raises AuxjaxError where the first input has no batch and for a tap that the model does not have.
    """
    model, heads = (network.model, dict(network.heads)) if isinstance(network, Attached) else (network, {})
    if not inputs or not getattr(inputs[0], "shape", ()):
        raise AuxjaxError("summary needs the model's inputs, as summary(model, jnp.zeros((1, 224, 224, 3)))")
    variables, work = _of_module(model, *inputs)
    shapes = Attached(model, network.heads).tap_shapes(variables, *inputs) if isinstance(network, Attached) else {}
    batch = inputs[0].shape[0]
    rows = _rows(model, inputs, variables, work, heads, depth, batch)
    head_rows = tuple(_head_row(name, heads[name], shape, batch) for name, shape in shapes.items())
    return Summary(rows, head_rows, _params(variables), math.fsum(work.values()) / batch)


def _of_module(module: nn.Module, *inputs: Any) -> tuple[Any, dict[str, float]]:
    """Returns a module's variables as shapes, and its FLOPs in inference by scope."""
    flags = mode_flags(method_of(module, None), False, {})
    key = jax.eval_shape(lambda: jax.random.key(0))
    rngs = {"params": key, "dropout": key}
    variables = jax.eval_shape(lambda r, i: module.init(r, *i, **flags), rngs, inputs)
    work = flops.count(lambda v, r, i: module.apply(v, *i, rngs=r, **flags), variables, rngs, inputs)
    return variables, work


def _rows(
    model: nn.Module, inputs: Any, variables: Any, work: Mapping[str, float], heads: Mapping[str, Head], depth: int,
    batch: int,
) -> tuple[Row, ...]:  # fmt: skip
    taps = list_taps(model, *inputs)
    inside = _by_module(work, {parse(name).path for name in taps})
    rows: list[Row] = []
    seen: set[tuple[str, ...]] = {()}  # the model itself is in the totals
    for name, shape in taps.items():
        path = parse(name).path
        readers = tuple(head for head, entry in heads.items() if reads(entry.at, name))
        if not readers and (len(path) > depth or not path):
            continue
        first = path not in seen
        seen.add(path)
        params = _params(variables, path) if first else 0
        rows.append(
            Row(name, shape.shape, shape.dtype.name, params, inside.get(path, 0.0) / batch if first else 0.0, readers)
        )
    return tuple(rows)


def _by_module(work: Mapping[str, float], known: set[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Returns the FLOPs inside each module, those of its submodules among them, from FLOPs by scope.

    A scope also has the name of the model's class, `module.method` for a method, and the user's own names; what
    does not lead to a known module is passed over.
    """
    modules = {path[:length] for path in known for length in range(len(path) + 1)}
    totals: dict[tuple[str, ...], float] = {}
    for scope, value in work.items():
        path: tuple[str, ...] = ()
        for part in scope.split("/"):
            below = (*path, part.partition(".")[0])
            path = below if below in modules else path
        for length in range(len(path) + 1):
            totals[path[:length]] = totals.get(path[:length], 0.0) + value
    return totals


def _params(variables: Any, path: tuple[str, ...] = ()) -> int:
    node: Any = variables.get("params", {})
    for name in path:
        node = node.get(name, {}) if isinstance(node, Mapping) else {}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(node))


def _head_row(name: str, head: Head, shape: jax.ShapeDtypeStruct, batch: int) -> HeadRow:
    variables, work = _of_module(head.module, shape)
    loss = head.loss if isinstance(head.loss, str) else getattr(head.loss, "__name__", "a function")
    weight = head.weight.get("name", "scheduled") if isinstance(head.weight, Mapping) else f"{head.weight:g}"
    kind = type(head.module).__name__
    return HeadRow(name, head.at, kind, loss, weight, _params(variables), math.fsum(work.values()) / batch)


def _cost(params: int, work: float) -> tuple[str, str]:
    return f"{params:,}", f"{work / 1e6:,.3f}"


def _more(part: float, whole: float) -> str:
    return f"+{100 * part / whole:.1f} %" if whole else "-"


def _numeric(cells: Cells, column: int) -> bool:
    return all(row[column].replace(",", "").replace(".", "").isdigit() for row in cells)


def _text(header: tuple[str, ...], cells: Cells) -> str:
    """Returns a table of aligned columns, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(len(header))]
    right = [_numeric(cells, i) for i in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        parts = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(parts).rstrip()

    return "\n".join([line(header), "  ".join("-" * width for width in widths), *map(line, cells)])


def _html(header: tuple[str, ...], cells: Cells) -> str:
    """Returns a table without colours of its own, so that it suits a light page and a dark one."""
    align = ["right" if _numeric(cells, i) else "left" for i in range(len(header))]

    def line(tag: str, row: tuple[str, ...]) -> str:
        parts = zip(row, align, strict=True)
        return "<tr>" + "".join(f'<{tag} style="text-align:{a}">{html.escape(c)}</{tag}>' for c, a in parts) + "</tr>"

    rows = "".join(line("td", row) for row in cells)
    return f"<table><thead>{line('th', header)}</thead><tbody>{rows}</tbody></table>"
