"""preflight() on the local device, a step that is kept and loaded, what is tried where nothing fits, and curves."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import auxjax
from auxjax import build, data, parallel
from auxjax import config as configs
from auxjax.attach import Attached
from auxjax.check import finalize
from auxjax.errors import AuxjaxError
from auxjax.preflight import keep, report, run, scaling, steps
from auxjax.preflight.collectives import Collective
from auxjax.preflight.compile import Compiled, Memory, compile_step, model_flops, needed_by
from auxjax.preflight.identity import same_inference
from auxjax.preflight.topology import parse
from tests.compilations import counted

GIB = 2**30


def config(**changes: Any) -> Any:
    """A PlainNet of two layers with a head, on the embedded digits."""
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 16}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.batch_size = 64
    made.parallel.num_devices = 1
    made.update_from_flattened_dict(changes)
    return made


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> tuple[run.Report, Path]:
    path = tmp_path_factory.mktemp("kept") / "step.compiled"
    return run.preflight(config(), keep=path), path


def test_the_shapes_are_those_of_a_run_that_is_initialised() -> None:
    made = finalize(config())
    dataset = data.load(made.data)
    steps_per_epoch, total_steps, _ = build.lengths(made, dataset)
    built = build.program(made, dataset.num_classes, steps_per_epoch, total_steps)
    real, step = build.initial_state(built, made, dataset), steps.step_of(made)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), real)  # checks that the trees are one
    assert jax.tree.leaves(shapes) == jax.tree.leaves(step.state)
    assert jax.tree.leaves(jax.tree.map(lambda a, b: a == b, shapes, step.state)) == [True] * len(jax.tree.leaves(real))


def test_a_data_set_that_is_not_here_has_its_published_size(tmp_path: Path) -> None:
    made = config(**{"data.name": "imagenet2012", "data.data_dir": str(tmp_path), "data.image_size": 224})
    dataset = steps.described(finalize(made))
    assert (dataset.num_classes, len(dataset.splits["train"]), dataset.image_shape) == (1000, 1_281_167, (224, 224, 3))
    made.data.image_size = 0
    with pytest.raises(AuxjaxError, match="have different sizes: set"):
        steps.described(finalize(made))


def test_published_sizes_are_those_of_the_sets_that_are_here() -> None:
    classes, examples, shape = steps.PUBLISHED["digits"]
    dataset = data.load(finalize(config()).data)
    assert (dataset.num_classes, len(dataset.splits["train"]), dataset.image_shape) == (classes, examples, shape)


def test_the_local_step_is_measured_and_its_inference_has_no_heads(here: tuple[run.Report, Path]) -> None:
    found = here[0]
    params = sum(x.size for x in jax.tree.leaves(steps.step_of(found.config).state.params))
    assert found.compiled.fits and found.identical
    assert found.compiled.memory.argument > 2 * 4 * params  # parameters and their momentum, and more
    assert found.measured is not None and found.measured > 0
    facts = run.facts(found)
    assert facts["measured_over_estimate"] == pytest.approx(found.measured / found.estimate.step)
    assert json.loads(json.dumps(facts)) == facts


def test_model_flops_are_those_of_products_done_by_hand(here: tuple[run.Report, Path]) -> None:
    # A layer's forward pass, its kernel's gradient and, but for the first, its input's; the head's too.
    products = 2 * 64 * 16 + 3 * (16 * 16 + 16 * 10 + 16 * 10)
    assert here[0].compiled.model_flops == 2 * 64 * products + 2 * 2  # and the weighted sum of two losses
    again = steps.step_of(finalize(config(**{"parallel.remat": "full"})))
    assert model_flops(again) == here[0].compiled.model_flops  # what is computed twice counts once


def test_inference_that_leans_on_a_head_is_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = Attached.apply

    def leaning(self: Attached, variables: Any, *inputs: Any, train: bool) -> Any:
        outputs = apply(self, variables, *inputs, train=True)
        return {"main": outputs["main"] + 0.1 * outputs["aux1"]}

    monkeypatch.setattr(Attached, "apply", leaning)
    assert not same_inference(steps.step_of(finalize(config())), parallel.layout("jit", 1))


def test_tables_and_files_hold_what_was_found(here: tuple[run.Report, Path], tmp_path: Path) -> None:
    shown = report.text([here[0]])
    assert "fits: " in shown and "the same program as without" in shown and report.NOTE in shown
    written = report.save([here[0]], tmp_path)
    assert json.loads(written[0].read_text())[0]["batch_size"] == 64
    assert "| plainnet | local | 1 | 64 |" in written[1].read_text()


def test_a_run_launched_with_a_kept_step_ends_with_the_same_bits(here: tuple[run.Report, Path]) -> None:
    short = {"train.total_epochs": 0.0, "train.total_steps": 4}
    kept = here[1].parent / "short.compiled"
    run.preflight(config(**short), prove=False, keep=kept)
    with counted() as loaded:
        found = auxjax.train(config(**short), progress=False, compiled=kept)
    with counted() as compiled:
        expected = auxjax.train(config(**short), progress=False)
    assert (loaded["training"], compiled["training"]) == (0, 1)
    for e, f in zip(jax.tree.leaves(expected.state.params), jax.tree.leaves(found.state.params), strict=True):
        np.testing.assert_array_equal(f, e)


def test_a_kept_step_is_loaded_for_nothing_else_and_from_nobody_else(
    here: tuple[run.Report, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found, path = here
    step, where, about = _belonging(found)
    other = {**about, "versions": {**about["versions"], "jax": "0.0.1"}}
    with pytest.raises(AuxjaxError, match=r"for something else: versions.jax: .* -> '0.0.1'; compile it again"):
        keep.load(path, step, where, other)
    with pytest.raises(AuxjaxError, match="no compiled step"):
        keep.load(tmp_path / "none", step, where, about)
    path.chmod(0o666)
    with pytest.raises(AuxjaxError, match=r"others can write .*chmod go-w"):
        keep.load(path, step, where, about)
    path.chmod(0o600)
    monkeypatch.setattr(os, "getuid", lambda: -1)
    with pytest.raises(AuxjaxError, match="another user's"):
        keep.load(path, step, where, about)


def test_what_cannot_be_is_refused_before_anything_compiles() -> None:
    with pytest.raises(AuxjaxError, match="batch_size=60 is not divisible by 8 devices; the nearest that is: 64"):
        run.preflight(config(**{"data.batch_size": 60}), "v5e:2x4")
    made = finalize(config(**{"parallel.mode": "pmap"}))
    with pytest.raises(AuxjaxError, match="jit or fsdp, not pmap"):
        compile_step(steps.step_of(made), parallel.layout("pmap", 1), GIB)


@pytest.mark.parametrize(
    ("refusal", "gibibytes"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm.", 20.5),
        ("RESOURCE_EXHAUSTED: HLO temporaries (27.02G) exceeds available HBM (15.75G).", 27.02),
    ],
)
def test_a_compilers_refusal_tells_what_is_needed(refusal: str, gibibytes: float) -> None:
    assert needed_by(refusal) == pytest.approx(gibibytes * GIB)
    with pytest.raises(AuxjaxError, match="the compiler refuses this step: INTERNAL: Used 1G"):
        needed_by("INTERNAL: Used 1G\nof nothing")


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A compiler for which a step needs a GiB for eight examples, half of it with remat=full and fsdp each."""
    compiled: list[Any] = []

    def compile_(step: Any, where: Any, memory: int, **_: Any) -> Compiled:
        compiled.append((where.mode, step.program.remat, step.batch_size))
        halves = (where.mode == "fsdp") + (step.program.remat == "full")
        needed = step.batch_size * GIB // 8 >> halves
        work = step.batch_size / 64 * 1e9 * (1 + halves)
        reduce = Collective("all-reduce", 10**6, 3, 0, False, True)
        return Compiled(Memory(temporary=needed), needed, memory, work, 1e6, work, [reduce], object())

    monkeypatch.setattr(run, "compile_step", compile_)
    monkeypatch.setattr(run, "devices", lambda slice_: tuple(range(slice_.devices)))
    return compiled


