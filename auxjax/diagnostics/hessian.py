"""The Hessian of main, of each head and of their total by the model's parameters: top eigenvalues, trace, density."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from auxjax.diagnostics.inference import coefficients, loss_names, loss_sums, split
from auxjax.diagnostics.lanczos import Product, Tridiagonal, density, lanczos, rademacher, ritz
from auxjax.errors import AuxjaxError
from auxjax.state import Batch, TrainState


def hessian(
    state: TrainState, batch: Batch, *, loss: str = "main", eigenvalues: int = 5, steps: int = 40, probes: int = 2,
    samples: int = 16, pieces: int = 1, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Returns one record of the Hessian of a mean loss over the batch by the model's parameters, in inference mode.

    `loss` is "main", a head's name or "total", the weighted sum. The parameters of heads are constants; a layer above a
    head's tap has a Hessian of zero. The record has the largest `eigenvalues`, descending, with their `residuals` (an
    eigenvalue lies within that of each, rounding apart; one that is met several times is found once), from `steps` of
    Lanczos; the `trace` with its standard error, from `samples` vectors of signs; and the spectral `density`, from
    `probes` runs of Lanczos. That is about probes x steps + samples products, each of the cost of two gradients or
    so, and steps x P numbers for P parameters; `pieces` microbatches in turn take less memory beside them.
    In float32, eigenvalues below about 1e-6 of the largest are rounding.
    Raises AuxjaxError for an unknown loss, a count below 1 (`samples`: 2), and pieces that are not equal.
    """
    given = {"eigenvalues": eigenvalues, "steps": steps, "probes": probes, "samples": samples - 1}
    for name, count in given.items():
        if count < 1:
            raise AuxjaxError(f"hessian needs {name} of at least {2 if name == 'samples' else 1}")
    weights = coefficients(state, batch, loss)
    size = sum(x.size for x in jax.tree.leaves(state.params["model"]))
    steps = min(steps, size)
    # Every run's first product is a sample of the trace, so the runs that only serve the trace stop there.
    counts = np.where(np.arange(max(samples, probes)) < probes, steps, 1)
    matrices = jax.device_get(_spectrum(state, batch, weights, jax.random.key(seed), counts, steps, pieces))
    found = [ritz(Tridiagonal(*pair)) for pair in list(zip(*matrices, strict=True))[:probes]]
    x, y = density(found)
    traces = size * np.asarray(matrices.diagonal[:, 0], np.float64)
    return {
        "diagnostic": "hessian",
        "loss": loss,
        "eigenvalues": found[0].values[::-1][:eigenvalues].tolist(),
        "residuals": found[0].residuals[::-1][:eigenvalues].tolist(),
        "trace": float(traces.mean()),
        "trace_error": float(traces.std(ddof=1) / np.sqrt(len(traces))),
        "density": {"x": x.tolist(), "y": y.tolist()},
    }


def records(state: TrainState, batch: Batch, **keywords: Any) -> list[dict[str, Any]]:
    """Returns the record of every loss: main, each head and the total, from one compiled program."""
    return [hessian(state, batch, loss=loss, **keywords) for loss in loss_names(state)]


def hessian_product(state: TrainState, batch: Batch, weights: jax.Array, pieces: int = 1) -> tuple[Product, jax.Array]:
    """Returns `product(v) -> H v` on flat vectors float[P], and the flat parameters, of sum_k weights_k loss_k.

    Forward over reverse: the derivative of the gradient along v, which costs about two gradients. It passes through
    the operations of `auxjax.ops` in their fast form, whose backward passes are written in differentiable ones;
    what it cannot pass through is a gradient rule that calls another function with a rule of its own.
    """
    flat, unravel = ravel_pytree(state.params["model"])
    cut = split(batch, pieces)
    heads = state.params["heads"]
    # Counts depend on masks and shapes alone, so the compiler drops the pass that they come with.
    _, counts = loss_sums(state, state.params, batch)

    def product(vector: jax.Array) -> jax.Array:
        def add(total: jax.Array, piece: Batch) -> tuple[jax.Array, None]:
            def loss(flat: jax.Array) -> jax.Array:
                sums, _ = loss_sums(state, {"model": unravel(flat), "heads": heads}, piece)
                return jnp.dot(weights, sums / jnp.maximum(counts, 1)).astype(flat.dtype)

            return total + jax.jvp(jax.grad(loss), (flat,), (vector,))[1], None

        return jax.lax.scan(add, jnp.zeros_like(flat), cut)[0]

    return product, flat


@functools.partial(jax.jit, static_argnums=(5, 6))
def _spectrum(
    state: TrainState, batch: Batch, weights: jax.Array, key: jax.Array, counts: jax.Array, steps: int, pieces: int
) -> Tridiagonal:
    """Returns a run of Lanczos for each of `counts`, of so many steps."""
    product, flat = hessian_product(state, batch, weights, pieces)

    def run(key_and_count: tuple[jax.Array, jax.Array]) -> Tridiagonal:
        key, count = key_and_count
        return lanczos(product, rademacher(jax.random.fold_in(key, 0), flat), steps, jax.random.fold_in(key, 1), count)

    return jax.lax.map(run, (jax.random.split(key, len(counts)), counts))
