"""A run that diverged counts, and never makes its arm look better than one that trained badly to the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from auxjax.report.content import Content, gather
from tests.report.made_runs import make_run

HEADS = {"aux1": ("layer_1", 0.3)}
RATE = "optimizer.learning_rate"


def stop(folder: Path, status: str, step: int) -> None:
    """Marks a run as ended at a step, as training does, for what it recorded until then."""
    (folder / "FAILED").write_text(json.dumps({"error": "loss is nan", "step": step, "status": status}))


def write(folder: Path, status: str, stops: tuple[int, ...]) -> Path:
    """Five seeds, test evaluated at the end alone: heads are 5 points better where they do not end at `stops`."""
    for seed in range(5):
        make_run(folder / f"plain{seed}", {}, seed, 0.8, split="validation", points=6)
        at = stops[seed] if seed < len(stops) else None
        made = make_run(folder / f"heads{seed}", HEADS, seed, 0.85, split="validation", points=6, stop=at)
        if at is not None:
            stop(made, status, at + 1)
    return folder


def arm(content: Content) -> dict[str, str]:
    """The texts of the headline's row of the heads."""
    row = content.table.rows[content.table.marks.index("at layer_1")]
    return {column.label: cell.text for column, cell in zip(content.table.columns, row, strict=True)}


def test_runs_that_diverged_count_with_chance_and_it_is_said(tmp_path: Path) -> None:
    content = gather([write(tmp_path, "diverged", (0, 300))])
    row = content.headline.rows[1]
    assert row.value is not None and row.verdict is not None
    assert row.n == row.value.n == row.verdict.paired.n == 5
    assert row.value.value == pytest.approx((2 * 0.1 + 3 * 0.85) / 5)
    assert row.verdict.paired.difference.value == pytest.approx((2 * -0.7 + 3 * 0.05) / 5)
    assert row.verdict.word != "helped"
    assert content.headline.selection is not None and content.headline.selection.arm == "no heads"
    assert (
        "2 of 10 runs diverged: heads0 (diverged at step 1: loss is nan); heads1 (diverged at step 301: loss is nan). "
        "In the arms that are compared each counts with the accuracy of chance, 10 %."
    ) in content.unsupported
    assert "a run that diverged with the accuracy of chance" in content.rules[-1]


def test_runs_that_diverged_are_as_late_as_runs_that_never_arrive(tmp_path: Path) -> None:
    write(tmp_path / "diverged", "diverged", (0, 100))
    write(tmp_path / "slow", "diverged", ())
    for seed in range(2):
        (tmp_path / "slow" / f"heads{seed}").rename(tmp_path / f"unused{seed}")
        make_run(tmp_path / "slow" / f"heads{seed}", HEADS, seed, 0.3, split="validation", points=6)
    diverged, slow = (gather([tmp_path / name], targets=[0.75]).headline.rows[1] for name in ("diverged", "slow"))
    assert diverged.times is not None and diverged.times == slow.times
    assert (diverged.times.reached, diverged.times.n) == (3, 5)
    assert diverged.speed_up == slow.speed_up


def test_what_failed_for_another_reason_does_not_count_yet(tmp_path: Path) -> None:
    content = gather([write(tmp_path, "failed", (0, 300))])
    assert arm(content)["n"] == "3"
    assert any(text.startswith("2 of 10 runs failed: heads0 (failed at step 1") for text in content.unsupported)


@pytest.mark.parametrize("metric", ["accuracy/main", "loss/main"])
@pytest.mark.parametrize("status", ["diverged", "failed"])
def test_a_rate_at_which_a_run_did_not_end_is_not_chosen(tmp_path: Path, metric: str, status: str) -> None:
    """The greater rate is better at every step that both were seen at."""
    for rate, final in ((0.1, 0.7), (0.3, 0.9)):
        for seed in range(2):
            at = 500 if rate == 0.3 and seed == 1 else None
            made = make_run(
                tmp_path / "runs" / f"{rate},{seed}", HEADS, seed, final, split="validation", points=6, stop=at,
                optimizer__learning_rate=rate,
            )  # fmt: skip
            if at is not None:
                stop(made, status, at)
    (tmp_path / "ablation.json").write_text(json.dumps({"tuned": RATE, "base": {RATE: 0.1}}))
    content = gather([tmp_path], metric=metric)
    assert [arm.config[RATE] for arm in content.arms] == [0.1]
    said = "1 of 4 runs diverged, 0 of them in the arms that are compared" if status == "diverged" else "1 of 4 runs f"
    assert any(text.startswith(said) for text in content.unsupported)
