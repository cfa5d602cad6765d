#!/usr/bin/env bash
# The worker's side: bash worker.sh setup|check|start|status|stop|log ...; tpu_vm.py calls it on each worker.
# ROOT/source is where this file lies, ROOT/venv its environment, ROOT/jobs/ID a job: command, log, pid, exit_code.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
script=$root/source/experiments/launch/worker.sh
job=$root/jobs/latest
python=3.13 # the newest that a constraints file holds for; what the machine itself has does not matter
export PATH="$root/venv/bin:$HOME/.local/bin:$PATH"

setup() { # setup [EXTRA]
  command -v uv >/dev/null || curl -LsSf --retry 5 https://astral.sh/uv/install.sh | sh
  [ -x "$root/venv/bin/python" ] || uv venv --python "$python" "$root/venv"
  uv pip install --python "$root/venv/bin/python" -c "$root/source/constraints-$python.txt" \
    -e "$root/source${1:+[$1]}"
}

fail() {
  echo "$1" >&2
  exit "${2:-1}"
}

check() { # check [DEVICES HOSTS]: all hosts at once, since a slice's hosts wait for each other
  timeout 300 python - "$@" <<'PYTHON' || fail "no devices: does another process hold them? stop frees a TPU's"
import sys

import jax

devices, hosts = map(int, sys.argv[1:] or (0, 1))
if hosts > 1:
    jax.distributed.initialize()
found = jax.local_device_count()
print(f"jax {jax.__version__}: {found} local devices of {jax.device_count()}, {jax.local_devices()[0].device_kind}")
sys.exit(f"expected {devices} local devices, found {found}" if devices and found != devices else 0)
PYTHON
}

alive() { # the newest job's supervisor lives; its command line tells it from a later process of the same number
  [ -s "$job/pid" ] &&
    tr '\0' ' ' 2>/dev/null <"/proc/$(cat "$job/pid")/cmdline" | grep -qF "supervise $(readlink "$job") "
}

start() { # start ID [NAME=VALUE...] -- COMMAND...
  ! alive 2>/dev/null || fail "job $(readlink "$job") runs here: stop it first" 3
  mkdir -p "$root/jobs"
  mkdir "$root/jobs/$1"
  ln -sfn "$1" "$job"
  cp "$root/sync/"* "$job/"
  printf '%q ' "${@:2}" >"$job/command"
  cd "$root/source"
  setsid nohup bash "$script" supervise "$@" >"$job/log" 2>&1 </dev/null &
  for _ in {1..100}; do [ -s "$job/pid" ] && break || sleep 0.05; done
  echo "started job $1, process $(cat "$job/pid")"
}

supervise() { # leads the job's process group, and outlives a SIGTERM to it: somebody has to write the exit code
  local folder=$root/jobs/$1 variables=() code=0
  trap : TERM
  echo $$ >"$folder/pid.new" && mv "$folder/pid.new" "$folder/pid"
  for ((shift = 2; shift <= $#; shift++)); do
    [ "${!shift}" != -- ] || break
    variables+=("${!shift}")
  done
  env PYTHONUNBUFFERED=1 "${variables[@]}" "${@:shift+1}" || code=$?
  echo "$code" >"$folder/exit_code.new" && mv "$folder/exit_code.new" "$folder/exit_code"
  trap '' TERM
  kill -TERM 0 # what the command left running in its group
}

status() {
  if [ ! -e "$job" ]; then echo "job - none"; return; fi
  local running=no
  alive 2>/dev/null && running=yes || true
  if [ -f "$job/exit_code" ]; then
    echo "job $(readlink "$job") exited $(cat "$job/exit_code")"
  elif [ $running = yes ]; then
    echo "job $(readlink "$job") running"
  else
    echo "job $(readlink "$job") lost"
  fi
}

stop() { # stop GRACE_SECONDS [LOCK_FILE DEVICE...]
  if alive 2>/dev/null; then
    local pid deadline=$((SECONDS + $1))
    pid=$(cat "$job/pid")
    kill -TERM -- "-$pid" || true
    while alive 2>/dev/null && [ $SECONDS -lt $deadline ]; do sleep 0.1; done
    if alive 2>/dev/null; then
      kill -KILL -- "-$pid" || true
      echo 137 >"$job/exit_code"
    fi
    echo "stopped job $(readlink "$job"), exit code $(cat "$job/exit_code")"
  else
    echo "no job runs here"
  fi
  [ $# -lt 3 ] || free "${@:2}"
}

free() { # free LOCK_FILE DEVICE...: kills what holds a chip, or the next program finds it busy
  for device in "${@:2}"; do
    { find /proc/[0-9]*/fd -lname "$device" 2>/dev/null || true; } | cut -d/ -f3
  done | sort -u | while read -r pid; do
    echo "killing process $pid, which holds a chip"
    kill -KILL "$pid" || true
  done
  rm -f "$1"
}

log() { # log [follow]
  [ -e "$job" ] || fail "no job was started here"
  if [ "${1:-}" = follow ]; then
    exec tail -n 100 -f --pid="$(cat "$job/pid")" "$job/log"
  fi
  cat "$job/log"
}

"$@"
exit
