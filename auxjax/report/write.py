"""A report's folder: report.html, summary.md, runs.csv and every figure as PNG and SVG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from auxjax.errors import AuxjaxError
from auxjax.report import figures, page, tables
from auxjax.report.content import TARGETS, Content, gather


class Written(NamedTuple):
    """A report on disk: its page, and the headline table as text."""

    path: Path
    table: str


def write(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    baseline: str = "",
    targets: Sequence[float] = TARGETS,
    metric: str = "accuracy/main",
    split: str = "test",
) -> Written:
    """Writes the report on the runs in `paths` into the folder `out`, and returns where its page is.

    `baseline` names the arm to compare with; `targets` are values of the metric whose times are told, the last in the
    headline. Raises AuxjaxError for no target, paths without runs, an unknown baseline, metric or split, and a folder
    that cannot be written.
    """
    content = gather(paths, baseline=baseline, targets=targets, metric=metric, split=split)
    folder = Path(out).expanduser().absolute()
    texts = {
        "summary.md": summary(content),
        "runs.csv": tables.runs_csv(content.runs, content.arms),
        "report.html": page.page(content),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        figures.write(content, folder / "figures")
    except OSError as error:
        raise AuxjaxError(f"report {str(folder)!r} cannot be written: {error.strerror}; give --out another") from None
    return Written(folder / "report.html", tables.markdown(content.table))


def summary(content: Content) -> str:
    """Returns the report's words and tables in Markdown."""
    parts = [f"# {_line(content.title)}", tables.markdown(content.table)]
    if content.supported:
        parts += ["## What the data support", _bullets([text for _, _, text in content.supported])]
    if content.unsupported:
        parts += ["## What they do not support", _bullets(content.unsupported)]
    parts += ["## How fast and how steadily", tables.markdown(content.progress_table)]
    if content.losses_table.rows:
        parts += ["## Main's loss along the training", tables.markdown(content.losses_table)]
    parts += ["## Runs", tables.markdown(content.runs_table), "## How it is computed", "\n\n".join(content.rules)]
    figures_made = [f"![{_line(plot.title)}](figures/{plot.name}.png)" for plot in content.plots]
    return "\n\n".join([*parts, "## Figures", *figures_made]) + "\n"


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_line(sentence)}" for sentence in sentences)


def _line(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
