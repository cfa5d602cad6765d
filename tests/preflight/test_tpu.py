"""libtpu's own compiler on slices that are not here: needs the extra tpu, and minutes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import pytest

from auxjax.preflight import run, steps, topology
from tests.preflight.test_run import config

pytestmark = [
    pytest.mark.slow_study,
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu"),
]


def test_data_parallelism_sums_every_gradient_once_and_ships_no_head(tmp_path: Path) -> None:
    found = run.preflight(config(), "v5e:2x4", keep=tmp_path / "step.compiled")
    gradients = sum(4 * x.size for x in jax.tree.leaves(steps.step_of(found.config).state.params))
    sums = [item for item in found.compiled.collectives if item.kind == "all-reduce"]
    # Beside the gradients only K losses, their counts and correct answers.
    assert gradients <= sum(item.times * item.bytes for item in sums) < gradients + 200
    assert found.identical and found.compiled.fits and found.compiled.memory.alias > gradients
    assert (tmp_path / "step.compiled").stat().st_size > 10_000


def test_what_is_sharded_is_gathered_and_takes_less_room() -> None:
    wide = {"model.width": 1024}
    whole, split = (
        run.preflight(config(**wide, **{"parallel.mode": mode}), "v5e:2x4", prove=False) for mode in ("jit", "fsdp")
    )
    kinds = {item.kind for item in split.compiled.collectives}
    assert "all-gather" in kinds and "all-gather" not in {item.kind for item in whole.compiled.collectives}
    assert split.compiled.memory.argument < whole.compiled.memory.argument / 3


def test_a_batch_that_no_chip_holds_is_answered_with_one_that_fits() -> None:
    large = {"model.width": 16384, "data.batch_size": 2**19}
    found = run.preflight(config(**large), "v5e:2x2", prove=False)
    assert not found.compiled.fits and found.best is not None
    assert "does not fit v5e:2x2" in run.verdict(found)


@pytest.mark.parametrize("generation", topology.CHIPS)
def test_every_generation_has_devices_of_every_shape_up_to_64_chips(generation: str) -> None:
    chip = topology.CHIPS[generation]
    for shape in topology.shapes(chip):
        slice_ = topology.Slice(chip, shape)
        if slice_.chips <= 64:
            assert len({d.process_index for d in topology.devices(slice_)}) == slice_.hosts
