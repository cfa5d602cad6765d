"""The empirical neural tangent kernel of main and of each head: spectrum, alignment with labels and between outputs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from auxjax.diagnostics.inference import apply
from auxjax.errors import AuxjaxError, unknown
from auxjax.losses import mask_of
from auxjax.state import Batch, TrainState
from auxjax.trunk import named

# Numbers in the gradients of one block.
_BLOCK = 2**25


def ntk(state: TrainState, batch: Batch, *, loss: str = "main", block: int = 0) -> dict[str, Any]:
    """Returns one record of the kernel of main or a head, on the batch's examples that its loss does not mask.

    The kernel is `kernels`'s, by all of the model's parameters. The record has its `alignment` with the labels, its
    `spectrum`, descending, its `effective_rank`, and its alignment `between` itself and each other output, both by the
    parameters that both depend on. An alignment with a kernel that is zero, or constant, is None.
    Raises AuxjaxError for an unknown output, and for what `kernels` refuses.
    """
    return _record(state, batch, kernels(state, batch, block=block), loss)


def records(state: TrainState, batch: Batch, *, block: int = 0) -> list[dict[str, Any]]:
    """Returns the record of main and of each head that is trained; each kernel is computed once."""
    found = kernels(state, batch, block=block)
    return [_record(state, batch, found, name) for name in found]


def kernels(state: TrainState, batch: Batch, *, block: int = 0) -> dict[str, dict[str, np.ndarray]]:
    """Returns K of main and of each head, split by array of the model's parameters: path -> float32[n, n].

    K_ij = 1/C sum_c J_ic . J_jc, J_ic the gradient of logit c of example i: the trace over logits of the empirical
    kernel (Jacot et al. 2018, arXiv 1806.07572, section 4), in inference mode. K by some of the parameters is the sum
    of theirs. At most the gradients of one logit for 2 `block` examples are held at once; 0 takes blocks
    of 128 MiB. Larger blocks repeat less: each gradient is computed once and then once for every block.
    Raises AuxjaxError for outputs that are not float[B, C], and a block below 0.
    """
    if block < 0:
        raise AuxjaxError(f"a kernel needs blocks of at least one example, not {block}")
    block = block or max(1, _BLOCK // sum(x.size for x in jax.tree.leaves(state.params["model"])))
    names = tuple(state.program.objectives)
    shapes = jax.eval_shape(lambda: apply(state, state.params, batch, names[1:]))
    found, first = {}, 0
    for name in names:
        shape = shapes[name].shape
        if len(shape) != 2:
            raise AuxjaxError(f"a kernel is of outputs [B, C], and {name!r} gives {list(shape)}")
        logits = jnp.arange(first, first + shape[1])
        stacked = np.asarray(_kernels(state, batch, logits, names, block))
        found[name] = dict(zip(named(state.params["model"]), stacked, strict=True))
        first += shape[1]
    return found


def alignment(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns <a, b> / (|a| |b|) of two centred kernels [n, n], in [0, 1]; None where one of them is zero.

    Centred alignment (Cortes, Mohri & Rostamizadeh 2012, JMLR 13, definition 4), which is linear CKA of features.
    """
    a, b = (_centred(np.asarray(x, np.float64)) for x in (a, b))
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / size) if size else None


def effective_rank(spectrum: np.ndarray) -> float:
    """Returns exp(-sum p_i log p_i), p the spectrum over its sum (Roy & Vetterli 2007, EUSIPCO); 0 for none."""
    positive = spectrum[spectrum > 0]
    shares = positive / positive.sum() if len(positive) else positive
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(positive) else 0.0


