"""Many small runs: one program for all of them in each way of execution, `train` one by one, and torch one by one."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from auxjax import config as configs
from auxjax import data, machine, ops, train
from auxjax.check import finalize
from auxjax.models import MODELS
from auxjax.population import plan
from auxjax.population.execution import Execution, way_of
from auxjax.population.members import Member
from auxjax.population.program import compiled

_BATCH = 64
# By network: the model's section, where its head sits, and the steps of a run.
NETWORKS: dict[str, tuple[dict[str, Any], str, int]] = {
    "mlp": ({"name": "plainnet", "depth": 2, "width": 256, "activation": "relu", "kernel_init": "he"}, "layer_1", 200),
    "plainnet": ({"name": "plainnet", "depth": 8, "width": 128}, "layer_4", 200),
    "cnn": ({"name": "small_cnn"}, "conv1", 40),
}


class SmallCNN(nn.Module):
    """Two 3x3 convolutions of 16 and 32 features, each with a 2x2 max pool, and a classifier of the mean."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, features in enumerate((16, 32), start=1):
            x = nn.relu(ops.Conv(features, (3, 3), dtype=self.dtype, name=f"conv{i}")(x))
            x = ops.max_pool(x, (2, 2), strides=(2, 2))
        return nn.Dense(self.num_classes, dtype=self.dtype, name="logits")(x.mean((1, 2)))


def config_of(network: str, index: int) -> Any:
    """Returns a member's config: digits resized to 28 px, four weights of the head, a seed for each four."""
    MODELS.setdefault("small_cnn", SmallCNN)
    model, tap, steps = NETWORKS[network]
    config = configs.base()
    config.model = dict(model)
    config.heads = {"aux": configs.head(at=tap, kind="linear", weight=(0.05, 0.1, 0.3, 0.5)[index % 4])}
    config.data.update(batch_size=_BATCH, image_size=28)
    config.update(seed=index // 4)
    config.parallel.num_devices = 1
    config.optimizer.update(learning_rate=0.05)
    config.train.update(total_epochs=0.0, total_steps=steps, **configs.durations("eval", steps=steps))
    config.train.update(**configs.durations("checkpoint", steps=steps), **configs.durations("log", steps=steps))
    return finalize(config)


def populations(rounds: int, batch: int) -> None:
    """Prints seconds to train 8, 16 and 32 members, compile time apart, and each over the same runs one by one."""
    del batch
    for network in NETWORKS:
        for members in (8, 16, 32):
            _report(network, members, max(rounds // 2, 1))


def _report(network: str, members: int, rounds: int) -> None:
    configs_of = [config_of(network, i) for i in range(members)]
    (group,) = plan(configs_of)
    shared = compiled(group)
    made = [Member(group, shared, config, own, None) for config, own in zip(configs_of, group.own, strict=True)]
    names = ["scanned", *(["threads"] if machine.processors() > 1 else []), "vmapped"]
    names += ["devices"] if jax.local_device_count() > 1 else []
    candidates: dict[str, Callable[[], Any]] = {
        name: functools.partial(_train, shared, made, way_of(name, shared, members)) for name in names
    }
    candidates["train, one by one"] = lambda: [train(config, progress=False) for config in configs_of]
    torch = _torch(network, members)
    if torch is not None:
        candidates["torch, one by one"] = torch
    first = {name: _seconds(run) for name, run in candidates.items()}
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            times[name].append(_seconds(run))
    run_only = {name: float(np.median(values)) for name, values in times.items()}
    for name, seconds in run_only.items():
        others = [
            f"{seconds / run_only[other]:.2f} of {other}" for other in list(candidates)[len(names) :] if other != name
        ]
        compile_seconds = max(first[name] - seconds, 0.0)
        title = f"{network}, {members} members"
        print(
            f"{title:<24} {name:<18} {seconds:7.2f} s, compile {compile_seconds:5.1f} s; {'; '.join(others)}",
            flush=True,
        )


def _train(shared: Any, members: list[Member], way: Execution) -> None:
    """Trains all members in memory, with no evaluation."""
    resident = way.everywhere(data.arrays(shared.dataset, "train"))
    steps = shared.total_steps
    for start in range(0, len(members), way.width):
        some = members[start : start + way.width]
        index = way.join([np.resize(member.positions(1, 1), (steps, _BATCH)) for member in some])
        numbers, states = way.join([m.numbers for m in some]), way.join([m.state for m in some])
        jax.block_until_ready(way.stretch(numbers, states, resident, index, np.int32(steps)))


def _torch(network: str, members: int) -> Callable[[], None] | None:
    """Returns the same runs in eager torch, one after another; None where it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    from benchmarks.torch_small import small_network

    images, labels = torch.rand(1437, 1, 28, 28), torch.arange(1437) % 10
    steps = NETWORKS[network][2]

    def run() -> None:
        for member in range(members):
            torch.manual_seed(member)
            model = small_network(network)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            for _ in range(steps):
                index = torch.randint(0, 1437, (_BATCH,))
                main, aux = model(images[index])
                loss = torch.nn.functional.cross_entropy(main, labels[index])
                loss = loss + 0.3 * torch.nn.functional.cross_entropy(aux, labels[index])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()

    return run


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


PARTS = {"population": populations}
