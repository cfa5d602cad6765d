"""What experiments/bench.py measures: parts and step over those of Flax and torch, heads over none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from benchmarks.timing import report

from auxjax import ops, weighting
from auxjax.attach import attach, strip
from auxjax.heads import presets
from auxjax.models import MODELS
from auxjax.step import Main, Program, create_state, train_step

Run = Callable[[], object]
_CLASSES = 10


def _ready(function: Callable[..., Any], *args: Any) -> Run:
    return lambda: jax.block_until_ready(function(*args))


def _both_forms(function: Callable[..., Any], *args: Any) -> dict[str, Run]:
    """Compiles a function and its gradients in our form and in the library's."""

    def compiled() -> Run:
        loss = jax.jit(jax.value_and_grad(lambda *a: jnp.square(function(*a)).sum(), argnums=tuple(range(len(args)))))
        return _ready(loss.lower(*args).compile(), *args)

    with ops.library_form():
        library = compiled()
    return {"auxjax": compiled(), "library": library}


def parts_over_library(rounds: int, _batch: int) -> None:
    """Prints forward and backward of each part over Flax's own."""
    key = jax.random.key(0)
    pools = [((16, 28, 28, 256), 3, 1), ((16, 14, 14, 512), 3, 1), ((8, 112, 112, 64), 3, 2), ((16, 14, 14, 832), 2, 2)]
    for shape, window, stride in pools:
        x = jax.random.normal(key, shape)
        title = f"max_pool {window}x{window}/{stride} {'x'.join(map(str, shape[1:]))}"
        report(title, _both_forms(lambda x, w=window, s=stride: ops.max_pool(x, (w, w), (s, s), "SAME"), x), rounds)
    x = jax.random.normal(key, (16, 28, 28, 192))
    for size in (1, 3):
        conv = ops.Conv(64, (size, size), use_bias=False)
        variables = conv.init(key, x)
        report(f"conv {size}x{size} 28x28x192 to 64", _both_forms(conv.apply, variables, x), rounds)
    norm = ops.BatchNorm(relu=True)
    variables = norm.init(key, x, use_running_average=False)
    stats = variables["batch_stats"]

    def batch_norm(params: Any, x: Any) -> Any:
        variables = {"params": params, "batch_stats": stats}
        return norm.apply(variables, x, use_running_average=False, mutable=["batch_stats"])[0]

    report("BatchNorm + ReLU 28x28x192", _both_forms(batch_norm, variables["params"], x), rounds)
    kernels = jax.random.normal(key, (8, 3, 3, 32, 32))
    x = jax.random.normal(key, (16, 14, 14, 32))
    conv = ops.Conv(32, (3, 3), use_bias=False)
    vmapped = jax.vmap(lambda k, x: conv.apply({"params": {"kernel": k}}, x), (0, None))
    report("conv 3x3 vmapped over 8 kernels", _both_forms(vmapped, kernels, x), rounds)


class _SmallConvNet(nn.Module):
    """Two convolutions and a classifier, 28 px: small enough for the loop around the step to matter."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(ops.Conv(16, (3, 3), strides=2, name="conv_1")(x))
        x = nn.relu(ops.Conv(32, (3, 3), strides=2, name="conv_2")(x))
        return nn.Dense(_CLASSES, name="logits")(x.mean((1, 2)))


def scan_over_steps(rounds: int, _batch: int) -> None:
    """Prints 20 training steps inside lax.scan over 20 calls of the jitted step, in our form and in the library's."""
    model = _SmallConvNet()
    batch = _images(64, 28)

    def loss(params: Any) -> Any:
        logits = model.apply(params, batch["image"], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    def step(params: Any, _: None) -> tuple[Any, None]:
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params)), None

    params = model.init(jax.random.key(0), batch["image"], train=False)

    def forms() -> tuple[Run, Run]:
        single = jax.jit(lambda p: step(p, None)[0]).lower(params).compile()
        scanned = jax.jit(lambda p: jax.lax.scan(step, p, None, 20)[0]).lower(params).compile()

        def calls() -> None:
            p = params
            for _ in range(20):
                p = single(p)
            jax.block_until_ready(p)

        return _ready(scanned, params), calls

    with ops.library_form():
        library_scan, _ = forms()
    ours_scan, ours_calls = forms()
    report(
        "20 conv steps",
        {"scanned": ours_scan, "scanned, library form": library_scan, "step by step": ours_calls},
        rounds,
    )