def _record(state: TrainState, batch: Batch, found: dict[str, dict[str, np.ndarray]], name: str) -> dict[str, Any]:
    if name not in found:
        raise unknown("output", name, found)
    kept = {other: _kept(state, batch, other) for other in found}
    own = np.asarray(sum(found[name].values()), np.float64)
    kernel = own[np.ix_(kept[name], kept[name])]
    spectrum = np.linalg.eigvalsh(kernel)[::-1]
    labels = _labels(state, batch, name)[kept[name]]
    between = {}
    for other in found:
        if other != name:
            shared = [path for path in found[name] if found[name][path].any() and found[other][path].any()]
            both = np.ix_(*2 * [kept[name] & kept[other]])
            pair = [sum((found[k][path] for path in shared), np.zeros_like(own)) for k in (name, other)]
            between[other] = alignment(*(np.asarray(x)[both] for x in pair))
    return {
        "diagnostic": "ntk",
        "loss": name,
        "alignment": alignment(kernel, labels @ labels.T),
        "spectrum": spectrum.tolist(),
        "effective_rank": effective_rank(spectrum),
        "between": between,
    }


def _kept(state: TrainState, batch: Batch, name: str) -> np.ndarray:
    """Returns which examples the loss of an output does not mask, bool[B]."""
    size = len(batch[state.program.inputs[0]])
    return np.asarray(mask_of(state.program.objectives[name], batch, (size,))) > 0


def _labels(state: TrainState, batch: Batch, name: str) -> np.ndarray:
    """Returns an output's targets as float64[B, N], one-hot where they are classes."""
    targets = np.asarray(batch[state.program.objectives[name].target])
    if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1:
        return np.eye(int(targets.max()) + 1)[targets]
    return targets.reshape(len(targets), -1).astype(np.float64)


def _centred(kernel: np.ndarray) -> np.ndarray:
    rows = kernel - kernel.mean(0, keepdims=True)
    return np.asarray(rows - rows.mean(1, keepdims=True))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _kernels(state: TrainState, batch: Batch, logits: jax.Array, names: Sequence[str], block: int) -> jax.Array:
    """Returns float32[arrays, n, n] of the outputs `logits`, places in those of all `names` one after another."""
    inputs = {name: batch[name] for name in state.program.inputs}
    size = len(inputs[state.program.inputs[0]])
    cut = jax.tree.map(lambda x: _blocks(x, min(block, size)), inputs)

    def of_logit(total: jax.Array, logit: jax.Array) -> tuple[jax.Array, None]:
        def row(examples: Any) -> jax.Array:
            left = _gradients(state, examples, logit, names)

            def tile(others: Any) -> jax.Array:
                pairs = zip(left, _gradients(state, others, logit, names), strict=True)
                return jnp.stack([jnp.matmul(a, b.T, precision="highest") for a, b in pairs])

            return jax.lax.map(tile, cut)

        # [count, count, arrays, block, block], rows first.
        tiles = jax.lax.map(row, cut).transpose(2, 0, 3, 1, 4)
        return total + tiles.reshape(total.shape), None

    leaves = jax.tree.leaves(state.params["model"])
    filled = -(-size // min(block, size)) * min(block, size)
    total, _ = jax.lax.scan(of_logit, jnp.zeros((len(leaves), filled, filled), jnp.result_type(*leaves)), logits)
    return total[:, :size, :size] / len(logits)


def _blocks(x: jax.Array, block: int) -> jax.Array:
    """Returns [n, ...] as [count, block, ...], the last filled up with zeros."""
    padded = jnp.pad(x, ((0, -len(x) % block), *((0, 0),) * (x.ndim - 1)))
    return padded.reshape(-1, block, *x.shape[1:])


def _gradients(state: TrainState, examples: Any, logit: jax.Array, names: Sequence[str]) -> list[jax.Array]:
    """Returns the gradients of one logit for each example, of each array as [block, size of the array]."""

    def output(model: Any, example: Any) -> jax.Array:
        one = jax.tree.map(lambda x: x[None], example)
        outputs = apply(state, {**state.params, "model": model}, one, names[1:])
        return jnp.concatenate([outputs[name][0] for name in names])[logit]

    grads = jax.vmap(jax.grad(output), (None, 0))(state.params["model"], examples)
    return [x.reshape(len(x), -1) for x in jax.tree.leaves(grads)]
