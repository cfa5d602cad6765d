"""Every network has the parameters that its paper or its reference implementation counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

import auxjax
from auxjax.errors import AuxjaxError
from auxjax.heads import PRESETS
from auxjax.models import MODELS

# torchvision's documentation, but for: ViT-S/16 (timm), CIFAR ResNets (Table 6 prints 0.27M, 0.85M and 1.7M; the
# exact numbers are those of akamaster/pytorch_resnet_cifar10, whose shortcuts have no parameters either).
PUBLISHED: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("alexnet", {}, 224, 61_100_840),
    ("vgg", {"depth": 11}, 224, 132_863_336),
    ("vgg", {"depth": 11, "batch_norm": True}, 224, 132_868_840),
    ("vgg", {"depth": 16}, 224, 138_357_544),
    ("vgg", {"depth": 16, "batch_norm": True}, 224, 138_365_992),
    ("vgg", {"depth": 19}, 224, 143_667_240),
    ("vgg", {"depth": 19, "batch_norm": True}, 224, 143_678_248),
    ("resnet", {"depth": 18}, 224, 11_689_512),
    ("resnet", {"depth": 34}, 224, 21_797_672),
    ("resnet", {"depth": 50}, 224, 25_557_032),
    ("resnet", {"depth": 101}, 224, 44_549_160),
    ("resnet", {"depth": 152}, 224, 60_192_808),
    ("cifar_resnet", {"depth": 20}, 32, 269_722),
    ("cifar_resnet", {"depth": 56}, 32, 853_018),
    ("cifar_resnet", {"depth": 110}, 32, 1_727_962),
    ("densenet", {"depth": 121}, 224, 7_978_856),
    ("densenet", {"depth": 169}, 224, 14_149_480),
    ("densenet", {"depth": 201}, 224, 20_013_928),
    ("vit", {"variant": "S"}, 224, 22_050_664),
    ("vit", {"variant": "B"}, 224, 86_567_656),
    ("vit", {"variant": "B", "scan": True}, 224, 86_567_656),
    ("vit", {"variant": "L"}, 224, 304_326_632),
)


def parameters(name: str, fields: dict[str, Any], size: int) -> int:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: MODELS[name](**fields).init(jax.random.key(0), x, train=False), image)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(("name", "fields", "size", "count"), PUBLISHED, ids=lambda v: str(v).replace(" ", ""))
def test_parameter_counts_are_the_published_ones(name: str, fields: dict[str, Any], size: int, count: int) -> None:
    assert parameters(name, fields, size) == count


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_fit_the_model_they_name_and_no_other(name: str) -> None:
    preset = PRESETS[name]
    heads = auxjax.presets(name, num_classes=3)
    assert list(heads) == list(preset.heads) and preset.source
    with pytest.raises(AuxjaxError, match=f"no tap '{heads[next(iter(heads))].at}' in PlainNet"):
        auxjax.attach(MODELS["plainnet"](), heads).init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_a_head_that_reads_maps_says_which_taps_give_one() -> None:
    heads = {"aux": auxjax.Head("encoder_layer_0", auxjax.presets("inception_v3")["aux"].module)}
    attached = auxjax.attach(MODELS["vit"](variant="Ti", layers=1), heads)
    with pytest.raises(
        AuxjaxError, match=r"head 'aux' at 'encoder_layer_0': .*\[B, H, W, C\].*; this head fits conv_proj"
    ):
        jax.eval_shape(attached.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize("scan", [False, True])
def test_vit_layers_are_taps_scanned_or_not(scan: bool) -> None:
    at = "encoder_layers[1]" if scan else "encoder_layer_1"
    model = MODELS["vit"](num_classes=3, variant="Ti", layers=2, scan=scan)
    attached = auxjax.attach(model, {"aux": auxjax.Head(at, auxjax.heads.LinearProbe(3))})
    shapes = jax.eval_shape(
        lambda x: attached.tap_shapes(model.init(jax.random.key(0), x, train=False), x), jnp.zeros((2, 32, 32, 3))
    )
    assert shapes["aux"].shape == (2, 5, 192)


@pytest.mark.parametrize(
    ("name", "fields", "size", "message"),
    [
        ("resnet", {"depth": 51}, 64, "unknown depth of ResNet '51'.*valid: 101, 152, 18, 34, 50"),
        ("cifar_resnet", {"depth": 21}, 32, r"depth of CifarResNet must be 6n \+ 2, as 20, 56 or 110, not 21"),
        ("vgg", {}, 31, "VGG needs images of at least 32 px, not 31 x 31"),
        ("alexnet", {}, 62, "AlexNet needs images of at least 63 px"),
        ("vit", {}, 40, r"ViT needs height and width in multiples of 16 px"),
        ("vit", {"variant": "Q"}, 32, "unknown variant of ViT 'Q'"),
        ("densenet", {"depth": 120}, 32, "unknown depth of DenseNet '120'"),
    ],
)
def test_what_does_not_fit_is_one_line(name: str, fields: dict[str, Any], size: int, message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        parameters(name, fields, size)
    assert "\n" not in str(error.value)


def test_cifar_resnets_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    model = MODELS["cifar_resnet"](depth=8)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    variables = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x, train=False))
    # With every kernel zero but the first, a block is its shortcut.
    variables["params"]["conv1"]["kernel"] = jnp.full((3, 3, 3, 16), 0.1)
    for leaves in jax.tree.leaves(variables["batch_stats"], is_leaf=lambda v: "var" in v):
        leaves["var"] = jnp.ones_like(leaves["var"])
    variables["params"]["bn1"]["scale"] = jnp.ones(16)
    _, state = model.apply(variables, x, train=False, capture_intermediates=True, mutable=["intermediates"])
    taps = state["intermediates"]
    first, second = taps["bn1"]["__call__"][0], taps["layer2"]["__call__"][0]
    assert second.shape == (2, 4, 4, 32) and first.max() > 0
    assert jnp.array_equal(second[..., 8:24], first[:, ::2, ::2]) and not second[..., :8].any()
