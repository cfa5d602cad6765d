"""What a person looks at: a table of arms in the terminal, and a figure of learning curves and gradients by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from auxjax import statistics
from auxjax.compare import Arm, paired_difference, row

_COLUMNS = (
    "arm", "test accuracy, %", "steps to {:.0%}", "1st-layer gradient", "params train / stripped",
    "kFLOPs train / stripped",
)  # fmt: skip
# Grey for the plain network, blue for the one with heads: apart also in print and to the colour-blind.
_COLOURS = ("#777777", "#0b62a4")


def table(groups: Mapping[str, Sequence[Arm]], target: float) -> str:
    """Returns an aligned table, Markdown as well: a line an arm; means over seeds, lowest and highest in brackets."""
    lines = [[column.format(target) for column in _COLUMNS]]
    for arms in groups.values():
        for arm in arms:
            facts = row(arm, target)
            acc, norm = facts["accuracy"], facts["first_layer_norm"]
            steps = "never" if facts["steps"] is None else f"{facts['steps']:.0f}"
            lines.append([
                arm.name,
                f"{100 * acc.mean:.1f} [{100 * acc.low:.1f}, {100 * acc.high:.1f}]",
                f"{steps} ({facts['reached']} of {facts['seeds']})",
                f"{norm.mean:.1e} [{norm.low:.1e}, {norm.high:.1e}]",
                f"{arm.train_params:,} / {arm.stripped_params:,}",
                f"{arm.train_flops / 1e3:,.0f} / {arm.stripped_flops / 1e3:,.0f}",
            ])  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    text = [f"| {' | '.join(line)} |" for line in padded]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def verdict(arms: Sequence[Arm]) -> str:
    """Returns one sentence on two arms, made of what was measured: the paired difference with every seed's sign."""
    difference = paired_difference(*arms)
    seeds = len(arms[0].results)
    low, high = f"{100 * difference.low:+.1f}", f"{100 * difference.high:+.1f}"
    change = f"{100 * difference.mean:+.1f} points [{low}, {high}] over {seeds} seeds"
    if difference.low > 0:
        return f"heads raised accuracy in every seed: {change}"
    if difference.high < 0:
        return f"heads lowered accuracy in every seed: {change}"
    return f"heads made no consistent difference: {change}"


def figure(groups: Mapping[str, Sequence[Arm]], path: Path) -> None:
    """Writes a PNG: for each group of arms, test accuracy over steps, and the first step's gradient norm by layer.

    Lines are means over seeds, bands from the lowest seed to the highest.
    """
    from matplotlib.figure import Figure

    page = Figure(figsize=(5.2 * len(groups), 6.4), layout="constrained", dpi=120)
    axes = np.atleast_2d(page.subplots(2, len(groups), sharey="row").reshape(2, -1))
    for column, (group, arms) in enumerate(groups.items()):
        curves, layers = axes[0, column], axes[1, column]
        for arm, colour in zip(arms, _COLOURS, strict=True):
            runs = [statistics.curve(result.history, "test", "accuracy/main") for result in arm.results]
            _band(curves, runs[0][0], 100 * np.stack([values for _, values in runs]), arm.name, colour)
            norms = np.stack([list(norm.values()) for norm in arm.norms])
            _band(layers, np.arange(norms.shape[1]) + 1, norms, arm.name, colour)
        curves.set(title=group, xlabel="step", ylim=(0, 100))
        layers.set(xlabel="layer (the last is the classifier)", yscale="log")
        layers.set_xticks(np.arange(len(arms[0].norms[0])) + 1)
        for ax in (curves, layers):
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
        curves.legend(frameon=False, loc="lower right" if column else "center right")
    axes[0, 0].set_ylabel("test accuracy of main, %")
    axes[1, 0].set_ylabel("gradient norm at the first step")
    path.parent.mkdir(parents=True, exist_ok=True)
    page.savefig(path)


def _band(ax: object, x: np.ndarray, runs: np.ndarray, label: str, colour: str) -> None:
    ax.plot(x, runs.mean(0), label=label, color=colour, linewidth=1.8)  # type: ignore[attr-defined]
    ax.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)  # type: ignore[attr-defined]
