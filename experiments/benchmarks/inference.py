"""Inference of a stripped GoogLeNet, plain and folded, over torch's and onnxruntime's, with the goals beside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.timing import ratios

from auxjax import ops
from auxjax.export import Network, bare_network, fold, write_onnx, write_torchvision
from auxjax.export.network import relative_error
from auxjax.models import GoogLeNet

Run = Callable[[], Any]
_BATCH, _SIZE, _CLASSES = 8, 224, 1000
_GOALS = {"torch channels_last": 1.1, "onnxruntime": 1.3}


def deployed(rounds: int, _batch: int) -> None:
    """Prints inference of GoogLeNet (torchvision variant, 224 px, batch 8), each way over the folded network's.

    Take figures on one core (`taskset -c 1`): torch's threads wait for one another at full speed, so on two cores that
    others use as well its time is several times its own.
    """
    # torchvision's own initial values let activations shrink to denormal numbers, and torch takes three times
    # as long for those.
    model = GoogLeNet(num_classes=_CLASSES, variant="torchvision", kernel_init="he")
    image = jnp.zeros((1, _SIZE, _SIZE, 3))
    variables = ops.fast_init(lambda key: model.init(key, image, train=False))(jax.random.key(0))
    network = bare_network(model, variables, image.shape[1:])
    images = np.asarray(jax.random.normal(jax.random.key(1), (_BATCH, _SIZE, _SIZE, 3)))
    smaller = fold(network)
    folded = _jax_run(smaller, images)
    others = {"plain": _jax_run(network, images), **_onnxruntime(smaller, images), **_torch(network, images)}
    expected = np.asarray(folded())
    if not np.abs(expected).max() > 1e-2:
        raise AssertionError(
            f"logits of {np.abs(expected).max():.1e} mean denormal numbers inside, not a fair comparison"
        )
    for name, run in others.items():
        error = relative_error(run(), expected)
        if error > 1e-3:
            raise AssertionError(f"{name} differs from the folded network by {error:.1e}")
        ((wall, cpu),) = ratios({"folded": folded, name: run}, rounds).values()
        goal = f", goal {_GOALS[name]}" if name in _GOALS else ""
        load = f"load {os.getloadavg()[0]:.1f}"
        print(f"{'GoogLeNet 224 px inference':<34} folded / {name}: CPU {cpu}, wall {wall}, {load}{goal}", flush=True)


def _jax_run(network: Network, images: np.ndarray) -> Run:
    variables, x = jax.device_put((dict(network.variables), images))
    compiled = jax.jit(network.function).lower(variables, x).compile()
    return lambda: jax.block_until_ready(compiled(variables, x))


def _onnxruntime(network: Network, images: np.ndarray) -> dict[str, Run]:
    try:
        import jax2onnx  # noqa: F401
        import onnxruntime
    except ImportError:
        print("onnxruntime: not installed, left out; pip install 'auxjax[onnx]'")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(path, network)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return {"onnxruntime": lambda: session.run(None, {"image": images})[0]}


def _torch(network: Network, images: np.ndarray) -> dict[str, Run]:
    try:
        import safetensors.torch
        import torch
        from benchmarks.torch_googlenet import googlenet
    except ImportError:
        print("torch: not installed, left out; pip install 'auxjax[torch]'")
        return {}
    from torch.fx.experimental.optimization import fuse

    module = googlenet(weights=None, num_classes=_CLASSES, aux_logits=False, init_weights=False).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        write_torchvision(path, network)
        module.load_state_dict(safetensors.torch.load_file(path))
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(memory_format=torch.channels_last)

    def run(module: Any) -> Run:
        placed = module.to(memory_format=torch.channels_last)

        def forward() -> Any:
            with torch.inference_mode():
                return placed(x).numpy()

        return forward

    return {"torch channels_last": run(module), "torch fx-folded channels_last": run(fuse(module))}


PARTS: dict[str, Callable[[int, int], None]] = {"deployed": deployed}
