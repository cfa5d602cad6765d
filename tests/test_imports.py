"""The house: imports run one way, importing has no side effects, files are short enough to read."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "auxjax"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module (a subpackage counts as one) imports from its own row and the rows above it, never from below.
# Give a new module a row, as high as what it imports allows.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("_version", "errors", "bucket", "machine"),
    (
        *("config", "data", "flops", "losses", "manifest", "metrics", "ops", "peers", "processes", "rendezvous"),
        *("statistics", "storage", "untrusted", "weighting"),
    ),
    ("heads", "layers", "models"),
    ("attach", "optimizer", "parallel", "proof", "pullbacks", "recovery", "staged", "taps", "trunk"),
    ("gradients", "head_gradients", "held_out", "state", "step", "tap_gradients"),
    (
        *("batches", "build", "catalogue", "check", "checkpoint", "diagnostics"),
        *("exit_table", "exits", "pretrained", "saving", "stored", "summary", "torch_names"),
    ),
    ("described", "export", "population", "preemption", "preflight", "record", "rollback", "run", "train"),
    ("ablate", "ablation_file", "arms", "cli", "compare", "diagnose", "doctor", "report", "sweep", "workers"),
)
LAYER = {module: number for number, layer in enumerate(LAYERS) for module in layer}

# Large, optional, or slow to import: each is imported inside the function that needs it.
HEAVY = {
    *("array_record", "grain", "sklearn", "tensorflow", "tensorflow_datasets", "torch", "torchvision"),
    *("matplotlib", "ray", "tensorboardX", "wandb"),
    *("flatbuffers", "jax2onnx", "onnx", "onnxruntime", "safetensors"),
}


def module_of(file: Path) -> str:
    """The top-level module that a file belongs to; `auxjax` for the package's own `__init__`."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return "auxjax" if parts == ("__init__",) else parts[0]


def imported(node: ast.AST, file: Path) -> list[str]:
    """The dotted names in an import statement: `from a import b` gives `a.b`, relative ones made absolute."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    package = file.relative_to(ROOT).parts[:-1]
    base = [*package[: len(package) - node.level + 1]] if node.level else []
    base += [node.module] if node.module else []
    return [".".join([*base, alias.name]) for alias in node.names]


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """All imports of a file, those inside functions too: (line, dotted name)."""
    for node in ast.walk(ast.parse(file.read_text())):
        for name in imported(node, file):
            yield getattr(node, "lineno", 0), name


def imports_on_load(node: ast.AST, file: Path) -> Iterator[tuple[int, str]]:
    """The imports that run when the file is imported: neither inside a function nor for the type checker."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        for name in imported(child, file):
            yield getattr(child, "lineno", 0), name
        yield from imports_on_load(child, file)


def edges() -> Iterator[tuple[str, str, str]]:
    """Each import of one top-level module of the package by another: (importer, imported, where)."""
    for file in FILES:
        for line, name in imports(file):
            package, *rest = name.split(".")
            target = rest[0] if rest else package
            if package == "auxjax" and target != module_of(file):
                yield module_of(file), target, f"{file.relative_to(ROOT)}:{line}"


def test_every_module_has_a_layer() -> None:
    unknown = sorted({module_of(file) for file in FILES} - set(LAYER) - {"auxjax"})
    assert not unknown, f"add {unknown} to a layer of LAYERS in tests/test_imports.py"


def test_imports_run_one_way() -> None:
    wrong = []
    for importer, name, where in edges():
        if name not in LAYER:
            wrong.append(f"{where}: import from the submodule that defines it, not `{name}` from the package")
        elif importer != "auxjax" and LAYER[name] > LAYER.get(importer, -1):
            wrong.append(f"{where}: {importer} imports {name}, which is built on top of it")
    assert not wrong, "\n".join(wrong)


def test_no_circle_within_a_layer() -> None:
    graph: dict[str, set[str]] = {}
    for importer, name, _ in edges():
        graph.setdefault(importer, set()).add(name)
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_the_library_knows_nothing_of_what_uses_it() -> None:
    users = {"configs", "experiments", "tests"}
    found = {f"{file.name}:{line}": name for file in FILES for line, name in imports(file)}
    wrong = {where: name for where, name in found.items() if name.split(".")[0] in users}
    assert not wrong


def test_heavy_packages_are_imported_inside_functions() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file in FILES
        for line, name in imports_on_load(ast.parse(file.read_text()), file)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong, "\n".join(wrong)


IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
import chex, flax.linen, jax, ml_collections, optax, orbax.checkpoint
before, loaded = dict(jax.config.values), set(sys.modules)
import auxjax
{submodules}
heavy = sorted({heavy!r} & {{name.split(".")[0] for name in set(sys.modules) - loaded}})
assert not heavy, f"loaded {{heavy}}"
changed = [name for name, value in jax.config.values.items() if name in before and before[name] != value]
assert not changed, f"changed jax.config: {{changed}}"
"""
SUBMODULES = """
for module in pkgutil.walk_packages(auxjax.__path__, "auxjax."):
    importlib.import_module(module.name)
"""


@pytest.mark.parametrize("submodules", ["", SUBMODULES], ids=["auxjax", "every submodule"])
def test_importing_loads_nothing_heavy_touches_no_device_and_sets_nothing(submodules: str) -> None:
    """JAX is told to use a platform that does not exist, so that the first touch of a device would raise."""
    program = IMPORT_EVERYTHING.format(heavy=HEAVY, submodules=submodules)
    environment = {**os.environ, "JAX_PLATFORMS": "no_such_platform", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", program]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    docstring = (body[0].lineno if body else (node.end_lineno or 0) + 1) - node.body[0].lineno
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


# The file, or "file:function", that is longer than 250 lines, or 40, and why.
LONGER: dict[str, str] = {"auxjax/config.py:base": "every key and its default on one page"}


def test_files_and_functions_are_short() -> None:
    long = set()
    for file in FILES:
        text, path = file.read_text(), str(file.relative_to(ROOT))
        long |= {path} if text.count("\n") > 250 else set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length(node) > 40:
                long.add(f"{path}:{node.name}")
    assert long == set(LONGER), "shorten what is new here, or give the reason in LONGER; drop what is short"
