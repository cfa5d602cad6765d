"""What the entry points share: flags, one-line errors with exit code 2, logging, and the compilation cache."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import itertools
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from auxjax import processes
from auxjax.config import OPEN
from auxjax.errors import TRY_AGAIN, AuxjaxError, TryAgainError, unknown
from auxjax.preemption import Preempted


def define_config() -> Any:
    """Defines --config=FILE.py[:argument] and --config.key=value; returns the flag's holder."""
    return config_flags.DEFINE_config_file(
        "config", None, "A config file, as configs/demo.py or configs/demo.py:smoke.", lock_config=True
    )


def load_config(path: str | Path, argument: str = "") -> Any:
    """Returns what `get_config(argument)` of a config file gives; raises AuxjaxError where that fails."""
    return from_file(path, lambda module: module.get_config(argument))


def from_file(path: str | Path, read: Callable[[Any], Any]) -> Any:
    """Returns what `read` makes of a config file's module; raises AuxjaxError, naming the line, where that fails."""
    path = Path(path)
    if not path.is_file():
        raise _no_file(path)
    try:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return read(module)
    except AuxjaxError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path} line {lines[-1]}" if lines else str(path)
        raise AuxjaxError(f"config file {where}: {type(error).__name__}: {_one_line(error)}") from None


def config_file() -> str:
    """Returns the path of the config file that the command line gives."""
    return _given(sys.argv[1:])["config"].partition(":")[0]


def run(
    main: Callable[[], int | None],
    needs: tuple[str, ...] = (),
    arguments: list[str] | None = None,
    several_processes: bool = False,
) -> None:
    """Parses the flags, of which `needs` must be given, runs `main` and exits: 0, or 2 after an error's one line.

    What is no flag is added to `arguments`, and is an error without them. With `several_processes`, those that were
    started with this one meet first, where there are any. A run that SIGTERM stopped exits with 0 too. Under a
    supervisor, which sets AUXJAX_SUPERVISED, it exits with TRY_AGAIN, and so does what raised TryAgainError.
    """
    command = shlex.join(["python", *sys.argv])
    try:
        _parse(needs, arguments)
        if several_processes:
            processes.start()
        _set_up()
        sys.exit(main() or 0)
    except AuxjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        code = TRY_AGAIN if isinstance(error, TryAgainError) and os.environ.get("AUXJAX_SUPERVISED") else 2
        processes.fail(str(error), code)
        sys.exit(code)
    except Preempted as stop:
        print(f"{stop}: the same command goes on from there: {command}", file=sys.stderr)
        sys.exit(TRY_AGAIN if os.environ.get("AUXJAX_SUPERVISED") else 0)
    except KeyboardInterrupt:
        print(f"interrupted: the same command goes on from the last checkpoint: {command}", file=sys.stderr)
        processes.fail("interrupted", 130)
        sys.exit(130)


def _parse(needs: tuple[str, ...], arguments: list[str] | None = None) -> None:
    app.define_help_flags()
    flags.FLAGS.set_gnu_getopt()  # flags may follow arguments
    added = _check_config(_given(sys.argv[1:]))
    try:
        # ml_collections looks for overrides in sys.argv, whatever it is given.
        sys.argv[:] = without(sys.argv, added)
        rest = flags.FLAGS(sys.argv)[1:]
    except flags.Error as error:
        raise AuxjaxError(_one_line(error)) from None
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        # What ml_collections raises for an override that does not fit.
        raise AuxjaxError(f"config: {_one_line(error)}") from None
    if arguments is not None:
        arguments.extend(rest)
    elif rest:
        raise AuxjaxError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    if added:
        from auxjax.check import finalize

        config: Any = flags.FLAGS["config"].value
        _add(config, added)
        finalize(config)  # says at once what is no parameter
    for name in needs:
        if not flags.FLAGS[name].present:
            example = "--config=configs/demo.py" if name == "config" else f"--{name}=..."
            raise AuxjaxError(f"--{name} is missing: give {example}")


def _given(arguments: list[str]) -> dict[str, str]:
    """Returns `{"config": its value, "config.a.b": ...}` of a command line, values after `=` or a space."""
    given = {}
    for argument, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and (name == "config" or name.startswith("config.")):
            given[name] = value if equals else following
    return given


def _check_config(given: dict[str, str]) -> dict[str, str]:
    """Opens the config file before ml_collections does, which tells of its mistakes in whole tracebacks.

    Returns the flags of keys that a section of open keys (model, heads, weighting) does not have yet, which
    ml_collections cannot add; whether they are parameters of what the section names is for `finalize` to say.
    """
    added: dict[str, str] = {}
    if "config" not in given:
        return added
    path, _, argument = given["config"].partition(":")
    config = load_config(path, argument)
    for name, value in given.items():
        section, where = config, ""
        for key in name.split(".")[1:]:
            if not hasattr(section, "keys"):
                raise AuxjaxError(f"unknown config key {name.removeprefix('config.')!r}: {where[:-1]} is no section")
            if key not in section and where.partition(".")[0] in OPEN:
                added[name] = value
                break
            if key not in section:
                raise unknown("config key", where + key, [where + k for k in section])
            section, where = section[key], f"{where}{key}."
    return added


def without(arguments: list[str], names: Collection[str]) -> list[str]:
    """Returns a command line less the flags in `names`, whose values may follow after a space."""
    kept, skip = [], False
    for argument in arguments:
        name, equals, _ = argument.lstrip("-").partition("=")
        ours = argument.startswith("-") and name in names
        if not ours and not skip:
            kept.append(argument)
        skip = ours and not equals
    return kept


def _add(config: Any, added: dict[str, str]) -> None:
    """Sets new keys of a locked config; a value is a number, a bool or a tuple where it reads as one, else a string."""
    with config.unlocked():
        for name, text in added.items():
            *sections, key = name.split(".")[1:]
            section = config
            for step in sections:
                if step not in section:
                    section[step] = {}
                section = section[step]
            try:
                section[key] = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                section[key] = {"true": True, "false": False}.get(text, text)


def _no_file(path: Path) -> AuxjaxError:
    folders = [folder for folder in (path, path.parent, Path("configs")) if folder.is_dir()]
    files = next((found for folder in folders if (found := sorted(map(str, folder.glob("*.py"))))), [])
    close = difflib.get_close_matches(str(path), files, n=3, cutoff=0.4) or files
    return AuxjaxError(f"no config file {str(path)!r}; there are: {', '.join(close) or 'none'}")


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())


def _set_up() -> None:
    """Logs to standard error and keeps compiled programs between runs; not done at import, where it would surprise."""
    import jax

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("auxjax").setLevel(logging.INFO if processes.is_writer() else logging.WARNING)
    _quiet_writers()
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/auxjax/jax"))


def _quiet_writers() -> None:
    """Leaves out what a failed save tells in tracebacks from other threads: its error is raised as well, once."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    shown = sys.unraisablehook

    def show(raised: Any) -> None:
        if not (raised.exc_type is RuntimeError and str(raised.exc_value) == "Event loop is closed"):
            shown(raised)

    sys.unraisablehook = show
