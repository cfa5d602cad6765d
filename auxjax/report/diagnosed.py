"""Figures of the diagnostics, where runs recorded them: gradients by layer and by loss, their agreement, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from auxjax.report import numbers
from auxjax.report.arms import Arm
from auxjax.report.plots import Frame, Panel, Plot, Series
from auxjax.report.recorded import (
    FRAMES,
    PANELS,
    Record,
    by_loss_over_time,
    by_position,
    collect,
    known_values,
    matrices,
    mean_over_runs,
    over_time,
    positive,
    spread_out,
    to_grid,
)
from auxjax.statistics import Estimate


def plots(arms: Sequence[Arm]) -> tuple[list[Plot], list[str]]:
    """Returns the figures of all recorded diagnostics, and a line for each that cannot be drawn or has no figure."""
    drawn, notes = [], []
    recorded = {str(record["diagnostic"]) for arm in arms for run in arm.runs for record in run.diagnostics}
    known = {name.partition("/")[0] for name in _FIGURES}
    notes += [f"Records of {kind!r} are in diagnostics.jsonl, and have no figure." for kind in sorted(recorded - known)]
    for name, make in _FIGURES.items():
        kind = name.partition("/")[0]
        if kind not in recorded:
            continue
        try:
            drawn.append(make(arms))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            notes.append(f"The records of {kind} could not be drawn: {type(error).__name__}: {error}".split("\n")[0])
    return [plot for plot in drawn if plot.frames], notes


def profile_over_time(arms: Sequence[Arm]) -> Plot:
    """Returns the gradient's norm by layer and step as a picture for each arm, geometric mean over seeds."""
    panels: list[Panel] = []
    for arm in arms:
        found = collect(arm, "gradient_norm", lambda r: (tuple(r["layers"]), _total(r)))
        if len(found) > 1 and len(panels) < PANELS:
            layers = next(iter(found.values()))[0][0]
            steps = spread_out(list(found), 40)
            columns = [
                mean_over_runs([norm for names, norm in found[step] if names == layers], geometric=True)
                for step in steps
            ]
            grid = to_grid(layers, [str(step) for step in steps], np.log10(np.stack(columns, 1)))
            panels.append(Panel(arm.name, grid=grid, arm=arm.name))
    frames = [Frame("", "log10 of the gradient's norm", panels)] if panels else []
    note = "Norm of the weighted sum of all losses' gradients, geometric mean over seeds."
    return Plot("gradient_profile_over_time", "Gradient by layer over time", note, "step", frames)


def who_feeds(arms: Sequence[Arm]) -> Plot:
    """Returns how strongly each loss feeds each layer, a panel an arm with heads, a frame for each recorded step."""
    found = {
        arm.name: collect(arm, "gradient_norm", lambda r: (tuple(r["losses"]), tuple(r["layers"]), r["norm"]))
        for arm in arms
    }
    layers = next((run[1] for steps in found.values() for runs in steps.values() for run in runs), ())
    frames = []
    for step in spread_out(list({step for steps in found.values() for step in steps}), FRAMES):
        panels: list[Panel] = []
        for arm in arms:
            runs = [run for run in found[arm.name].get(step, []) if run[1] == layers]
            if runs and len(runs[0][0]) > 2 and len(panels) < PANELS:
                norm = mean_over_runs([values for losses, _, values in runs if losses == runs[0][0]], geometric=True)
                lines = [positive(loss, arm.name, row) for loss, row in zip(runs[0][0], norm, strict=True)]
                panels.append(Panel(arm.name, lines, arm=arm.name))
        frames.append(Frame(f"step {step}", "gradient norm", panels))
    note = "Norm of each weighted loss's gradient, geometric mean over seeds; a head feeds no layer above its tap."
    frames = [frame for frame in frames if frame.panels]
    return Plot("gradient_by_loss", "Which loss feeds which layer", note, "layer", frames, layers, "label", log=True)


def cosines_over_time(arms: Sequence[Arm]) -> Plot:
    """Returns the cosine of main's gradient with each head's over steps, all shared layers together."""
    panels: list[Panel] = []
    for arm in arms:
        found = collect(arm, "similarity", lambda r: (tuple(r["losses"]), r["cosine"][r["layers"].index("all")][0]))
        if found and len(panels) < PANELS:
            losses = next(iter(found.values()))[0][0]
            rows = np.stack(
                [mean_over_runs([row for names, row in runs if names == losses]) for runs in found.values()]
            )
            lines = [
                Series(loss, arm.name, list(map(float, found)), known_values(rows[:, i]))
                for i, loss in enumerate(losses) if loss != "main"
            ]  # fmt: skip
            panels += [Panel(arm.name, lines, arm=arm.name)] if lines else []
    frames = [Frame("", "cosine with main's gradient", panels)] if panels else []
    note = "Over all shared layers, mean over seeds. Below 0 a head pulls against main."
    return Plot("cosine_over_time", "Do the heads agree with main?", note, "step", frames, colours="label")


def at_the_end(
    kind: str, title: str, x_label: str, y_label: str, get: Callable[[Record], Any], log: bool = False
) -> Any:
    """Returns the maker of a figure of one curve (x, y) an arm, as its first run recorded it last."""

    def make(arms: Sequence[Arm]) -> Plot:
        lines = []
        for arm in arms:
            found = collect(arm, kind, get)
            if found:
                x, y = found[max(found)][0]
                lines.append(Series(arm.name, arm.name, list(map(float, x)), known_values(np.asarray(y, np.float64))))
        frames = [Frame("", y_label, [Panel("", lines)])] if lines else []
        note = "As each arm's first run recorded it last."
        return Plot(f"{kind}_at_the_end", title, note, x_label, frames, log=log)

    return make


