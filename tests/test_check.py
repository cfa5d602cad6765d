"""finalize() refuses each mistake in one line that names it and what would be right."""

from __future__ import annotations

import math
from typing import Any

import pytest

from auxjax import check
from auxjax import config as configs
from auxjax.errors import AuxjaxError


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    """The base config as a dict, with `{"a.b": value}` set, whether or not there is such a key."""
    config = configs.base().to_dict()
    for path, value in changes.items():
        section = config
        *sections, key = path.split(".")
        for name in sections:
            section = section[name]
        section[key] = value
    return config


def with_head(**fields: Any) -> dict[str, Any]:
    return changed({"heads": {"aux1": configs.head("inception_4a", "mlp") | fields}})


def refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(AuxjaxError, match=message) as error:
        check.finalize(config)
    assert "\n" not in str(error.value)


def test_finalize_changes_nothing_it_was_given_and_nothing_the_second_time() -> None:
    given = with_head(features=["64,32"], weight=1)
    copy = with_head(features=["64,32"], weight=1)
    once = check.finalize(given)
    assert given == copy
    assert once.heads.aux1.features == (64, 32)
    assert once.heads.aux1.weight == 1.0
    assert type(once.heads.aux1.weight) is float
    assert check.finalize(once).to_dict() == once.to_dict()
    assert once.is_locked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 1}, "unknown config key 'lr'; valid: data, diagnostics, dtype"),
        ({"data.batchsize": 1}, "unknown config key 'data.batchsize'; did you mean 'data.batch_size'"),
        ({"optimizer.schedule.warmup": 1}, "did you mean 'optimizer.schedule.warmup_"),
        ({"data": {"name": "digits"}}, r"data lost its keys .*batch_size.*: set single keys, as in config.data\.\w+="),
        ({"data": 3}, "data is a section, not 3"),
        ({"model": "googlenet"}, "model is a section, not 'googlenet'"),
        ({"heads": ["aux1"]}, "heads is a section, not "),
        ({"main.loss": "distill"}, "main.loss='distill': main is that loss's teacher; give it to a head"),
        ({"data.batch_size": "12"}, "data.batch_size='12' must be int, not str"),
        ({"data.batch_size": 12.0}, "data.batch_size=12.0 must be int, not float"),
        ({"data.augment.flip": 1}, "data.augment.flip=1 must be bool, not int"),
        ({"optimizer.learning_rate": True}, "optimizer.learning_rate=True must be float, not bool"),
        ({"dtype": "float23"}, "unknown dtype 'float23'; did you mean 'float"),
        ({"data.cache": "devcie"}, "unknown data.cache 'devcie'; did you mean 'device'"),
        ({"parallel.mode": "fspd"}, "unknown parallel.mode 'fspd'; did you mean 'fsdp'"),
        ({"optimizer.name": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'"),
        ({"optimizer.schedule.name": "cosin"}, "unknown learning rate schedule 'cosin'; did you mean 'cosine'"),
        ({"main.loss": "softmax_cross"}, "unknown loss of main 'softmax_cross'; did you mean 'softmax_cross_entropy'"),
        ({"weighting": {"name": "linear_decy"}}, "unknown weighting 'linear_decy'; did you mean 'linear_decay'"),
        ({"weighting": {"name": "cosine", "flor": 1}}, "'flor'; did you mean 'floor'"),
        ({"weighting": {}}, "unknown weighting ''"),
        ({"model": {"name": "googlnet"}}, "unknown model 'googlnet'; did you mean 'googlenet'"),
        ({"model": {}}, "unknown model ''"),
        ({"model.varaint": "bn"}, "unknown key 'varaint' of model 'googlenet'; did you mean 'variant'"),
        ({"model.num_classes": 3}, "unknown key 'num_classes' of model"),
        ({"model.variant": 3}, "variant of model 'googlenet'=3 must be str, not int"),
        ({"seed": -1}, "seed=-1 must be in"),
        ({"seed": 2**32}, "seed=4294967296 must be in"),
        ({"data.batch_size": 0}, "data.batch_size=0 must be positive"),
        ({"optimizer.learning_rate": math.nan}, "optimizer.learning_rate=nan must be finite"),
        ({"main.weight": math.inf}, "main.weight=inf must be finite"),
        ({"optimizer.weight_decay": -0.1}, "optimizer.weight_decay=-0.1 must not be negative"),
        ({"optimizer.momentum": 1.0}, r"optimizer.momentum=1.0 must be in \[0, 1\)"),
        ({"optimizer.b1": 1}, r"optimizer.b1=1.0 must be in \[0, 1\)"),
        ({"optimizer.schedule.every_percent": 0}, "every_percent=0.0 must be positive"),
        ({"main.label_smoothing": -0.1}, "main.label_smoothing=-0.1 must be in"),
        ({"train.total_steps": 100}, "train.total_steps=100, train.total_epochs=10.0: .*train.total_epochs to 0"),
        ({"train.total_epochs": 0}, "set one of train.total_steps, train.total_epochs, train.total_examples$"),
        ({"train.total_percent": 5.0}, "unknown config key 'train.total_percent'"),
        ({"train.eval_epochs": 0, "train.eval_steps": -2}, "train.eval_steps=-2 must be positive"),
        ({"train.log_percent": 5}, "train.log_steps=50, train.log_percent=5.0: exactly one"),
        ({"optimizer.schedule.warmup_steps": 1, "optimizer.schedule.warmup_epochs": 1}, "schedule.warmup_epochs to 0"),
    ],
)
def test_a_mistake_is_one_line(changes: dict[str, Any], message: str) -> None:
    refused(changed(changes), message)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wieght": 1}, "unknown key 'wieght' of head 'aux1'; did you mean 'weight'"),
        ({"feature": 1}, "unknown key 'feature' of head 'aux1'; did you mean 'features'"),
        ({"features": ("a",)}, r"features of head 'aux1'=\('a',\) must be ints"),
        ({"features": (None,)}, "must be ints"),
        ({"kind": "lin"}, "unknown kind of head 'aux1' 'lin'; did you mean 'linear'"),
        ({"kind": ["linear"]}, "heads.aux1.kind=.* must be str, not list"),
        ({"at": 3}, "heads.aux1.at=3 must be str, not int"),
        ({"loss": "softmax_cross"}, "unknown loss of head 'aux1' 'softmax_cross'; did you mean"),
        ({"label_smoothing": "a"}, "heads.aux1.label_smoothing='a' must be float, not str"),
        ({"label_smoothing": 1.0}, r"heads.aux1.label_smoothing=1.0 must be in \[0, 1\)"),
        ({"num_classes": "5"}, "num_classes of head 'aux1'='5' must be int, not str"),
        ({"weight": -1}, "heads.aux1.weight=-1.0 must not be negative"),
        ({"weight": True}, "heads.aux1.weight=True must be float, not bool"),
        ({"weight": {}}, "unknown weight of head 'aux1' ''"),
        ({"weight": {"name": "linear_dec"}}, "unknown weight of head 'aux1' 'linear_dec'; did you mean 'linear_decay'"),
        ({"weight": {"name": "step", "every_percent": 0}}, "parameter every_percent of weight of head .* positive"),
        ({"stop_gradient": 1}, "heads.aux1.stop_gradient=1 must be True, False, {'from_steps': n}"),
        ({"stop_gradient": {"from_epochs": 1}}, "heads.aux1.stop_gradient={'from_epochs': 1} must be"),
        ({"stop_gradient": {"from_steps": 1, "until_steps": 2}}, "must be True, False"),
        ({"stop_gradient": {"from_steps": "1"}}, "must be True, False"),
    ],
)
def test_a_mistake_in_a_head_is_one_line(fields: dict[str, Any], message: str) -> None:
    refused(with_head(**fields), message)


