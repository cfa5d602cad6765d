"""ablation.json: an ablation's arms and their runs, the axes, the baseline, and the config that is changed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from auxjax import config as configs
from auxjax.arms import Arm, is_bare
from auxjax.errors import AuxjaxError
from auxjax.storage import write_json
from auxjax.untrusted import read_json

METRIC = "accuracy/main"


def describe(folder: Path, config: ConfigDict, arms: Sequence[Arm], command: str, tuned: str = "") -> None:
    """Writes ablation.json, whole or not at all: the arms, and those that an earlier grid trained here.

    The baseline is the arm in which no head trains, where there is one such arm; `tuned` is the key whose best value is
    each arm's own. Raises AuxjaxError where the folder has an ablation of another config.
    """
    path, base = folder / "ablation.json", base_of(config)
    before: dict[str, Any] = read(folder) if path.exists() else {"arms": [], "base": base}
    changed = configs.difference(before["base"], base)
    if changed:
        raise AuxjaxError(f"{folder} has an ablation of another config: {changed}; give another --workdir")
    entries: dict[str, dict[str, Any]] = {arm.group: _entry(arm) for arm in arms}
    _keep(entries, before["arms"], folder / "runs")
    bare = {arm.group for arm in arms if is_bare(arm.configs[0])}
    bare |= {entry["group"] for entry in before["arms"] if entry["bare"]}
    for group, entry in entries.items():
        entry["bare"] = group in bare
    baseline = [entry["overrides"] for entry in entries.values() if entry["bare"]]
    described = {
        "name": folder.name, "command": command, "axes": _axes(entries), "metric": METRIC, "base": base,
        "baseline": baseline[0] if len(baseline) == 1 else None, "tuned": tuned or before.get("tuned", ""),
        "arms": list(entries.values()),
    }  # fmt: skip
    write_json(path, described)


def read(folder: str | Path) -> dict[str, Any]:
    """Returns what `describe` wrote; raises AuxjaxError where there is none or it was damaged."""
    path = Path(folder) / "ablation.json"
    if not path.exists():
        raise AuxjaxError(f"no ablation in {folder}: there is no ablation.json")
    return read_json(path, "delete it and give the ablation's command again")


def base_of(config: ConfigDict) -> dict[str, Any]:
    """Returns what the changes are made to by dotted key, without the seed and what changes no result."""
    flat = configs.flatten(config)
    kept = {k: v for k, v in flat.items() if k not in ("seed", "data.data_dir") and not k.startswith("writers.")}
    return dict(json.loads(json.dumps({k: configs.plain(v) for k, v in kept.items()})))


def _keep(entries: dict[str, dict[str, Any]], before: Sequence[dict[str, Any]], runs: Path) -> None:
    """Adds what an earlier grid began: its arms, and its seeds to the arms that are here again."""
    for old in before:
        begun = [name for name in old["runs"] if (runs / name / "config.json").exists()]
        if old["group"] in entries:
            now = entries[old["group"]]
            now["runs"] += [name for name in begun if name not in now["runs"]]
            now["equal"] += [changes for changes in old["equal"] if changes not in now["equal"]]
        elif begun:
            entries[old["group"]] = old | {"runs": begun}


def _axes(entries: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the values of each changed key, in the order in which they came."""
    axes: dict[str, list[Any]] = {}
    for entry in entries.values():
        for changes in (entry["overrides"], *entry["equal"]):
            for key, value in changes.items():
                if value not in axes.setdefault(key, []):
                    axes[key].append(value)
    return axes


def _entry(arm: Arm) -> dict[str, Any]:
    return {
        "name": arm.name, "group": arm.group, "overrides": configs.plain(arm.overrides), "runs": list(arm.runs),
        "equal": [configs.plain(changes) for changes in arm.equal],
    }  # fmt: skip
