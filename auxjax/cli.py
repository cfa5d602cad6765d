"""What the entry points share: flags, one-line errors with exit code 2, logging, and the compilation cache."""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from auxjax.errors import AuxjaxError, nearest


def define_config() -> Any:
    """Defines --config=FILE.py[:argument] and --config.key=value; returns the flag's holder."""
    return config_flags.DEFINE_config_file(
        "config", None, "A config file, as configs/demo.py or configs/demo.py:smoke.", lock_config=True
    )


def load_config(path: Path, argument: str = "") -> Any:
    """Returns what `get_config(argument)` of a config file gives; raises AuxjaxError where there is no such file."""
    _check_file(str(path))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def run(main: Callable[[], int | None], needs: tuple[str, ...] = ()) -> None:
    """Parses the flags, of which `needs` must be given, runs `main` and exits: 0, or 2 after an error's one line."""
    try:
        _parse(needs)
        _set_up()
        sys.exit(main() or 0)
    except AuxjaxError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _parse(needs: tuple[str, ...]) -> None:
    app.define_help_flags()
    for argument in sys.argv[1:]:
        if argument.startswith("--config="):
            _check_file(argument.removeprefix("--config="))
    try:
        rest = flags.FLAGS(sys.argv)[1:]
    except flags.Error as error:
        raise AuxjaxError(_one_line(error)) from None
    except (KeyError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        # What ml_collections raises for an override that does not fit; a config file's own mistakes come this way too.
        raise AuxjaxError(f"config: {_one_line(error)}") from None
    if rest:
        raise AuxjaxError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    for name in needs:
        if not flags.FLAGS[name].present:
            example = "--config=configs/demo.py" if name == "config" else f"--{name}=..."
            raise AuxjaxError(f"--{name} is missing: give {example}")


def _check_file(value: str) -> None:
    path = Path(value.split(":", 1)[0])
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        files = [str(file) for file in sorted(folder.glob("*.py"))]
        close = difflib.get_close_matches(str(path), files, n=3, cutoff=0.4)
        raise AuxjaxError(
            f"no config file {str(path)!r}{nearest(str(path), files) or ';'} there are: {', '.join(close or files) or 'none'}"
        )


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split())


def _set_up() -> None:
    """Logs to standard error and keeps compiled programs between runs; never done at import, where it would surprise."""
    import jax

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("auxjax").setLevel(logging.INFO)
    logging.getLogger("absl").setLevel(logging.ERROR)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/auxjax/jax"))
