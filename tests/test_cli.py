"""The command line: overrides that work, and mistakes that end in one line and exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from absl import flags
from ml_collections import config_flags

from auxjax import check, cli
from auxjax.errors import AuxjaxError

# ml_collections loads config files by a function that Python 3.11 deprecates and that no user sees deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = Path(__file__).parents[1]
MLP = """
from auxjax import config as configs

def get_config(argument=""):
    config = configs.base()
    config.heads = {"aux1": configs.head("inception_4a", "mlp", features=(128,))}
    return config
"""


@pytest.fixture
def parse(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Parses a command line as an entry point does, with flags of its own, in the root of the repository."""
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values, lock_config=True)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(cli.app, "define_help_flags", lambda: None)
    monkeypatch.chdir(ROOT)

    def parse(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        cli._parse(("config", "workdir"))
        return check.finalize(holder.value)

    return parse


def test_a_head_weight_is_set_from_the_command_line(parse: Any) -> None:
    config = parse("--config=configs/demo.py", "--config.heads.aux1.weight=0.5", "--workdir=runs/x")
    assert config.heads.aux1.weight == 0.5
    assert config.heads.aux2.weight == 0.3


@pytest.mark.parametrize("spaced", [False, True])
def test_a_tuple_is_set_with_commas(spaced: bool, parse: Any, tmp_path: Path) -> None:
    (tmp_path / "mlp.py").write_text(MLP)
    pairs = {"--config": f"{tmp_path}/mlp.py", "--config.heads.aux1.features": "64,32", "--workdir": "x"}
    arguments = [part for pair in pairs.items() for part in (pair if spaced else ("=".join(pair),))]
    assert parse(*arguments).heads.aux1.features == (64, 32)


def test_an_argument_of_the_config_file_and_overrides_meet(parse: Any) -> None:
    config = parse("--config=configs/demo.py:smoke", "--config.train.total_steps=7", "--workdir=x")
    assert config.train.total_steps == 7
    assert config.data.batch_size == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--config is missing: give --config=configs/demo.py"),
        (["--config=configs/demo.py"], "--workdir is missing: give --workdir=..."),
        (["--config=configs/dmo.py"], "no config file 'configs/dmo.py'; there are: configs/demo.py"),
        (["--config", "configs/dmo.py"], "no config file 'configs/dmo.py'; there are: configs/demo.py"),
        (["--config=nowhere/demo.py"], "no config file 'nowhere/demo.py'; there are: configs/demo.py"),
        (["--config=configs"], "no config file 'configs'; there are: configs/"),
        (["--config=configs/demo.py:smok"], "unknown config argument 'smok'; did you mean 'smoke'"),
        (["--config=configs/demo.py", "--config.heads.aux1.wieght=1"], "'wieght' of head 'aux1'; did you mean 'weight"),
        (["--config=configs/demo.py", "--config.data.batchsize", "3"], "'data.batchsize'; did you mean 'data.batch"),
        (["--config=configs/demo.py", "--config.seed.x=1"], "unknown config key 'seed.x': seed is no section"),
        (["--config=configs/demo.py", "--config.data.batch_size=ten"], "--config.data.batch_size=ten: invalid literal"),
        (["--config=configs/demo.py", "--config.data=3"], "--config.data=3"),
        (["--config=configs/demo.py", "--wrkdir=x"], "Unknown command line flag 'wrkdir'. Did you mean: w"),
        (["--config=configs/demo.py", "--workdir=x", "smoke"], "unexpected argument 'smoke'; flags are written"),
        (["--config=configs/demo.py", "--workdir=x", "--config.train.total_epochs=3"], "train.total_steps=1200,"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], message: str, parse: Any) -> None:
    with pytest.raises(AuxjaxError) as error:
        parse(*arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def get_config(argument):\n    return lr\n", "line 2: NameError: name 'lr' is not defined"),
        ("def get_config(:\n", "SyntaxError"),
        ("x = 1\n", "has no attribute 'get_config'"),
    ],
)
def test_a_mistake_inside_a_config_file_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(AuxjaxError) as error:
        cli.load_config(tmp_path / "mine.py")
    assert message in str(error.value)
    assert str(error.value).startswith(f"config file {tmp_path}/mine.py")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/demo.py:smoke", "--workdir=/proc/nowhere"], "error: workdir '/proc/nowhere' cannot be wr"),
        (
            ["--config=configs/demo.py:smoke", "--config.heads.aux1.wieght=0.5"],
            "error: unknown key 'wieght' of head 'aux1'; did you mean 'weight'",
        ),
    ],
)
def test_an_entry_point_ends_with_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    command = [sys.executable, "experiments/train.py", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parse", lambda *given: None)
    monkeypatch.setattr(cli, "_set_up", lambda: None)
    for main, code in ((interrupted, 130), (lambda: None, 0), (lambda: 3, 3)):
        with pytest.raises(SystemExit) as ended:
            cli.run(main)
        assert ended.value.code == code
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err


def test_a_section_of_open_keys_takes_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = ["--config.weighting.name=gcs", "--config.weighting.trunk", "taps", "--config.weighting.soft=true"]
    extra += ["--config.weighting.schedule.name=linear_decay", "--config.weighting.schedule.start=0.5"]
    program = "import json; from auxjax import cli; c = cli.define_config(); cli.run(lambda: print(c.value.to_json()))"
    command = [sys.executable, "-c", program, "--config=configs/demo.py", *extra]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    expected = {"name": "gcs", "trunk": "taps", "soft": True, "schedule": {"name": "linear_decay", "start": 0.5}}
    assert json.loads(result.stdout)["weighting"] == expected