def _total(record: Record) -> Any:
    return record["norm"][record["losses"].index("total")]


def _of_total(record: Record, key: str) -> Any:
    return record[key][record["losses"].index("total")]


def _by_loss(record: Record, key: str) -> dict[str, float | None]:
    return dict(zip(record["losses"], record[key], strict=True))


def _ratio(record: Record, name: str) -> Estimate | None:
    """Returns the estimate of a ratio; None where a mean was lost in noise."""
    found = record["ratio"][name]
    value, low, high = np.asarray([found[key] for key in ("value", "low", "high")], np.float64).tolist()
    return Estimate(value, low, high, 1) if value > 0 else None


def _mean_ratio(ratios: Sequence[Estimate]) -> Estimate:
    """Returns the geometric mean over runs with its interval, of one run what it recorded."""
    return ratios[0] if len(ratios) == 1 else numbers.mean_ratio([ratio.value for ratio in ratios])


def _landscape(arms: Sequence[Arm]) -> Plot:
    """Returns the loss along the recorded directions: lines where there is one of them, else a picture an arm."""
    flat = at_the_end("landscape", "Loss landscape", "distance", "loss", _along_a_line)(arms)
    panels: list[Panel] = []
    for arm in arms:
        found = collect(arm, "landscape", lambda r: (r["x"], r["y"], r["loss"]) if r["y"] is not None else None)
        if found and len(panels) < PANELS:
            x, y, loss = found[max(found)][0]
            grid = to_grid([f"{v:.3g}" for v in y], [f"{v:.3g}" for v in x], np.asarray(loss, np.float64))
            panels.append(Panel(arm.name, grid=grid, arm=arm.name))
    return flat if not panels else flat._replace(frames=[Frame("", "loss", panels)])


def _along_a_line(record: Record) -> Any:
    return (record["x"], record["loss"]) if record["y"] is None else None


# By the record's kind, and a word more where one kind makes several figures.
_FIGURES: dict[str, Callable[[Sequence[Arm]], Plot]] = {
    "gradient_norm": by_position(
        "gradient_norm", "Gradient by layer", "layer", "gradient norm", "layers", _total,
        "Norm of the weighted sum of all losses' gradients as each layer gets it, geometric mean over seeds.", log=True,
    ),
    "gradient_norm/over time": profile_over_time,
    "gradient_norm/by loss": who_feeds,
    "similarity": cosines_over_time,
    "similarity/matrix": matrices(
        "similarity", "Cosine between the losses' gradients", "losses", lambda r: r["cosine"][r["layers"].index("all")],
        "Over all shared layers, mean over seeds.", "cosine",
    ),
    "variance": over_time(
        "variance", "Gradient noise scale", {"noise scale, examples": lambda r: _of_total(r, "noise_scale")},
        "Variance of one example's gradient over its mean's squared norm; mean over seeds, 95 % interval.", log=True,
    ),
    "variance/by loss": by_loss_over_time(
        "variance", "Gradient variance by loss",
        {"variance of one example's gradient": lambda r: _by_loss(r, "trace"),
         "noise scale, examples": lambda r: _by_loss(r, "noise_scale")},
        "Of each loss without its weight, and of the weighted total; mean over seeds.", log=True,
    ),
    "paired_variance": over_time(
        "paired_variance", "Gradient variance with heads / of main alone",
        {"ratio at equal norms": lambda r: _ratio(r, "equal_norm"),
         "ratio of noise to signal": lambda r: _ratio(r, "noise_to_signal"),
         "ratio as it is": lambda r: _ratio(r, "trace")},
        "On the same batches at the same parameters: 0.7 is 30 % lower with heads. Geometric mean over seeds with its "
        "95 % interval, of one seed with that over batches. At equal norms both gradients are brought to one length.",
        mean=_mean_ratio,
    ),
    "hessian": over_time(
        "hessian", "Sharpness",
        {"largest eigenvalue": lambda r: max(r["eigenvalues"]), "trace": lambda r: r["trace"]},
        "Of the Hessian of the total loss where recorded, else of main's; mean over seeds, 95 % interval.",
    ),
    "hessian/density": at_the_end(
        "hessian", "Spectrum of the Hessian", "eigenvalue", "density",
        lambda r: (r["density"]["x"], r["density"]["y"]) if r.get("density") else None,
    ),
    "ntk": over_time(
        "ntk", "Alignment of the tangent kernel with the labels", {"alignment": lambda r: r["alignment"]},
        "Mean over seeds, 95 % interval.",
    ),
    "ntk/between": by_loss_over_time(
        "ntk", "Alignment of main's tangent kernel with each head's", {"alignment": lambda r: r["between"]},
        "By the parameters that both depend on; mean over seeds.",
    ),
    "ntk/spectrum": at_the_end(
        "ntk", "Spectrum of the tangent kernel", "rank", "eigenvalue",
        lambda r: (range(1, len(r["spectrum"]) + 1), r["spectrum"]), log=True,
    ),
    "probes": by_position(
        "probes", "Linear probes by depth", "layer", "accuracy of a linear probe, %", "layers",
        lambda r: r["accuracy"], "What each layer's features tell a linear classifier; mean over seeds.", scale=100.0,
    ),
    "exits": by_position(
        "exits", "Exits by depth", "exit, shallow to deep", "accuracy, %", "heads", lambda r: r["accuracy"],
        "Accuracy of each exit as the diagnostic recorded it; mean over seeds.", scale=100.0,
    ),
    "cka": matrices(
        "cka", "Similarity of the layers' features (CKA)", "layers", lambda r: r["cka"], "Mean over seeds.", "CKA",
        scale="sequential",
    ),
    "landscape": _landscape,
}  # fmt: skip
