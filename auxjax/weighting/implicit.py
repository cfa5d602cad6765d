"""A small network that makes one loss of the K, learned from main's held-out loss by implicit differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from auxjax.errors import AuxjaxError
from auxjax.weighting.bilevel import Learned, cut, held_out_in, positive_rate, products
from auxjax.weighting.directions import gradients_in
from auxjax.weighting.protocol import HeldOut, Method, Signals, Update, Weighting, combine
from auxjax.weighting.scalarized import bounded_losses, unless_alone

# The authors' library cuts the slope by the network's arrays at this length.
LONGEST_SLOPE = 10.0


class Network(NamedTuple):
    """A loss-combining network of one hidden layer: `inputs` [H, K], `biases` [H], `outputs` [H]."""

    inputs: jax.Array
    biases: jax.Array
    outputs: jax.Array


def combined_loss(losses: jax.Array, network: Network) -> jax.Array:
    """Returns h(L) = L_0 + outputs . softplus(inputs L + biases): rises with each loss if no array is negative."""
    return losses[0] + jnp.dot(network.outputs, jax.nn.softplus(network.inputs @ losses + network.biases))


def auxi_learn(learning_rate: float = 1e-3, width: int = 3, terms: int = 3) -> Weighting:
    """Learns a small monotone network that combines the K losses into one, by implicit differentiation.

    The step descends h(L; phi) = L_0 + u . softplus(W L + b), u, W >= 0: weights w = dh/dL, w_0 >= 1 and w_i >= 0. Then
    phi moves against dV/dphi = -d/dphi (sum_k w_k g_k . v), v = sum_{j=0}^{terms} (I - eta H)^j grad V(theta), by SGD
    with momentum 0.9 on that slope cut at the length 10, and u and W stop at 0. H is the exact Hessian of h by the
    trunk, sum_k w_k H_k + sum_kl h''_kl g_k g_l'. The state holds phi and the momentum. It adds one held-out gradient
    and `terms` products with the Hessian.

    Navon et al. 2021, arXiv 2007.02693, algorithms 1 and 2; width, terms and optimizer as in the authors' NYUv2 code,
    whose v leaves out the factor eta too, and whose series is scaled by the network's learning rate. Deviations: phi
    moves at every step, where they do so at every 50th, on losses of the batch and not of its examples; without weight
    decay; W and u start at 1/2, the mean of their uniform draw, and b is spread over [-1, 1], so that equal heads are
    treated alike. A hypergradient that is not finite, as of a diverging series, is left out.
    """
    if width < 1 or terms < 0:
        raise AuxjaxError(f"auxi_learn needs width >= 1 and terms >= 0, not {width!r} and {terms!r}")
    optimizer = optax.sgd(positive_rate("auxi_learn", learning_rate), momentum=0.9)

    def init(names: tuple[str, ...], trunk: Any) -> Learned:
        network = Network(jnp.full((width, len(names)), 0.5), jnp.linspace(-1, 1, width), jnp.full(width, 0.5))
        return Learned(network, optimizer.init(network))

    def update(signals: Signals, state: Learned) -> tuple[Update, Learned]:
        losses = bounded_losses(signals)
        network = jax.tree.map(lambda x: x.astype(losses.dtype), state.values)
        weights = jax.grad(combined_loss)(losses, network)
        slope = implicit_slope(held_out_in(signals), gradients_in(signals), losses, network, terms)
        typed = jax.tree.map(lambda s, x: s.astype(x.dtype), cut(slope, LONGEST_SLOPE), state.values)
        change, momentum = optimizer.update(typed, state.optimizer)
        moved = jax.tree.map(jnp.add, state.values, change)
        new = Network(jnp.maximum(moved.inputs, 0.0), moved.biases, jnp.maximum(moved.outputs, 0.0))
        return Update(unless_alone(weights)), Learned(new, momentum)

    return Weighting(init, update, frozenset({"held_out", "gradients", "losses"}))


def implicit_slope(
    held_out: HeldOut, gradients: Sequence[Any], losses: jax.Array, network: Network, terms: int
) -> Network:
    """Returns dV/dphi at a point where h(L; phi) is taken for minimal, by a Neumann series of 1 + `terms` terms."""
    slope_of = jax.grad(combined_loss)
    weights, rate = slope_of(losses, network), held_out.learning_rate

    def add_term(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], None]:
        """Moves on to (I - eta H) term: H is that of the losses, weighted, and what h bends between their slopes."""
        term, total = carry
        along = products(gradients, term).astype(losses.dtype)
        between = combine(jax.jvp(lambda x: slope_of(x, network), (losses,), (along,))[1], gradients)
        curved = jax.tree.map(jnp.add, held_out.hessian(weights, term), between)
        term = jax.tree.map(lambda t, c: t - rate.astype(t.dtype) * c.astype(t.dtype), term, curved)
        return (term, jax.tree.map(jnp.add, total, term)), None

    slope = held_out.gradient(None)[1]
    total = jax.lax.scan(add_term, (slope, slope), length=terms)[0][1]
    along = products(gradients, total).astype(losses.dtype)
    return jax.grad(lambda phi: -jnp.dot(slope_of(losses, phi), along))(network)


METHODS: dict[str, Method] = {
    "auxi_learn": Method(
        auxi_learn,
        "Navon et al. 2021, arXiv 2007.02693, algorithms 1 and 2",
        frozenset({"heads_symmetric"}),
        "the authors' (AvivNavon/AuxiLearn)",
        "3 products with the Hessian",
    ),
}
