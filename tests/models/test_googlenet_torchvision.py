"""variant="torchvision" and its two heads equal torchvision's own GoogLeNet, weights carried over by hand."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from auxjax.heads import presets
from auxjax.models import GoogLeNet

torch = pytest.importorskip("torch")

BRANCHES = {
    "branch1": "branch_1x1",
    "branch2.0": "branch_3x3_reduce",
    "branch2.1": "branch_3x3",
    "branch3.0": "branch_5x5_reduce",
    "branch3.1": "branch_5x5",
    "branch4.1": "branch_pool_proj",
}
STEM = {
    "conv1": "conv1",
    "conv2": "conv2_reduce",
    "conv3": "conv2",
    "fc": "logits",
    "fc1": "dense",
    "fc2": "logits",
}
LEAVES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def torchvision_googlenet() -> Any:
    try:
        import torchvision
    except RuntimeError:  # a CPU torch may come without torchvision's compiled operators; no model needs them
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    except ImportError:
        pytest.skip("torchvision is not installed")
    torch.manual_seed(0)
    model = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False, transform_input=False)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.7, 1.6), (module.bias, -0.3, 0.5), (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.2, 0.8),
            ):  # fmt: skip
                torch.nn.init.uniform_(tensor, low, high)
    return model.eval()


def place(tree: dict[str, Any], path: tuple[str, ...], value: np.ndarray) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = jnp.asarray(value)


def convert(state: dict[str, Any]) -> dict[str, Any]:
    """Returns `{"model": variables, "aux1": variables, "aux2": variables}` from torchvision's state dict."""
    trees: dict[str, Any] = {"model": {}, "aux1": {}, "aux2": {}}
    for key, tensor in state.items():
        *scope, layer, leaf = key.split(".")
        value = tensor.numpy()
        owner = scope.pop(0) if scope and scope[0].startswith("aux") else "model"
        if leaf == "num_batches_tracked":
            continue
        units = [] if owner != "model" or not scope else [STEM.get(scope[0], scope[0])]
        if scope and scope[0].startswith("inception"):
            units = [scope[0].replace("inception", "inception_"), BRANCHES[".".join(scope[1:])]]
        if layer.startswith("fc"):
            if layer == "fc1" and value.ndim == 2:  # flattened as C, H, W there and as H, W, C here
                value = value.reshape(-1, 128, 4, 4).transpose(0, 2, 3, 1).reshape(-1, 2048)
            path = [STEM[layer], "kernel" if leaf == "weight" else "bias"]
            value = value.T
        elif layer == "conv":
            path, value = ["conv", "kernel"], value.transpose(2, 3, 1, 0)
        else:
            path = ["bn", LEAVES[leaf]]
        collection = "batch_stats" if "running" in leaf else "params"
        place(trees[owner], (collection, *units, *path), value)
    return trees


@pytest.mark.parametrize("size", [224, 96])
def test_logits_of_the_model_and_of_both_heads_equal_torchvision(size: int) -> None:
    theirs = torchvision_googlenet()
    trees = convert(theirs.state_dict())
    image = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    taps: dict[str, Any] = {}
    theirs.inception4a.register_forward_hook(lambda _, __, output: taps.update(aux1=output))
    theirs.inception4d.register_forward_hook(lambda _, __, output: taps.update(aux2=output))
    with torch.no_grad():
        expected = {"main": theirs(torch.from_numpy(image)).numpy()}
        expected.update({name: getattr(theirs, name)(taps[name]).numpy() for name in ("aux1", "aux2")})

    model, heads = GoogLeNet(variant="torchvision"), presets("googlenet_torchvision", 1000)

    @jax.jit
    def run(trees: Any, x: jax.Array) -> Any:
        main, state = model.apply(
            trees["model"], x, train=False, mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name in {head.at for head in heads.values()},
        )  # fmt: skip
        read = {name: state["intermediates"][head.at]["__call__"][0] for name, head in heads.items()}
        return {"main": main, **{n: h.module.apply(trees[n], read[n], train=False) for n, h in heads.items()}}

    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), jnp.zeros((1, 32, 32, 3)))
    assert jax.tree.map(jnp.shape, trees["model"]) == jax.tree.map(jnp.shape, shapes)
    actual = run(trees, jnp.asarray(image.transpose(0, 2, 3, 1)))
    for name, value in expected.items():
        assert np.std(value) > 0.02
        np.testing.assert_allclose(actual[name], value, atol=1e-4 * np.abs(value).max(), err_msg=name)
