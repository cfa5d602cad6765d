"""The page of weightings: every method, its source, what it looks at, what that costs, and what it promises."""

from __future__ import annotations

from auxjax.weighting.protocol import PROMISES, Method
from auxjax.weighting.registry import FAMILIES

_LOOKS = {
    "losses": "losses", "gramian": "Gramian", "gradients": "gradients", "held_out": "held-out loss",
    "losses_after": "losses after the step",
}  # fmt: skip


def table() -> str:
    """Returns the page as Markdown: a table for each family."""
    lines = []
    for family, methods in FAMILIES.items():
        lines += [f"**{family[0].upper()}{family[1:]}**", ""]
        lines += ["| method | source | looks at | cost | promises | peers |", "|---|---|---|---|---|---|"]
        lines += [*(_row(name, method) for name, method in methods.items()), ""]
    lines += [f"- `{name}`: {meaning}" for name, meaning in PROMISES.items()]
    return "\n".join(lines)


def _row(name: str, method: Method) -> str:
    needs = method.make().needs
    looks = ", ".join(text for need, text in _LOOKS.items() if need in needs)
    promises = ", ".join(f"`{promise}`" for promise in PROMISES if promise in method.promises)
    return f"| `{name}` | {method.source} | {looks} | {_cost(method, needs)} | {promises} | {method.peers} |"


def _cost(method: Method, needs: frozenset[str]) -> str:
    """Returns the cost of a step over the plain one: r is the trunk's share of a step that is its backward pass."""
    parts = ["1"]
    parts += ["(K - 1) r"] if needs & {"gramian", "gradients"} else []
    parts += ["main's loss on a quarter of the batch"] if "held_out" in needs else []
    parts += ["a forward pass"] if "losses_after" in needs else []
    return " + ".join([*parts, *([method.more_cost] if method.more_cost else [])])
