"""Imported networks and their heads equal torchvision's own modules with random weights and statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import auxjax
from auxjax.attach import Attached
from auxjax.layers import resize_bilinear
from auxjax.models import FCN, VGG, AlexNet, DenseNet, GoogLeNet, InceptionV3, ResNet, ViT
from auxjax.pretrained import import_weights, to_torchvision
from auxjax.torch_names import head_entries
from tests.torch_models import import_torchvision, randomise

torch = pytest.importorskip("torch")
CLASSES = 11


def googlenet() -> tuple[Any, Attached]:
    theirs = import_torchvision().models.googlenet(
        weights=None, num_classes=CLASSES, aux_logits=True, init_weights=False, transform_input=False
    )
    return theirs, auxjax.attach(
        GoogLeNet(CLASSES, variant="torchvision"), auxjax.presets("googlenet_torchvision", CLASSES)
    )


def inception_v3() -> tuple[Any, Attached]:
    theirs = import_torchvision().models.inception_v3(
        weights=None, num_classes=CLASSES, aux_logits=True, init_weights=False, transform_input=False
    )
    heads = auxjax.presets("inception_v3", CLASSES)
    return theirs, auxjax.attach(InceptionV3(CLASSES, variant="torchvision"), heads)


def fcn() -> tuple[Any, Attached]:
    models = import_torchvision().models
    theirs = models.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True)
    return theirs, auxjax.attach(FCN(CLASSES), auxjax.presets("fcn", CLASSES))


def plain(name: str, ours: nn.Module, **fields: Any) -> tuple[Any, Attached]:
    theirs = getattr(import_torchvision().models, name)(weights=None, num_classes=CLASSES, **fields)
    return theirs, auxjax.attach(ours, {})


# The pair of networks, and two input sizes.
CASES: dict[str, tuple[Callable[[], tuple[Any, Attached]], tuple[int, int]]] = {
    "googlenet": (googlenet, (80, 96)),
    "inception_v3": (inception_v3, (75, 107)),
    "alexnet": (partial(plain, "alexnet", AlexNet(CLASSES, dropout_rate=0.0)), (64, 97)),
    "vgg11": (partial(plain, "vgg11", VGG(CLASSES, depth=11, dropout_rate=0.0)), (32, 70)),
    "vgg11_bn": (partial(plain, "vgg11_bn", VGG(CLASSES, depth=11, batch_norm=True, dropout_rate=0.0)), (32, 64)),
    "vgg16": (partial(plain, "vgg16", VGG(CLASSES, dropout_rate=0.0)), (32, 64)),
    "vgg19_bn": (partial(plain, "vgg19_bn", VGG(CLASSES, depth=19, batch_norm=True, dropout_rate=0.0)), (32, 64)),
    "resnet18": (partial(plain, "resnet18", ResNet(CLASSES, depth=18)), (80, 71)),
    "resnet50": (partial(plain, "resnet50", ResNet(CLASSES)), (80, 65)),
    "densenet121": (partial(plain, "densenet121", DenseNet(CLASSES)), (32, 65)),
    "vit_b_16": (partial(plain, "vit_b_16", ViT(CLASSES), image_size=32), (32, 32)),
    "vit_b_16_scanned": (partial(plain, "vit_b_16", ViT(CLASSES, scan=True), image_size=48), (48, 48)),
    "fcn_resnet50": (fcn, (33, 64)),
}
# torchvision's modules at a head's tap and of the head; Inception v3's needs 299 px and has a test of its own.
TAPS = {
    "inception_4a": ("inception4a", "aux1"),
    "inception_4d": ("inception4d", "aux2"),
    "backbone/layer3": ("backbone.layer3", "aux_classifier"),
}
# What they are made of is in the others too.
SLOW = (
    *("inception_v3", "vgg11", "vgg11_bn", "vgg16", "vgg19_bn", "resnet50", "densenet121", "vit_b_16", "fcn_resnet50"),
)
SMOOTH = ("vit_b_16", "vit_b_16_scanned")
PARAMS = [pytest.param(name, marks=[pytest.mark.slow_study] if name in SLOW else []) for name in CASES]
GRADIENTS = [pytest.param(name, marks=[pytest.mark.slow_study] if name in SLOW else []) for name in CASES]


def without_dropout(next_call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    return args[0] if isinstance(context.module, nn.Dropout) else next_call(*args, **kwargs)


def shapes(attached: Attached, size: int) -> Any:
    return jax.eval_shape(attached.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32))


def zeros(attached: Attached, size: int) -> Any:
    return jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes(attached, size))


def by_name(theirs: Any, output: Any, attached: Attached) -> dict[str, Any]:
    """Returns torchvision's outputs under our names, whatever container it has for them."""
    if isinstance(output, torch.Tensor):
        return {"main": output}
    if isinstance(output, dict):
        return {"main": output["out"], **dict.fromkeys(attached.heads, output["aux"])}
    if len(output) == 3:
        return {"main": output.logits, "aux1": output.aux_logits1, "aux2": output.aux_logits2}
    return {"main": output.logits, **dict.fromkeys(attached.heads, output.aux_logits)}


