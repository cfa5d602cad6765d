"""The U-Net against nnU-Net's count, torch's functions with random weights, and the weights of deep supervision."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.models import MODELS, UNet
from tests.models.inception_shapes import count, shapes
from tests.models.preset_shapes import train_shapes

SMALL: dict[str, Any] = {"stages": 3, "features": 3, "max_features": 6}


def test_parameters_are_nnunets() -> None:
    # PlainConvUNet of dynamic-network-architectures 0.4.4 at these widths has 46,325,134, segmentation layers of the
    # six lower decoder stages among them: a 1x1 convolution to two classes on 512, 512, 512, 256, 128 and 64 features.
    lower = 2 * (512 + 512 + 512 + 256 + 128 + 64 + 6)
    side = {f"aux{s + 1}": (2, 4 * 2**s, 4 * 2**s, 2) for s in range(6)}
    expected = (46_325_134 - lower, lower, {"main": (2, 256, 256, 2), **side})
    assert train_shapes(UNet(), "nnunet", 256) == expected


def test_deep_supervision_has_nnunets_and_monais_weights() -> None:
    # From low to high resolution; main has 1.
    names = ("nnunet", "monai_exp", "monai_same")
    weights = {name: [head.weight for head in presets(name, 2).values()] for name in names}
    assert weights == {
        "nnunet": [0, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2],
        "monai_exp": [1 / 16, 1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2],
        "monai_same": [1] * 6,
    }
    heads = presets("nnunet", 2)
    assert [head.at for head in heads.values()] == [f"decoder_{s}" for s in range(6)]
    assert {head.loss for head in heads.values()} == {"downsampled_cross_entropy"}


def torch_forward(params: Any, x: np.ndarray) -> np.ndarray:
    """The same network in torch's functions; norms, convolutions and their order as in nnU-Net."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional

    def tensor(a: Any, *order: int) -> Any:
        return torch.from_numpy(np.array(a).transpose(order) if order else np.array(a))

    def double(p: Any, x: Any, stride: int) -> Any:
        for i in (0, 1):
            conv, norm = p[f"conv_{i}"], p[f"norm_{i}"]
            stride_here = stride if i == 0 else 1
            x = functional.conv2d(x, tensor(conv["kernel"], 3, 2, 0, 1), tensor(conv["bias"]), stride_here, padding=1)
            x = functional.instance_norm(x, weight=tensor(norm["scale"]), bias=tensor(norm["bias"]), eps=1e-5)
            x = functional.leaky_relu(x, 0.01)
        return x

    y, skips = tensor(x, 0, 3, 1, 2), []
    for s in range(3):
        y = double(params[f"encoder_{s}"], y, 1 if s == 0 else 2)
        skips.append(y)
    for s in range(2):
        p = params[f"decoder_{s}"]
        up = p["transpconv"]
        y = functional.conv_transpose2d(y, tensor(up["kernel"], 2, 3, 0, 1), tensor(up["bias"]), stride=2)
        y = double(p["convs"], torch.cat([y, skips[1 - s]], 1), 1)
    last = params["seg_layer"]
    y = functional.conv2d(y, tensor(last["kernel"], 3, 2, 0, 1), tensor(last["bias"]))
    return np.asarray(y.permute(0, 2, 3, 1))


def test_values_are_torchs_and_do_not_depend_on_training() -> None:
    model, rng = UNet(2, **SMALL), np.random.default_rng(0)
    variables = shapes(model, 8)[0]
    assert set(variables) == {"params"}
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape, scale=0.5).astype(np.float32), variables)
    x = rng.normal(size=(2, 12, 8, 3)).astype(np.float32)
    actual = [jax.jit(model.apply, static_argnames="train")(variables, x, train=train) for train in (False, True)]
    assert actual[0].shape == (2, 12, 8, 2)
    np.testing.assert_allclose(actual[0], torch_forward(variables["params"], x), atol=1e-4)
    np.testing.assert_array_equal(*actual)


def test_widths_double_up_to_the_cap_and_fields_shrink_it() -> None:
    variables, taps, logits = shapes(UNet(7, dtype=jnp.bfloat16, **SMALL), 8, channels=2)
    outputs = {name: tap["__call__"][0].shape[1:] for name, tap in taps.items() if name != "__call__"}
    assert outputs == {
        "encoder_0": (8, 8, 3), "encoder_1": (4, 4, 6), "encoder_2": (2, 2, 6), "decoder_0": (4, 4, 6),
        "decoder_1": (8, 8, 3), "seg_layer": (8, 8, 7),
    }  # fmt: skip
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in jax.tree.leaves(taps)} == {jnp.dtype("bfloat16")} == {logits.dtype}
    assert count(variables["params"]["decoder_0"]["transpconv"]) == 4 * 6 * 6 + 6


def test_kernels_are_torchs_he_of_a_leaky_relu() -> None:
    model, x = UNet(2, stages=2, features=32), jnp.zeros((1, 4, 4, 3))
    params = jax.jit(lambda key: model.init(key, x, train=False))(jax.random.key(0))["params"]
    assert params["encoder_1"]["conv_1"]["kernel"].std() == pytest.approx((2 / 1.0001 / (9 * 64)) ** 0.5, rel=0.03)
    # torch's fan of a transposed kernel is 4 times its 32 outputs.
    assert params["decoder_0"]["transpconv"]["kernel"].std() == pytest.approx((2 / 1.0001 / (4 * 32)) ** 0.5, rel=0.03)


def test_sizes_that_do_not_halve_are_one_line_errors() -> None:
    with pytest.raises(AuxjaxError, match="sides that are multiples of 4 px, not 10 x 10: pad the images or set fewer"):
        shapes(UNet(**SMALL), 10)
    with pytest.raises(AuxjaxError, match="UNet needs images of at least 8 px, not 4 x 4"):
        shapes(UNet(**SMALL), 4)
    with pytest.raises(AuxjaxError, match="stages of UNet must be at least 2, not 1"):
        shapes(UNet(stages=1), 4)
    assert MODELS["unet"] is UNet