def initialisation(rounds: int, _batch: int) -> None:
    """Prints compiling and running GoogLeNet's init our way over jitting it; each round compiles anew."""
    model = MODELS["googlenet"](num_classes=_CLASSES, variant="bn", stem="small")
    image = jnp.zeros((1, 32, 32, 3))

    def fresh(make: Callable[[Any], Any]) -> Run:
        def run() -> None:
            jax.clear_caches()
            jax.block_until_ready(make(lambda key: model.init(key, image, train=False))(jax.random.key(0)))

        return run

    with _no_disk_cache():
        report("GoogLeNet init", {"fast_init": fresh(ops.fast_init), "jit": fresh(jax.jit)}, min(rounds, 2))


def step_over_flax(rounds: int, batch: int) -> None:
    """Prints GoogLeNet's training step over the same with Flax's own parts."""
    with ops.library_form():
        library = _training(batch, heads=True)[0]
    report("GoogLeNet step", {"auxjax": _training(batch, heads=True)[0], "plain Flax": library}, rounds)


def heads_over_none(rounds: int, batch: int) -> None:
    """Prints the step with both heads over the step without, beside the ratio of XLA's FLOP counts."""
    (with_heads, flops), (without, bare_flops) = _training(batch, heads=True), _training(batch, heads=False)
    report("GoogLeNet step", {"with heads": with_heads, "without": without}, rounds)
    print(f"{'GoogLeNet step':<34} with heads / without, FLOPs by XLA's count: {flops / bare_flops:.4f}")


def stripped_over_bare(rounds: int, batch: int) -> None:
    """Prints inference of a network trained with heads, stripped, over that of one that never had any."""
    model = MODELS["googlenet"](num_classes=_CLASSES, variant="bn", stem="small")
    attached, images = attach(model, presets("googlenet", _CLASSES)), _images(batch, 32)["image"]
    variables = ops.fast_init(attached.init)(jax.random.key(0), images[:1])
    kept = jax.jit(lambda v, x: attached.apply(v, x, train=False)["main"]).lower(variables, images).compile()
    bare = jax.jit(lambda v, x: model.apply(v, x, train=False)).lower(strip(variables), images).compile()
    runs = {"stripped": _ready(kept, variables, images), "bare": _ready(bare, strip(variables), images)}
    report("GoogLeNet inference", runs, rounds)


def step_over_torch(rounds: int, batch: int) -> None:
    """Prints GoogLeNet's step (torchvision variant, 96 px) over torchvision's: eager, channels_last and compiled."""
    try:
        from benchmarks import torch_googlenet
    except ImportError:
        print("torch: not installed, left out; pip install 'auxjax[torch]'")
        return
    batch = min(batch, 16)
    ours = _training(batch, heads=True, variant="torchvision", stem="imagenet", size=96)[0]
    for name, run in torch_googlenet.training_steps(batch, 96, _CLASSES).items():
        try:
            report("GoogLeNet 96 px step", {"auxjax": ours, name: run}, rounds)
        except RuntimeError as error:  # a compiler that torch.compile needs may be missing
            print(f"{name}: left out, {str(error).splitlines()[0]}")


def _training(batch: int, heads: bool, variant: str = "bn", stem: str = "small", size: int = 32) -> tuple[Run, float]:
    """Returns a training step with its state kept inside and donated, and its FLOPs."""
    model = MODELS["googlenet"](num_classes=_CLASSES, variant=variant, stem=stem)
    preset = "googlenet_torchvision" if variant == "torchvision" else "googlenet"
    chosen = presets(preset, _CLASSES) if heads else {}
    program = Program(
        attach(model, chosen), Main(), tuple(chosen),
        weighting.own_weights({"name": "constant"}, {name: head.weight for name, head in chosen.items()}),
        optax.sgd(0.01, momentum=0.9), total_steps=1000,
    )  # fmt: skip
    images = _images(batch, size)
    variables = ops.fast_init(program.attached.init)(jax.random.key(0), images["image"][:1])
    state = create_state(program, variables, jax.random.key(1))
    compiled = jax.jit(train_step, donate_argnums=0).lower(state, images).compile()
    flops = float((compiled.cost_analysis() or {}).get("flops", jnp.nan))

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, images)
        jax.block_until_ready(metrics)

    return run, flops


def _images(batch: int, size: int) -> dict[str, jax.Array]:
    image = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    return {"image": image, "label": jnp.arange(batch) % _CLASSES}


@contextlib.contextmanager
def _no_disk_cache() -> Iterator[None]:
    """Compiles everything anew inside the block."""
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", True)


PARTS: dict[str, Callable[[int, int], None]] = {
    "ops": parts_over_library, "scan": scan_over_steps, "init": initialisation, "step": step_over_flax,
    "heads": heads_over_none, "inference": stripped_over_bare, "torch": step_over_torch,
}  # fmt: skip