@pytest.fixture(scope="module", params=PARAMS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """torchvision's network with random weights and statistics, ours, and ours with its weights imported."""
    build, sizes = CASES[request.param]
    theirs, attached = build()
    randomise(theirs)
    if hasattr(theirs, "heads"):  # a ViT's head starts at zero
        torch.nn.init.normal_(theirs.heads.head.weight, std=0.02)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    state = {key: value.clone() for key, value in theirs.state_dict().items()}  # training moves the statistics
    torch.save(state, path)
    variables, report = import_weights(
        path, attached, zeros(attached, 299 if "inception" in request.param else sizes[0]), heads=True
    )
    path.unlink()
    return theirs, attached, variables, sizes, report, state


def image(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(4, 3, size, size)).astype(np.float32)


def test_logits_of_the_model_and_of_its_heads_equal_torchvisions_at_two_sizes(pair: Any) -> None:
    theirs, attached, variables, sizes, _, state = pair
    theirs.load_state_dict(state)
    theirs.eval()
    names = [name for name in attached.heads if attached.heads[name].at in TAPS]
    run = jax.jit(lambda v, x: attached.apply(v, x, train=False, heads=names))
    for size in dict.fromkeys(sizes):
        expected: dict[str, Any] = {}
        read: dict[str, Any] = {}
        for name in names:
            tap, _ = TAPS[attached.heads[name].at]
            hook = lambda _, __, output, name=name, read=read: read.update({name: output})  # noqa: E731
            theirs.get_submodule(tap).register_forward_hook(hook)
        with torch.no_grad():
            expected["main"] = by_name(theirs, theirs(torch.from_numpy(image(size))), attached)["main"].numpy()
            for name in names:
                expected[name] = theirs.get_submodule(TAPS[attached.heads[name].at][1])(read[name]).numpy()
        actual = run(variables, image(size).transpose(0, 2, 3, 1))
        assert set(actual) == set(expected)
        for name, value in expected.items():
            value = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
            assert np.std(value) > 1e-3
            np.testing.assert_allclose(actual[name], value, atol=1e-4 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("pair", GRADIENTS, indirect=True)
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.slow_study)])
def test_losses_of_all_heads_and_the_gradient_of_the_image_equal_torchvisions_in_training(
    pair: Any, dtype: Any, request: pytest.FixtureRequest
) -> None:
    """In float32 a ReLU at a rounding error from zero changes the gradient by up to 3 %; in float64 none does."""
    theirs, attached, variables, sizes, _, state = pair
    theirs.load_state_dict(state)
    theirs.train().to(torch.from_numpy(np.zeros(1, dtype)).dtype)
    head = getattr(theirs, "AuxLogits", None)
    if head is not None:  # it needs a map of 17 px, and has a test of its own
        theirs.aux_logits, theirs.AuxLogits = False, None
        attached = auxjax.attach(attached.model, {})
        variables = {c: {"model": v["model"], "heads": {}} for c, v in variables.items()}
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    x = torch.from_numpy(image(sizes[0]).astype(dtype)).requires_grad_()
    labels = np.array([1, 7, 3, 5])
    outputs = by_name(theirs, theirs(x), attached)
    losses = {
        name: torch.nn.functional.cross_entropy(o, torch.from_numpy(spread(labels, o.shape[2:])))
        for name, o in outputs.items()
    }
    torch.stack(list(losses.values())).sum().backward()
    theirs.float()
    if head is not None:
        theirs.aux_logits, theirs.AuxLogits = True, head

    with jax.enable_x64(dtype == np.float64):
        run = jax.jit(jax.value_and_grad(partial(total, of_dtype(attached, dtype), labels), has_aux=True))
        variables = jax.tree.map(lambda v: np.asarray(v, dtype), variables)
        result = run(jnp.asarray(image(sizes[0]).transpose(0, 2, 3, 1), dtype), variables)
        (_, ours), gradient = jax.device_get(result)
    for name, loss in losses.items():
        np.testing.assert_allclose(ours[name], loss.item(), rtol=1e-4 if dtype == np.float32 else 1e-6, err_msg=name)
    expected = x.grad.numpy().transpose(0, 2, 3, 1)
    smooth = any(f"[{name}" in request.node.name or f"-{name}]" in request.node.name for name in SMOOTH)
    tolerance = 1e-5 if dtype == np.float64 else 1e-3 if smooth else 5e-2
    error = np.linalg.norm(gradient - expected) / np.linalg.norm(expected)
    assert error < tolerance


