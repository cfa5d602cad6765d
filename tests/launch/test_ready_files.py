"""The files for other engines load, name scripts and flags that exist, and agree with the launcher's table."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.launch import slices
from tests.launch.launcher import ROOT

yaml = importlib.import_module("yaml")  # comes with ml_collections, and has no types
FOLDER = ROOT / "experiments" / "launch"
FILES = sorted([*FOLDER.glob("*.yaml"), FOLDER / "slurm.sbatch"])
# From GKE's table of TPU types: the machine label of a generation.
GKE = {"tpu-v5-lite-podslice": "v5litepod"}


def loaded(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_file_opens_with_its_command_and_names_what_exists(path: Path) -> None:
    text = path.read_text()
    comments = [line for line in text.splitlines() if line.startswith("# ")]
    assert f"experiments/launch/{path.name}" in comments[0]
    for script in re.findall(r"(?:experiments|configs)/[\w/]+\.(?:py|sh)", text):
        assert (ROOT / script).exists(), script
    for constraints in re.findall(r"constraints-[\d.]+\d\.txt", text):
        assert (ROOT / constraints).exists() and f"3.{constraints[-6:-4]}" in constraints
    for python in re.findall(r"--python (3\.\d+)", text):
        assert f"constraints-{python}.txt" in text, "the environment is the one that the constraints hold for"


@pytest.mark.parametrize("name", ["worker.sh", "slurm.sbatch"])
def test_a_shell_script_is_sound(name: str) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / name)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(FOLDER / name)], check=True)


def test_a_slurm_job_trains_in_the_folder_that_it_was_submitted_from(tmp_path: Path) -> None:
    """With an srun that prints what it is to run."""
    (tmp_path / "srun").write_text('#!/bin/bash\nprintf "%s|" "$PWD" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    command = ["bash", str(FOLDER / "slurm.sbatch"), "--config=c.py", "--workdir=/a b"]
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout
    words = "--kill-on-bad-exit=1|.venv/bin/python|experiments/train.py|--config=c.py|--workdir=/a b|"
    assert printed == f"{tmp_path}|{words}"


def test_the_skypilot_task_has_the_launchers_runtime() -> None:
    task = loaded("skypilot.yaml")
    resources = task["resources"]
    size = slices.sizes(resources["accelerators"].removeprefix("tpu-"))
    assert resources["accelerator_args"]["runtime_version"] == size.runtime and resources["use_spot"] is True
    for name in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[name], text=True, check=True)
    assert {*re.findall(r"\$(\w+)", task["run"]), "AUXJAX_SUPERVISED"} == set(task["envs"])


def test_the_ray_cluster_has_the_launchers_runtime_and_chips() -> None:
    cluster = loaded("ray_cluster.yaml")
    node = cluster["available_node_types"]["tpu"]
    size = slices.sizes(node["node_config"]["acceleratorType"])
    assert (size.hosts, size.chips_per_host) == (1, node["resources"]["TPU"])
    assert node["node_config"]["runtimeVersion"] == size.runtime
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for name in ("setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for line in cluster[name]:
            assert shlex.split(line)
            subprocess.run(["bash", "-n"], input=line, text=True, check=True)


def test_the_gke_job_has_a_pod_for_each_host_of_its_slice() -> None:
    job = loaded("gke_jobset.yaml")["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    labels = pod["nodeSelector"]
    rows, columns = map(int, labels["cloud.google.com/gke-tpu-topology"].split("x"))
    size = slices.sizes(f"{GKE[labels['cloud.google.com/gke-tpu-accelerator']]}-{rows * columns}")
    assert job["parallelism"] == job["completions"] == size.hosts and job["backoffLimit"] == 0
    assert pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == size.chips_per_host
    subprocess.run(["bash", "-n"], input=pod["containers"][0]["args"][0], text=True, check=True)
