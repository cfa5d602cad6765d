"""The methods on whole gradients against NumPy: gates by tensor and by coordinate, and Bloop over steps."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from auxjax.weighting import asymmetric, directions
from tests.weighting.auxiliary_gradients import Array, as_tree, as_vector, run, steps

TENSORS = (slice(0, 2), slice(2, 5), slice(5, 6))


def share(changed: Array, gradient: Array) -> float:
    return float(changed @ gradient / (gradient @ gradient))


@pytest.mark.parametrize("soft", [False, True])
def test_gcs_per_tensor_is_gcs_in_each_tensor(soft: bool) -> None:
    gradients = steps(4, count=2)
    result = run(directions.gcs_per_tensor(soft=soft), gradients)
    masks = np.zeros((len(TENSORS), 1, 1, 1, 6))
    for mask, tensor in zip(masks, TENSORS, strict=True):
        mask[..., tensor] = 1
    alone = run(asymmetric.gcs(soft=soft), np.concatenate(masks * gradients, axis=1)).directions
    np.testing.assert_allclose(result.directions, sum(np.split(alone, len(TENSORS), axis=1)), atol=1e-5)


def test_a_weight_is_the_share_of_the_gradient_that_is_kept() -> None:
    gradients = steps(2, count=3)
    result = run(directions.gcs_per_tensor(), gradients)
    for at in np.ndindex(gradients.shape[:2]):
        main, other = gradients[at]
        kept = np.concatenate([other[t] * (main[t] @ other[t] > 0) for t in TENSORS])
        np.testing.assert_allclose(result.weights[at], [1, share(kept, other)], atol=1e-6)
        np.testing.assert_allclose(result.directions[at], main + kept, atol=1e-5)


def test_sign_gate_keeps_coordinates_of_one_sign() -> None:
    gradients = steps(3, count=2)
    gradients[0, 0, 0, :2] = 0
    result = run(directions.sign_gate(), gradients)
    for at in np.ndindex(gradients.shape[:2]):
        main, *others = gradients[at]
        kept = [np.where(main * g > 0, g, 0) for g in others]
        np.testing.assert_allclose(result.directions[at], main + sum(kept), atol=1e-5)
        expected = [1, *map(share, kept, others)]
        np.testing.assert_allclose(result.weights[at], expected, atol=1e-6)


def test_sign_gate_does_not_lose_small_products() -> None:
    tiny = np.full((1, 1, 2, 6), 1e-30)
    np.testing.assert_allclose(run(directions.sign_gate(), tiny).directions[0, 0], 2e-30, rtol=1e-6)


def test_bloop_is_orthogonal_to_the_average_of_main() -> None:
    gradients = steps(3, count=20)
    with jax.enable_x64(True):
        result = run(directions.bloop(strength=0.5, decay=0.8), gradients, np.float64)
    for n in range(gradients.shape[1]):
        average = gradients[0, n, 0]
        for t in range(len(gradients)):
            main, *others = gradients[t, n]
            average = 0.8 * average + 0.2 * main
            added = sum(others)
            orthogonal = added - added @ average / (average @ average) * average
            np.testing.assert_allclose(result.directions[t, n], main + 0.5 * orthogonal, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(as_vector(jax.tree.map(lambda x, n=n: x[n], result.state.gradient)), average)
    np.testing.assert_array_equal(result.weights, np.broadcast_to([1, 0.5, 0.5], result.weights.shape))


def test_bloop_without_memory_moves_main_as_main_alone_does() -> None:
    gradients = steps(4, count=4)
    result = run(directions.bloop(strength=3.0, decay=0.0), gradients)
    main = gradients[:, :, 0]
    np.testing.assert_allclose(
        np.sum(main * result.directions, axis=-1), np.sum(main**2, axis=-1), rtol=1e-4, atol=1e-4
    )


def test_half_precision_gradients_keep_their_dtype_and_the_average_does_not() -> None:
    trunk = jax.tree.map(lambda x: x.astype("bfloat16"), as_tree(jax.numpy.ones(6)))
    weighting = directions.bloop()
    state = weighting.init(("main", "aux"), trunk)
    assert {x.dtype.name for x in jax.tree.leaves(state.gradient)} == {"float32"}
    for make in (directions.bloop, directions.sign_gate, directions.gcs_per_tensor):
        weighting = make()
        seen = directions.Signals(jax.numpy.int32(0), jax.numpy.float32(0), gradients=(trunk, trunk))
        update, _ = jax.eval_shape(weighting.update, seen, weighting.init(("main", "aux"), trunk))
        assert {x.dtype.name for x in jax.tree.leaves(update.direction)} == {"bfloat16"}