def total(attached: Attached, labels: np.ndarray, x: jax.Array, variables: Any) -> Any:
    """The sum of all losses, and each, without dropout."""
    with nn.intercept_methods(without_dropout):
        outputs, _ = attached.apply(variables, x, train=True, mutable=["batch_stats"])
    every = {}
    for name, logits in outputs.items():
        if logits.ndim == 4:
            logits = resize_bilinear(logits, x.shape[1:3])
        targets = spread(labels, logits.shape[1:-1])
        every[name] = optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()
    return sum(every.values()), every


def spread(labels: np.ndarray, size: Any) -> np.ndarray:
    return np.broadcast_to(labels.reshape(-1, *[1] * len(size)), (len(labels), *size)).copy()


def test_inception_v3s_head_equals_torchvisions() -> None:
    theirs, attached = inception_v3()
    theirs = randomise(theirs).AuxLogits
    state = {f"AuxLogits.{key}": value.detach().numpy() for key, value in theirs.state_dict().items()}
    module = attached.heads["aux"].module
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), jnp.zeros((1, 17, 17, 768)))
    flat = [(e.path.split("/"), e.from_torch(state)) for e in head_entries(attached.model, "Mixed_6e", shapes)]
    variables = flax.traverse_util.unflatten_dict({tuple(path): value for path, value in flat})
    for size in (17, 23):
        x = np.random.default_rng(0).normal(size=(2, size, size, 768)).astype(np.float32)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
        actual = module.apply(variables, jnp.asarray(x), train=False)
        np.testing.assert_allclose(actual, expected, atol=1e-4 * np.abs(expected).max())


def of_dtype(attached: Attached, dtype: Any) -> Attached:
    types: Any = {"dtype": dtype, "param_dtype": dtype}
    heads = {
        name: dataclasses.replace(head, module=head.module.clone(**types)) for name, head in attached.heads.items()
    }
    return auxjax.attach(attached.model.clone(**types), heads)


def test_torchvision_loads_what_goes_back(pair: Any) -> None:
    _, attached, variables, _, report, theirs = pair
    state = to_torchvision(attached.model, auxjax.strip(variables))
    heads = {"aux1", "aux2", "AuxLogits", "aux_classifier"}
    expected = {k: v for k, v in theirs.items() if k.split(".")[0] not in heads}
    assert set(state) == set(expected)
    for key, value in expected.items():
        if not key.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(state[key], value.numpy(), err_msg=key)
    assert report.loaded == len(jax.tree.leaves(variables)) and not report.reinitialised and not report.dropped
