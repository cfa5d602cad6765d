"""Runs a command on every host of a TPU slice, on a list of SSH hosts, or in local processes.

python experiments/launch/tpu_vm.py plan --type=v5litepod-16 --batch_size=1024
python experiments/launch/tpu_vm.py up --name=demo --type=v5litepod-16 --zone=us-west4-a --spot --autodelete \\
    -- python experiments/train.py --config=configs/demo.py --workdir=gs://BUCKET/demo
python experiments/launch/tpu_vm.py run --name=demo --hosts=gpu0,gpu1 -- python experiments/train.py ...
python experiments/launch/tpu_vm.py run --name=demo --processes=2 -- python experiments/train.py ...

The standard library is all it needs. Each command is printed, then run; with --print it is only printed; a poll is
printed once. `up` is create, sync, setup and run, again from the start after a preemption: the command goes on from its
own checkpoints. A job is detached: it outlives this program, and `run` with no command waits for it again. Every worker
keeps auxjax_launch/NAME/worker_N/jobs/latest: the job's log, pid, exit_code, command, commit and uncommitted diff.

Several SSH hosts or local processes get JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID; on a TPU slice
JAX finds these by itself. Other variables belong to the command: -- env NAME=VALUE python ...
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> int:
    """Returns the exit code: the job's own, 2 after a mistake's one line, 130 after Ctrl-C."""
    from experiments.launch import options, verbs
    from experiments.launch.shell import LaunchError

    try:
        launch = options.parse(sys.argv[1:], __doc__ or "")
        return verbs.VERBS[launch.verb](launch)
    except LaunchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: what was started goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # a plain checkout is enough, nothing is installed
    sys.exit(main())
