"""Shallow-Deep Networks' classifiers, and a U-Net whose decoder is supervised, trained."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax import weighting
from auxjax.heads import Head, PixelLinear, SDNHead, presets
from auxjax.models import CifarResNet, UNet
from auxjax.step import Main, Program, create_state, train_step
from tests.models.inception_shapes import filled
from tests.models.preset_shapes import train_shapes


def test_sdns_classifiers_are_at_their_shares_of_the_computation() -> None:
    heads = presets("sdn_resnet56", 10)
    # Multiply-adds of a stage's convolutions at 32 px: blocks are equal but for the one that doubles the channels.
    first, plain, doubling = 3 * 9 * 16 * 32**2, 2 * 9 * 16**2 * 32**2, 1.5 * 9 * 16**2 * 32**2
    blocks = [plain] * 9 + ([doubling] + [plain] * 8) * 2
    for head, share in zip(heads.values(), (0.15, 0.3, 0.45, 0.6, 0.75, 0.9), strict=True):
        stage, block = (int(part[-1]) for part in head.at.split("/"))
        done = first + sum(blocks[: 9 * (stage - 1) + block + 1])
        assert done / (first + sum(blocks)) == pytest.approx(share, abs=0.03)
        assert head.weight == {"name": "ramp_up", "start": 0.01, "end": share}
    counts = train_shapes(CifarResNet(depth=56), "sdn_resnet56", 32)[1]
    # Each reads 4 x 4 pixels and learns how to mix its pools.
    assert counts == sum(2 * (10 * (16 * c + 1) + 1) for c in (16, 32, 64))


@pytest.mark.parametrize("size", [(8, 8), (13, 9), (6, 3), (2, 2)])
def test_sdns_classifier_mixes_torchs_pools(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    functional, rng = torch.nn.functional, np.random.default_rng(0)
    head, x = SDNHead(5), rng.normal(size=(2, *size, 4)).astype(np.float32)
    params = jax.tree.map(np.asarray, head.init(jax.random.key(0), x, train=False)["params"])
    alpha = float(params["alpha"][0])
    assert params["alpha"].shape == (1,) and 0 <= alpha < 1
    params = {**params, "alpha": np.array([0.3], np.float32)}
    image, window = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), [max(1, n // 4) for n in size]
    mixed = 0.3 * functional.max_pool2d(image, window) + 0.7 * functional.avg_pool2d(image, window)
    flat = mixed.permute(0, 2, 3, 1).reshape(2, -1).numpy()
    expected = flat @ params["logits"]["kernel"] + params["logits"]["bias"]
    actual: Any = head.apply({"params": params}, x, train=True)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def disks(seed: int, count: int = 8, size: int = 16) -> dict[str, jax.Array]:
    """Noisy images of a bright disk and which pixels are its; one image in eight is masked, and a frame around all."""
    rng = np.random.default_rng(seed)
    centres, radii = rng.uniform(5, size - 5, (count, 2, 1, 1)), rng.uniform(2, 4, (count, 1, 1))
    rows, columns = np.mgrid[:size, :size]
    inside = (rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2 < radii**2
    mask = np.zeros((count, size, size))
    mask[1:, 1:-1, 1:-1] = 1
    image = inside[..., None] + rng.normal(size=(count, size, size, 1), scale=0.4)
    return {
        "image": jnp.asarray(image, jnp.float32), "label": jnp.asarray(np.where(mask > 0, inside, 255), jnp.int32),
        "mask": jnp.asarray(mask, jnp.float32),
    }  # fmt: skip


def test_a_u_net_with_a_supervised_decoder_learns_to_find_disks() -> None:
    heads = {
        loss: Head("decoder_0", PixelLinear(2), loss=loss, weight=0.5)
        for loss in ("downsampled_cross_entropy", "upsampled_cross_entropy")
    }
    program = Program(
        attached=auxjax.attach(UNet(2, stages=3, features=4), heads), main=Main(), names=tuple(heads),
        weights=weighting.own_weights({"name": "constant"}, {name: head.weight for name, head in heads.items()}),
        optimizer=optax.adam(0.05), total_steps=25,
    )  # fmt: skip
    variables = filled(jax.eval_shape(program.attached.init, jax.random.key(0), disks(0)["image"]))
    state = create_state(program, variables, jax.random.key(1))
    step: Any = jax.jit(train_step)
    history = []
    for i in range(25):
        state, metrics = step(state, disks(i))
        history.append(metrics)
    for name in ("main", *heads):
        # Disks have 15 % of the pixels: knowing that and no more is a loss of 0.42 and an accuracy of 85 %.
        assert history[-1][f"loss/{name}"] < 0.2 < history[0][f"loss/{name}"], name
        assert history[-1][f"accuracy/{name}"] > 0.92, name