@pytest.mark.parametrize("name", ["main", "total", "gradient", "", "a/b"])
def test_a_head_has_a_name_of_its_own(name: str) -> None:
    refused(changed({"heads": {name: configs.head("inception_4a", "linear")}}), f"a head cannot be named '{name}'")


def test_a_head_needs_a_tap_and_a_kind() -> None:
    refused(changed({"heads": {"a": {"kind": "linear"}}}), "head 'a' has no 'at'")
    refused(changed({"heads": {"a": {"at": "inception_4a"}}}), r"head 'a' has no 'kind': .*kind= \(.*linear")
    refused(changed({"heads": {"a": 3}}), "heads.a is a section with at= and kind=, not 3")
    full = check.finalize(changed({"heads": {"a": {"at": "inception_4a", "kind": "linear"}}})).heads.a
    assert full.to_dict() == configs.head("inception_4a", "linear")


@pytest.mark.parametrize("features", [(64, 32), [64, 32], ("64,32",), "64,32", ["64", "32"]])
def test_a_tuple_is_given_as_one_as_a_list_and_as_flags_give_it(features: Any) -> None:
    assert check.finalize(with_head(features=features)).heads.aux1.features == (64, 32)


@pytest.mark.parametrize("value", [True, False, {"from_steps": 0}, {"until_steps": 100}])
def test_the_forms_of_stop_gradient(value: Any) -> None:
    got = check.finalize(with_head(stop_gradient=value)).heads.aux1.stop_gradient
    assert (got if isinstance(value, bool) else got.to_dict()) == value
