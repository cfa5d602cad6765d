"""Steps under methods that look at gradients, over the plain step: GoogLeNet with 1, 2 or 4 heads, 32 px."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from benchmarks.timing import report

from auxjax import ops
from auxjax.attach import attach
from auxjax.head_gradients import trunk_of
from auxjax.heads import Head, InceptionV1Head, presets
from auxjax.models import MODELS
from auxjax.step import Main, Program, create_state, train_step
from auxjax.weighting import choose

Run = Callable[[], object]
_CLASSES = 10
# By K: main and heads at these taps.
_TAPS = {
    2: ("inception_4a",), 3: ("inception_4a", "inception_4d"),
    5: ("inception_4a", "inception_4b", "inception_4c", "inception_4d"),
}  # fmt: skip
# One of each kind of cost.
_METHODS = ("uncertainty", "famo", "pcgrad", "mgda", "gcs", "bloop", "mt_adam", "exp3", "auto_lambda", "auxi_learn")


def methods_over_plain(rounds: int, batch: int) -> None:
    """Prints the step of each method over the plain step, with the bound that XLA's FLOP counts give."""
    batch = min(batch, 16)
    for size in _TAPS:
        for name in _METHODS if size == 3 else ("pcgrad",):
            _report(size, {"name": name}, rounds, batch)
        for config in ({"trunk": "taps"}, {"trunk": "shallowest"}, {"pullbacks": "vmapped"}):
            _report(size, {"name": "pcgrad", **config}, rounds, batch)
    _beside_torchjd(rounds, batch)


def _report(size: int, config: dict[str, Any], rounds: int, batch: int) -> None:
    plain, plain_flops = _training(size, {"name": "constant"}, batch)
    run, flops = _training(size, config, batch)
    title = " ".join(str(v) for v in config.values())
    report(f"K={size} {title}", {"method": run, "plain": plain}, rounds)
    print(f"{f'K={size} {title}':<34} method / plain, FLOPs by XLA's count: {flops / plain_flops:.3f}", flush=True)
    # On a CPU a large program takes thousands of memory maps, of which Linux gives a process 65,530.
    jax.clear_caches()


def _beside_torchjd(rounds: int, batch: int) -> None:
    """Prints PCGrad's step, ours and TorchJD's, over each one's plain step: torchvision's GoogLeNet at 64 px."""
    try:
        from benchmarks.torch_googlenet import pcgrad_steps

        theirs = pcgrad_steps(batch, 64, _CLASSES)
    except ImportError:
        print("torch, torchvision or torchjd is not installed: no comparison with TorchJD")
        return
    model = MODELS["googlenet"](num_classes=_CLASSES, variant="torchvision")
    heads = presets("googlenet_torchvision", _CLASSES)
    ours, _ = _training(3, {"name": "pcgrad", "trunk": "shallowest"}, batch, model, heads, 64)
    plain, _ = _training(3, {"name": "constant"}, batch, model, heads, 64)
    report("PCGrad up to inception_4a", {"auxjax": ours, "auxjax plain": plain}, rounds)
    report("PCGrad up to inception_4a", theirs, rounds)
    report("PCGrad up to inception_4a", {"auxjax": ours, "torchjd": theirs["torchjd"]}, rounds)


def _training(
    size: int,
    config: dict[str, Any],
    batch: int,
    model: Any = None,
    heads: Mapping[str, Head] | None = None,
    pixels: int = 32,
) -> tuple[Run, float]:
    """Returns a training step with its state kept inside and donated, and its FLOPs."""
    model = model or MODELS["googlenet"](num_classes=_CLASSES, variant="bn", stem="small")
    heads = heads or {f"aux{i}": Head(at, InceptionV1Head(_CLASSES), weight=0.3) for i, at in enumerate(_TAPS[size])}
    chosen = choose(config)
    program = Program(
        attach(model, heads), Main(), tuple(heads), lambda p: jnp.array([1.0, *[0.3] * len(heads)]),
        optax.sgd(0.01, momentum=0.9), total_steps=1000, weighting=chosen.weighting, trunk=chosen.trunk,
        pullbacks=chosen.pullbacks, learning_rate=lambda step: 0.01,
    )  # fmt: skip
    image = jax.random.normal(jax.random.key(0), (batch, pixels, pixels, 3))
    images = {"image": image, "label": jnp.arange(batch) % _CLASSES}
    variables = ops.fast_init(program.attached.init)(jax.random.key(0), image[:1])
    trunk = trunk_of(program, variables, images) if chosen.weighting.needs else None
    state = create_state(program, variables, jax.random.key(1), trunk)
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, images).compile()
    flops = float((compiled.cost_analysis() or {}).get("flops", jnp.nan))

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, images)
        jax.block_until_ready(metrics)

    return run, flops


PARTS = {"weighting": methods_over_plain}
