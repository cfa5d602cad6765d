"""PSPNet by its closed-form count, and its pyramid against torch's modules with random weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.errors import AuxjaxError
from auxjax.heads import presets
from auxjax.models import MODELS, PSPNet
from auxjax.models.pspnet import PyramidPooling
from tests.models.inception_shapes import shapes
from tests.models.preset_shapes import train_shapes
from tests.torch_models import randomise

BINS = (1, 2, 3, 6)  # Figure 3


def test_parameters_are_those_of_its_parts() -> None:
    # ResNet-50 without its classifier, four projections to 512, a 3x3 convolution of 4096 to 512, and the classifier.
    backbone = 25_557_032 - 2049 * 1000
    own = backbone + 4 * (2048 * 512 + 1024) + 9 * 4096 * 512 + 1024 + 513 * 19
    both = {"main": (2, 57, 57, 19), "aux": (2, 8, 8, 19)}
    assert train_shapes(PSPNet(), "pspnet", 57) == (own, 9 * 1024 * 256 + 512 + 257 * 19, both)
    head = presets("pspnet", 19)["aux"]
    assert (head.at, head.weight, head.loss) == ("backbone/layer3", 0.4, "upsampled_cross_entropy")


@pytest.mark.parametrize("size", [(7, 9), (4, 5)])
def test_the_pyramid_is_torchs(size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn
    units = []
    for n in BINS:
        layers = (nn.AdaptiveAvgPool2d(n), nn.Conv2d(8, 2, 1, bias=False), nn.BatchNorm2d(2), nn.ReLU())
        units.append(randomise(nn.Sequential(*layers), n))
    x = np.random.default_rng(0).normal(size=(2, *size, 8)).astype(np.float32)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        resized = [nn.functional.interpolate(unit(image), size, mode="bilinear", align_corners=False) for unit in units]
        expected = torch.cat([image, *resized], 1).numpy().transpose(0, 2, 3, 1)
    params, stats = {}, {}
    for n, (_, conv, bn, _) in zip(BINS, units, strict=True):
        kernel = jnp.asarray(conv.weight.detach().numpy().transpose(2, 3, 1, 0))
        norm = {"scale": jnp.asarray(bn.weight.detach().numpy()), "bias": jnp.asarray(bn.bias.detach().numpy())}
        params[f"bin_{n}"] = {"conv": {"kernel": kernel}, "bn": norm}
        moments = {"mean": jnp.asarray(bn.running_mean.numpy()), "var": jnp.asarray(bn.running_var.numpy())}
        stats[f"bin_{n}"] = {"bn": moments}
    pyramid = PyramidPooling({"epsilon": 1e-5})
    run = jax.jit(lambda x: pyramid.apply({"params": params, "batch_stats": stats}, x, train=False))
    np.testing.assert_allclose(run(x), expected, atol=1e-5)


def test_taps_are_in_the_wanted_dtype_and_depth_is_checked() -> None:
    _, taps, logits = shapes(PSPNet(3, dtype=jnp.bfloat16), 32, channels=1)
    assert taps["ppm"]["__call__"][0].shape == (2, 4, 4, 4096)
    assert {taps[name]["__call__"][0].dtype for name in taps if name != "__call__"} == {jnp.dtype("bfloat16")}
    assert (logits.shape, logits.dtype) == ((2, 32, 32, 3), jnp.bfloat16)
    with pytest.raises(AuxjaxError, match="unknown depth of PSPNet '34'"):
        shapes(PSPNet(depth=34), 32)
    assert MODELS["pspnet"] is PSPNet
