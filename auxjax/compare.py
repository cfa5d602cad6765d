"""Arms side by side: the same training over several seeds, and what each arm costs and does to the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import tqdm.auto

from auxjax import build, statistics
from auxjax.attach import strip
from auxjax.check import finalize
from auxjax.diagnostics import gradient_norm
from auxjax.heads import cost
from auxjax.train import Result, evaluate, train


class Arm(NamedTuple):
    """One arm's runs and costs; `norms` are gradient norms by layer at the first step, a dict a seed.

    FLOPs are XLA's count for one example: of a training step, and of the stripped network's inference.
    """

    name: str
    results: list[Result]
    norms: list[dict[str, float]]
    train_params: int
    train_flops: float
    stripped_params: int
    stripped_flops: float
    from_disk: dict[str, float]


def run_arm(name: str, config: Any, seeds: int, workdir: Path, bar: tqdm.auto.tqdm[Any]) -> Arm:
    """Returns the arm of `config` over seeds 0 to `seeds` - 1, each run in a folder of its own and resumed from it."""
    results, norms = [], []
    folder = workdir / name.replace(", ", "_")
    for seed in range(seeds):
        config.seed = seed
        bar.set_description(f"{name}, seed {seed}")
        results.append(train(config, folder / f"seed_{seed}", progress=False))
        norms.append(first_gradient_norms(config))
        bar.update(1)
    setup = build.setup(finalize(config))
    model, image = setup.program.attached.model, jax.ShapeDtypeStruct((1, *setup.dataset.image_shape), jnp.float32)
    stripped = cost(model, image)
    return Arm(
        name=name, results=results, norms=norms,
        train_params=_size(setup.state.params), train_flops=training_flops(setup) / config.data.batch_size,
        stripped_params=_size(strip({"params": setup.state.params})), stripped_flops=stripped["flops"],
        from_disk=evaluate(folder / "seed_0"),
    )  # fmt: skip


def first_gradient_norms(config: Any) -> dict[str, float]:
    """Returns the gradient norm by layer of the first training batch at the initial parameters."""
    setup = build.setup(finalize(config))
    return gradient_norm.by_layer(setup.state, build.first_batch(setup))


def training_flops(setup: build.Setup) -> float:
    """Returns XLA's count of one training step's FLOPs before optimisation."""
    from auxjax.step import train_step

    analysis: Any = jax.jit(train_step).lower(setup.state, build.first_batch(setup)).cost_analysis()
    return float(analysis["flops"])


def row(arm: Arm, target: float) -> dict[str, Any]:
    """Returns an arm's line of the table: accuracy and first-layer gradient norm over seeds, steps to target, costs."""
    steps = [statistics.steps_to_target(r.history, "test", "accuracy/main", target) for r in arm.results]
    return {
        "accuracy": statistics.spread([r.evaluation["accuracy/main"] for r in arm.results]),
        "steps": statistics.median_steps(steps),
        "reached": sum(s is not None for s in steps),
        "seeds": len(steps),
        "first_layer_norm": statistics.spread([next(iter(norms.values())) for norms in arm.norms]),
    }


def paired_difference(a: Arm, b: Arm) -> statistics.Spread:
    """Returns the difference in main's test accuracy, b minus a, paired by seed."""
    pairs = zip(a.results, b.results, strict=True)
    return statistics.spread([y.evaluation["accuracy/main"] - x.evaluation["accuracy/main"] for x, y in pairs])


def _size(params: Mapping[str, Any]) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
