"""Early exits: answers of the plain heads and main, later stages behind a condition, counted costs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import auxjax
from auxjax import config as configs
from auxjax import flops
from auxjax.attach import Attached
from auxjax.errors import AuxjaxError
from auxjax.exit_table import exit_table
from auxjax.exits import exits, stage_flops
from auxjax.heads import Head, LinearProbe
from auxjax.models.plainnet import PlainNet
from tests.foreign_model import StrangersNet

ROOT = Path(__file__).parent.parent
X = jax.random.normal(jax.random.key(0), (6, 9, 9, 3))


class Wrapped(nn.Module):
    """Six 3x3 convolutions inside one of Linen's transforms."""

    wrap: Callable[[Any], Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        made = self.wrap(PlainNet)(4, depth=6, width=8, activation="relu", kernel_init="he", kind="conv", name="net")
        output: jax.Array = made(x, train=train)
        return output


def plain(module: Any) -> Any:
    return module


def conv_net(wrap: Callable[[Any], Any] = plain) -> Attached:
    """Two heads, the deeper one attached first."""
    heads = {"b": Head("net/layer_4", LinearProbe(4)), "a": Head("net/layer_2", LinearProbe(4))}
    return auxjax.attach(Wrapped(wrap), heads)


def stranger() -> Attached:
    """BatchNorm, dropout, remat, jit and a scan, of whose stack both heads read."""
    heads = {name: Head(f"layers[0][{i}]", LinearProbe(5)) for i, name in enumerate("ab")}
    return auxjax.attach(StrangersNet(), heads | {"first": Head("JitBottleneckBlock_0", LinearProbe(5))})


def entropy(logits: np.ndarray) -> np.ndarray:
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -(np.exp(log) * log).sum(-1)


def expected(outputs: dict[str, Any], limits: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """The rule in NumPy: the first of `limits`, in their order, whose entropy is below its limit, or main."""
    answers = np.stack([outputs[name] for name in (*limits, "main")])
    confident = [entropy(outputs[name]) < limit for name, limit in limits.items()]
    index = np.stack([*confident, np.full(answers.shape[1], True)]).argmax(0)
    return answers[index, np.arange(answers.shape[1])], index


@pytest.mark.parametrize(
    ("make", "order"),
    [
        (conv_net, "ab"), (lambda: conv_net(nn.jit), "ab"), (lambda: conv_net(nn.remat), "ab"),
        pytest.param(stranger, ("first", "a", "b"), marks=pytest.mark.slow_study),
    ],
    ids=["plain", "jit", "remat", "stranger"],
)  # fmt: skip
def test_each_example_has_the_answer_of_its_exit(make: Callable[[], Attached], order: Any) -> None:
    attached = make()
    variables = jax.jit(attached.init)(jax.random.key(1), X)
    outputs = jax.device_get(jax.jit(lambda v: attached.apply(v, X, train=False, heads=order))(variables))
    some = {name: float(np.median(entropy(outputs[name]))) for name in order}
    seen = set()
    for limits in (dict.fromkeys(order, 0.0), some, dict.fromkeys(order, 9.0)):
        logits, index = jax.jit(exits(attached, limits))(variables, X)
        answer, exit_index = expected(outputs, limits)
        np.testing.assert_array_equal(index, exit_index)
        np.testing.assert_allclose(logits, answer, rtol=1e-5, atol=1e-6)
        assert index.dtype == jnp.int32
        seen |= set(np.asarray(index).tolist())
    assert {0, 1, len(order)} <= seen


def nested(jaxpr: Any, depth: int = 0) -> Counter[int]:
    """Convolutions and products of a program by how many conditions enclose them."""
    counts: Counter[int] = Counter()
    for equation in jaxpr.eqns:
        counts[depth] += equation.primitive.name in ("conv_general_dilated", "dot_general")
        for inner in jaxprs_in_params(equation.params):
            counts += nested(inner, depth + (equation.primitive.name == "cond"))
    return counts


@pytest.mark.parametrize("wrap", [plain, nn.jit, nn.remat])
def test_later_layers_stand_behind_a_condition(wrap: Callable[[Any], Any]) -> None:
    attached = conv_net(wrap)
    variables = jax.eval_shape(attached.init, jax.random.key(1), X)
    program = jax.make_jaxpr(exits(attached, 0.5))(variables, X)
    # Two convolutions and a head before the first exit, as many before the second, and the rest behind both.
    assert nested(program.jaxpr) == {0: 3, 1: 3, 2: 3}


def test_the_compiled_program_keeps_its_conditions() -> None:
    attached = conv_net()
    variables = jax.eval_shape(attached.init, jax.random.key(1), X)
    compiled = jax.jit(exits(attached, 0.5)).lower(variables, X).compile().as_text()
    assert (compiled or "").count(" conditional(") == 2


def test_stages_share_nothing_and_sum_to_the_whole() -> None:
    attached = conv_net()
    variables = jax.eval_shape(attached.init, jax.random.key(1), X)
    stages = stage_flops(attached, ("a", "b"), variables, X)
    whole = flops.count(lambda v, x: attached.apply(v, x, train=False, heads=("a", "b")), variables, X)
    assert list(stages) == ["a", "b", "main"]
    assert sum(stages.values()) == sum(whole.values())
    # Only the named heads are computed.
    alone = stage_flops(attached, (), variables, X)
    bare = flops.count(lambda v, x: attached.apply(v, x, train=False)["main"], variables, X)
    assert alone == {"main": sum(bare.values())}


def test_one_threshold_serves_all_heads_and_a_mapping_those_it_names() -> None:
    attached = conv_net()
    variables = jax.jit(attached.init)(jax.random.key(1), X)
    assert set(np.asarray(jax.jit(exits(attached, 9.0))(variables, X)[1]).tolist()) == {0}
    logits, index = jax.jit(exits(attached, {"b": 9.0}))(variables, X)
    np.testing.assert_array_equal(index, 0)  # the first of one exit
    outputs = attached.apply(variables, X, train=False, heads=("b",))
    np.testing.assert_allclose(logits, outputs["b"], rtol=1e-5, atol=1e-6)


def test_a_head_that_stops_its_gradient_by_step_may_answer() -> None:
    attached = auxjax.attach(PlainNet(4, depth=2, width=8), {"a": Head("layer_1", LinearProbe(4))})
    variables = attached.init(jax.random.key(0), jnp.zeros((2, 3)))
    late = auxjax.attach(attached.model, {"a": Head("layer_1", LinearProbe(4), stop_gradient={"from_steps": 3})})
    for network in (attached, late):
        np.testing.assert_array_equal(exits(network, 9.0)(variables, jnp.ones((2, 3)))[1], 0)
        table = exit_table(network, variables, [(jnp.ones((2, 3)), jnp.zeros(2, jnp.int32))], [9.0])
        assert table.rows[1].shares["a"] == 1


@pytest.mark.parametrize(
    ("heads", "thresholds", "message"),
    [
        ({"aux1": Head("layer_1", LinearProbe(4))}, {"aux2": 0.1}, "unknown head 'aux2'; did you mean 'aux1'"),
        ({}, 0.1, "exits need heads, and there is none"),
        ({"aux1": Head("layer_1", LinearProbe(4))}, {}, "exits need heads, and there is none"),
        ({"aux1": Head("layer_1", LinearProbe(3))}, 0.1, r"'aux1' gives \[2, 3\], main \[2, 4\]; all must be one"),
        ({"aux1": Head("layer_1", nn.Dense(4))}, 0.1, r"'aux1' gives \[2, 9, 9, 4\], main \[2, 4\]; all must be"),
    ],
)
def test_what_cannot_exit_is_one_line(heads: dict[str, Head], thresholds: Any, message: str) -> None:
    attached = auxjax.attach(PlainNet(4, depth=2, width=8, kind="conv"), heads)
    variables = jax.eval_shape(attached.init, jax.random.key(0), X[:2])
    for call in (
        lambda: jax.eval_shape(exits(attached, thresholds), variables, X[:2]),
        lambda: exit_table(attached, variables, [(X[:2], jnp.zeros(2, jnp.int32))], [thresholds]),
    ):
        with pytest.raises(AuxjaxError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_the_table_is_the_rule_and_counts_what_is_computed() -> None:
    attached = auxjax.attach(
        PlainNet(4, depth=3, width=8, activation="relu"),
        {"a": Head("layer_1", LinearProbe(4)), "b": Head("layer_2", LinearProbe(4))},
    )
    variables = attached.init(jax.random.key(1), jnp.zeros((1, 6)))
    x, labels = jax.random.normal(jax.random.key(2), (50, 6)) * 3, jax.random.randint(jax.random.key(3), (50,), 0, 4)
    outputs = jax.device_get(attached.apply(variables, x, train=False, heads=("a", "b")))
    # Layer costs 2 x 6 x 8, then 2 x 8 x 8; every classifier 2 x 8 x 4.
    costs = {("a", "b"): [96 + 64, 96 + 128 + 128, 96 + 256 + 192], ("b",): [96 + 128 + 64, 96 + 256 + 128]}
    thresholds: list[Any] = [0.6, {"b": 0.7, "a": 0.3}, {"b": 0.8}, 0.0]
    batches = [(x[:20], labels[:20]), ((x[20:],), labels[20:])]
    table = exit_table(attached, variables, batches, thresholds)
    assert table.names == ("a", "b", "main")
    main = table.rows[0]
    assert (main.flops, main.speed_up, main.shares) == (96 + 256 + 64, 1.0, {"main": 1.0})
    assert main.accuracy == (outputs["main"].argmax(-1) == np.asarray(labels)).mean()
    for threshold, row in zip(thresholds, table.rows[1:], strict=True):
        limits = threshold if isinstance(threshold, dict) else {"a": threshold, "b": threshold}
        limits = {name: limits[name] for name in "ab" if name in limits}
        logits, index = expected(outputs, limits)
        assert row.accuracy == pytest.approx((logits.argmax(-1) == np.asarray(labels)).mean())
        assert row.flops == pytest.approx(np.take(costs[tuple(limits)], index).mean())
        assert row.speed_up == pytest.approx(main.flops / row.flops)
        assert list(row.shares.values()) == [pytest.approx((index == i).mean()) for i in range(len(limits) + 1)]
    assert 0 < table.rows[1].shares["a"] < 1
    lines = str(table).splitlines()
    assert lines[0].split() == ["threshold", "accuracy", "MFLOP", "speed-up", "a", "b", "main"]
    assert len({len(line) for line in lines}) == 1
    (line,) = (line for line in lines if line.startswith(" " * 4) and "b=0.8" in line.split())
    assert line.split()[6] == "-"


@pytest.mark.parametrize(
    ("batches", "message"),
    [([], "at least one batch"), ([(X, jnp.zeros((6, 4)))], r"labels int\[B\], not float32\[6, 4\]")],
)
def test_a_table_needs_labelled_examples(batches: Any, message: str) -> None:
    attached = conv_net()
    variables = jax.eval_shape(attached.init, jax.random.key(1), X)
    with pytest.raises(AuxjaxError, match=message):
        exit_table(attached, variables, batches, [0.5])


def test_the_entry_point_prints_the_table_of_a_run(data_dir: str, tmp_path: Path) -> None:
    made = configs.base()
    made.model = {"name": "plainnet", "depth": 2, "width": 16}
    made.heads = {"aux1": configs.head(at="layer_1", kind="linear")}
    made.data.update(data_dir=data_dir, batch_size=32, eval_batch_size=200)
    made.train.update(total_epochs=0.0, total_steps=20, checkpoint_epochs=0.0, checkpoint_percent=100.0)
    result = auxjax.train(made, tmp_path)
    command = [sys.executable, "experiments/exits.py", f"--workdir={tmp_path}", "--thresholds=0,9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[1][2] == f"{100 * result.evaluation['accuracy/main']:.2f}"
    assert lines[3][1] == f"{100 * result.evaluation['accuracy/aux1']:.2f}"
