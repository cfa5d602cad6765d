"""A gcloud of one slice: notes what it is asked, plays the states of a file, and has `ssh` run here.

The folder $FAKE_GCLOUD has plays.json, a list of lists: the n-th request that is created goes through the n-th list, a
state each time it is described, the last one staying. "lost" in place of a state is ACTIVE with the VM preempted.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

folder = Path(os.environ["FAKE_GCLOUD"])
request, home = folder / "request.json", folder / "vm"
arguments = sys.argv[1:]
with (folder / "asked.jsonl").open("a") as file:
    file.write(json.dumps(arguments) + "\n")
kind, verb = arguments[2:4]
flags = {name: value for name, _, value in (a.partition("=") for a in arguments if a.startswith("--"))}


def not_found() -> None:
    sys.exit(f"ERROR: (gcloud.compute.tpus.{kind}.{verb}) NOT_FOUND: Resource 'demo' was not found")


if (kind, verb) == ("queued-resources", "create"):
    if request.exists():
        sys.exit("ERROR: ALREADY_EXISTS")
    made = len(list(folder.glob("made_*")))
    (folder / f"made_{made}").touch()
    request.write_text(json.dumps(json.loads((folder / "plays.json").read_text())[made]))
    home.mkdir()
elif not request.exists():
    not_found()
elif (kind, verb) == ("queued-resources", "describe"):
    now, *later = json.loads(request.read_text())
    request.write_text(json.dumps(later or [now]))
    print(json.dumps({"name": "demo", "state": {"state": "ACTIVE" if now == "lost" else now}}))
elif (kind, verb) == ("queued-resources", "delete"):
    request.unlink()
    shutil.rmtree(home)
elif (kind, verb) == ("tpu-vm", "describe"):
    lost = json.loads(request.read_text())[0] == "lost"
    endpoints = [{"ipAddress": f"10.0.0.{worker}"} for worker in range(int(os.environ["FAKE_HOSTS"]))]
    print(json.dumps({"state": "PREEMPTED" if lost else "READY", "networkEndpoints": endpoints}))
elif (kind, verb) == ("tpu-vm", "scp"):
    shutil.copy(arguments[4], home / arguments[5].partition(":")[2])
elif (kind, verb) == ("tpu-vm", "ssh"):
    assert 0 <= int(flags["--worker"]) < int(os.environ["FAKE_HOSTS"])
    environment = {**os.environ, "HOME": str(home), "JAX_PROCESS_ID": flags["--worker"]}
    done = subprocess.run(["bash", "-c", flags["--command"]], cwd=home, env=environment)
    sys.exit(done.returncode)
else:
    sys.exit(f"ERROR: unrecognized arguments: {arguments}")