@pytest.mark.parametrize(
    ("batch", "best", "tries"),
    [(128, ("jit", "none", 128), 1), (256, ("jit", "full", 256), 6), (1024, ("fsdp", "full", 512), 7)],
)
def test_what_does_not_fit_gets_the_largest_batch_then_the_least_time(
    batch: int, best: tuple[Any, ...], tries: int, hungry: list[Any]
) -> None:
    found = run.preflight(config(**{"data.batch_size": batch}), "v5e:2x2", prove=False)
    chosen = found.best
    assert chosen is not None
    assert (chosen.config.parallel.mode, chosen.config.parallel.remat, chosen.batch_size) == best
    assert len(hungry) == tries
    if tries > 1:
        flags = f"mode={best[0]} --config.parallel.remat={best[1]} --config.data.batch_size={best[2]}"
        assert f"does not fit v5e:2x2: {batch / 8:.2f} GiB" in run.verdict(found) and flags in run.verdict(found)


def test_weak_scaling_on_paper_loses_what_the_collectives_take(hungry: list[Any]) -> None:
    found = run.preflight(config(), "v5e:4x4", prove=False)
    first, last = scaling.on_paper(found, ["v5e:16x16"])
    assert (first.batch_size, last.batch_size, first.efficiency) == (64, 1024, 1.0)
    assert last.efficiency == pytest.approx(found.estimate.step / last.seconds) and last.efficiency < 1
    with pytest.raises(AuxjaxError, match="stays within a generation"):
        scaling.on_paper(found, ["v5p:4x4x4"])


def test_a_sweep_keeps_the_batch_a_chip_or_the_whole(hungry: list[Any], tmp_path: Path) -> None:
    reports, points = scaling.sweep(config(), ["v5e:2x2", "v5e:2x4", "v5e:8x16"])
    sizes = {(p.kind, p.slice_.chips): p.batch_size for p in points}
    # 128 chips do not divide 64 examples.
    assert sizes == {("weak", 4): 64, ("strong", 4): 64, ("weak", 8): 128, ("strong", 8): 64, ("weak", 128): 2048}
    assert len(reports) == 4  # the first slice's two are one
    assert scaling.table(points).count("\n") == 2 + len(points)
    assert all(path.stat().st_size > 1000 for path in scaling.draw({"": points}, tmp_path))
    assert parse("v5e:8x16").chips == points[-1].slice_.chips


def _belonging(found: run.Report) -> tuple[steps.Step, parallel.Layout, dict[str, Any]]:
    where = parallel.Layout(found.config.parallel.mode, found.target.devices)
    return steps.step_of(found.config), where, keep.header(found.config, where)
