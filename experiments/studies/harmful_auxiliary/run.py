"""An auxiliary loss that helps until halfway and then harms, as in Du et al. 2018 (arXiv 1812.02224): who notices?

python experiments/studies/harmful_auxiliary/run.py --output=docs/harmful_auxiliary.png

Main is |x - a|^2 and the auxiliary loss |x - b|^2 in the plane, from the same start and at one learning rate; b = a at
first, and then b is 8.1 away: from halfway on, when x has arrived at a, or early, when it has not. A method keeps
main's result where x ends at a; the plain sum ends in the middle. What descends on all losses stops wherever they
disagree: at a in the first case, short of it in the second.
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
# Nearer is as good as there.
FLOOR = 1e-3
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
    """Prints how far from main's optimum each method ends, and draws it."""
    import matplotlib.pyplot as plt

    from auxjax.weighting.protocol import CONSTANT, Method
    from auxjax.weighting.registry import FAMILIES

    families = {"constant weight 1": {"constant": Method(lambda: CONSTANT, "")}, **FAMILIES}
    rows = [(family, name, method) for family, methods in families.items() for name, method in methods.items()]
    print("| method | looks at | harmful from halfway on | harmful early |\n|---|---|---|---|")
    figure, axes = plt.subplots(figsize=(7.5, 9), layout="constrained")
    colours = dict(zip(families, ("black", *COLOURS), strict=True))
    for row, (family, name, method) in enumerate(rows):
        ends = [float(distances(method, turn)[-1]) for turn in TURNS.values()]
        print(f"| {name} | {family} | {ends[0]:.3f} | {ends[1]:.3f} |")
        label = family if name == next(iter(families[family])) else None
        shown = [max(end, FLOOR) for end in ends]
        axes.plot(shown, [row, row], color=colours[family], lw=0.8)
        axes.scatter(shown[1:], [row], color=colours[family], s=22, label=label)
        axes.scatter(shown[:1], [row], facecolors="white", edgecolors=colours[family], s=22, zorder=3)
    axes.set_yticks(range(len(rows)), [name for _, name, _ in rows], fontsize=7)
    axes.set(xscale="log", xlabel="distance from main's optimum (filled: harmful early; open: from halfway on)")
    axes.invert_yaxis()
    axes.grid(axis="y", lw=0.3)
    figure.legend(fontsize=7, loc="outside lower center", ncols=3)
    figure.savefig(OUTPUT.value, dpi=80)


if __name__ == "__main__":
    cli.run(main)
