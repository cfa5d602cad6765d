"""The table of a network: rows against list_taps, counts against the modules' own, text and HTML."""

from __future__ import annotations

import math
import xml.etree.ElementTree
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import auxjax
from auxjax import flops
from auxjax.errors import AuxjaxError
from auxjax.heads import Head, LinearProbe
from auxjax.models.resnet_cifar import CifarResNet
from auxjax.summary import Row, Summary, summary
from tests.foreign_model import StrangersNet


class Stage(nn.Module):
    """Two products of 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = nn.Dense(8, name="a")(x)
        return nn.Dense(8, name="b")(x), x


class Net(nn.Module):
    """A stage, a layer called twice, a classifier."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x, _ = Stage(name="stage")(x)
        shared = nn.Dense(8, use_bias=False, name="shared")
        return nn.Dense(5, name="logits")(shared(shared(x)))


X = jax.ShapeDtypeStruct((4, 8), jnp.float32)


def by_path(table: Summary) -> dict[str, Row]:
    return {row.path: row for row in table.rows}


def test_rows_are_taps_with_what_is_inside_them() -> None:
    rows = by_path(summary(Net(), X, depth=2))
    assert list(rows) == [
        "stage/a", "stage/b", "stage[0]", "stage[1]", "shared#0", "shared#1", "logits",
    ]  # fmt: skip
    # All that a module has stands in its first row, so that a column can be summed.
    assert {path: (row.params, row.flops) for path, row in rows.items()} == {
        "stage/a": (72, 128), "stage/b": (72, 128), "stage[0]": (144, 256), "stage[1]": (0, 0),
        "shared#0": (64, 256), "shared#1": (0, 0), "logits": (45, 80),
    }  # fmt: skip
    assert (rows["logits"].shape, rows["logits"].dtype) == ((4, 5), "float32")
    alone = by_path(summary(Net(), jnp.zeros((1, 8)), depth=2))
    assert {path: row.flops for path, row in alone.items()} == {path: row.flops for path, row in rows.items()}


class Encoder(nn.Module):
    """A module that is called by another method than `__call__`, which calls one more."""

    def setup(self) -> None:
        self.dense = nn.Dense(8)

    def encode(self, x: jax.Array) -> jax.Array:
        return self.twice(x)

    def twice(self, x: jax.Array) -> jax.Array:
        return self.dense(self.dense(x))


class Encoding(nn.Module):
    """An encoder."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return Encoder(name="encoder").encode(x)


def test_what_methods_compute_is_their_modules() -> None:
    rows = by_path(summary(Encoding(), X, depth=2))
    assert {path: row.flops for path, row in rows.items()} == {
        "encoder/dense#0": 256, "encoder/dense#1": 0, "encoder.twice": 256, "encoder.encode": 0,
    }  # fmt: skip


def test_depth_hides_what_is_nested_deeper_but_not_where_a_head_reads() -> None:
    assert list(by_path(summary(Net(), X))) == ["stage[0]", "stage[1]", "shared#0", "shared#1", "logits"]
    heads = {"deep": Head("stage/b", LinearProbe(5)), "second": Head("shared#1", LinearProbe(5))}
    rows = by_path(summary(auxjax.attach(Net(), heads), X))
    assert list(rows) == ["stage/b", "stage[0]", "stage[1]", "shared#0", "shared#1", "logits"]
    assert {path: row.heads for path, row in rows.items() if row.heads} == {
        "stage/b": ("deep",), "shared#1": ("second",),
    }  # fmt: skip


def test_the_rows_of_a_published_network_sum_to_its_totals() -> None:
    table = summary(CifarResNet(num_classes=10, depth=20), jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    assert round(table.params / 1e6, 2) == 0.27  # Table 6 of He et al. 2015
    assert table.params == sum(row.params for row in table.rows)
    assert table.flops == pytest.approx(math.fsum(row.flops for row in table.rows))


def test_a_strangers_network_and_its_heads() -> None:
    net, head = StrangersNet(), LinearProbe(5)
    image = jnp.zeros((2, 16, 16, 3))
    heads = {
        "first": Head("CheckpointBottleneckBlock_0", head, weight={"name": "linear_decay", "start": 0.5, "floor": 0.1}),
        "layer": Head("layers[0][2]", head, loss=lambda x, y: x, stop_gradient={"from_steps": 3}),
    }  # fmt: skip
    table = summary(auxjax.attach(net, heads), image, depth=3)
    taps = auxjax.list_taps(net, image)
    assert [row.path for row in table.rows] == [name for name in taps if name != "."]
    assert [row.shape for row in table.rows] == [shape.shape for name, shape in taps.items() if name != "."]
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), image, train=False))
    work = flops.count(lambda v, x: net.apply(v, x, train=False), variables, image)
    assert table.params == sum(math.prod(x.shape) for x in jax.tree.leaves(variables["params"]))
    assert table.flops == math.fsum(work.values()) / 2
    assert {row.path: row.heads for row in table.rows if row.heads} == {
        "CheckpointBottleneckBlock_0": ("first",), "layers[0]": ("layer",),
    }  # fmt: skip
    first, layer = table.heads
    assert (first.weight, first.module, layer.loss) == ("linear_decay", "LinearProbe", "<lambda>")
    features = taps["CheckpointBottleneckBlock_0"].shape[-1]
    assert (first.params, first.flops) == (features * 5 + 5, 2 * features * 5)
    assert table.training_params == table.params + first.params + layer.params
    assert table.training_flops == table.flops + first.flops + layer.flops


def texts(table: Summary) -> list[list[str]]:
    return [part.splitlines() for part in str(table).split("\n\n")]


def test_text_has_what_ships_and_what_training_adds() -> None:
    heads = {"aux": Head("shared#0", LinearProbe(5), weight=0.25)}
    taps, head, totals = texts(summary(auxjax.attach(Net(), heads), X))
    (line,) = (line for line in taps if line.endswith("aux"))
    assert line.split() == ["shared#0", "float32[4,", "8]", "64", "0.000", "aux"]
    assert "+13.5 % FLOPs, +17.8 % parameters" in head[-1]  # 80 / 592 FLOPs, 45 / 253 parameters
    assert head[-1].split()[:5] == ["aux", "shared#0", "LinearProbe", "softmax_cross_entropy", "0.25"]
    assert [line.rsplit(maxsplit=2)[1] for line in totals[2:]] == ["253", "45", "298"]
    assert len(texts(summary(Net(), X))) == 2  # no table of heads where there is none


def test_html_is_well_formed_and_escaped() -> None:
    heads = {"a<b": Head("shared#0", LinearProbe(5), loss=lambda x, y: x)}
    html = summary(auxjax.attach(Net(), heads), X)._repr_html_()
    tables = xml.etree.ElementTree.fromstring(f"<div>{html}</div>").findall("table")
    cells = [[cell.text for cell in row] for row in tables[1].iter("tr")]
    assert cells[1][:4] == ["a<b", "shared#0", "LinearProbe", "<lambda>"]
    assert len(tables) == 3


@pytest.mark.parametrize("inputs", [(), (jnp.zeros(()),), (3,)])
def test_inputs_have_a_batch(inputs: Any) -> None:
    with pytest.raises(AuxjaxError, match="summary needs the model's inputs"):
        summary(Net(), *inputs)


def test_a_tap_that_is_not_there_is_one_line() -> None:
    with pytest.raises(AuxjaxError, match="no tap 'stag/a' in Net; did you mean 'stage/a'") as error:
        summary(auxjax.attach(Net(), {"aux": Head("stag/a", LinearProbe(5))}), X)
    assert "\n" not in str(error.value)
