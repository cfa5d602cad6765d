"""An auxiliary loss that helps until halfway and then harms, as in Du et al. 2018 (arXiv 1812.02224): who notices?

python experiments/studies/harmful_auxiliary/run.py --output=docs/harmful_auxiliary.png

Main is |x - a|^2 and the auxiliary loss |x - b|^2 in the plane, from the same start and at one learning rate; b = a at
first, and then b is 8.1 away: from halfway on, when x has arrived at a, or early, when it has not. A method keeps main's
result where x ends at a; the plain sum ends in the middle. What descends on all losses stops wherever they disagree: at
a in the first case, short of it in the second.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from auxjax import cli

OUTPUT = flags.DEFINE_string("output", "harmful_auxiliary.png", "The figure.")
MAIN, ELSEWHERE, RATE, STEPS = np.array([1.0, -1.0]), np.array([-6.0, 3.0]), 0.02, 400
TURNS = {"from halfway on": 200, "early": 20}
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#7f7f7f")


def distances(method: Any, turn: int) -> Any:
    """Returns the distance of x from main's optimum after every step; b leaves it at step `turn`."""
    from auxjax.weighting.protocol import HeldOut, Signals, combine, gramian_of

    weighting = method.make()

    def step(carry: Any, index: jax.Array) -> tuple[Any, jax.Array]:
        x, state = carry
        optima = (jnp.asarray(MAIN), jnp.where(index < turn, MAIN, ELSEWHERE))
        gradients = tuple({"x": 2 * (x - optimum)} for optimum in optima)

        def gradient(direction: Any) -> tuple[jax.Array, Any]:
            at = x if direction is None else x - RATE * direction["x"]
            return jnp.sum((at - MAIN) ** 2), {"x": 2 * (at - MAIN)}

        def hessian(weights: jax.Array, vector: Any) -> Any:
            return {"x": 2 * weights.sum() * vector["x"]}

        seen = Signals(
            index, index / STEPS, jax.random.fold_in(jax.random.key(0), index),
            jnp.stack([jnp.sum((x - optimum) ** 2) for optimum in optima]), gramian_of(gradients), gradients,
            HeldOut(gradient, hessian, jnp.asarray(RATE)),
        )  # fmt: skip
        update, state = weighting.update(seen, state)
        weights = jnp.broadcast_to(update.weights, (2,))
        direction = combine(weights, gradients) if update.direction is None else update.direction
        x = x - RATE * direction["x"]
        if weighting.finish:
            after = jnp.stack([jnp.sum((x - optimum) ** 2) for optimum in optima])
            state = weighting.finish(seen._replace(losses_after=after), state)
        return (x, state), jnp.linalg.norm(x - MAIN)

    start = jnp.array([4.0, 3.0])
    carry = (start, weighting.init(("main", "aux"), {"x": start}))
    return np.asarray(jax.jit(lambda: jax.lax.scan(step, carry, jnp.arange(STEPS))[1])())


def main() -> None:
    """Prints how far from main's optimum each method ends, and draws the way there."""
    import matplotlib.pyplot as plt

    from auxjax.weighting.protocol import CONSTANT, Method
    from auxjax.weighting.registry import FAMILIES

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    print("| method | looks at | harmful from halfway on | harmful early |\n|---|---|---|---|")
    families = {"constant weight 1": {"constant": Method(lambda: CONSTANT, "")}, **FAMILIES}
    colours = dict(zip(families, ("black", *COLOURS), strict=True))
    for family, methods in families.items():
        for i, (name, method) in enumerate(methods.items()):
            paths = [distances(method, turn) for turn in TURNS.values()]
            for axes, path in zip(panels, paths, strict=True):
                width = 2 if family.startswith("constant") else 0.8
                axes.plot(path, color=colours[family], lw=width, label=family if i == 0 else None)
            print(f"| {name} | {family} | {paths[0][-1]:.3f} | {paths[1][-1]:.3f} |")
    for axes, (title, turn) in zip(panels, TURNS.items(), strict=True):
        axes.set(xlabel="step", yscale="log", ylim=(1e-4, 20), title=f"harmful {title}")
        axes.axvline(turn, color="grey", ls=":")
    panels[0].set_ylabel("distance from main's optimum")
    panels[0].legend(fontsize=8, loc="lower left")
    figure.savefig(OUTPUT.value, dpi=75)


if __name__ == "__main__":
    cli.run(main)
