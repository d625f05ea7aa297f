#!/usr/bin/env bash
# Several processes of one run on this machine, as on a cluster: to try what happens there, or one process for each GPU.
#
#   launch/local.sh 2 gpt2jax train configs/quickstart.yaml --mesh.cpu-devices 4
#   launch/local.sh --dry-run 2 gpt2jax train configs/quickstart.yaml
#
# Needs gpt2jax on the PATH. Ctrl-C (or SIGTERM to this script) stops all processes with a checkpoint; the same command
# goes on from there. When one of them fails the others end within a minute, and the status is that of the first that
# failed. PORT picks the port that they meet at; by default a free one.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}

dry_run=false
case "${1:-}" in
  -h | --help)
    usage
    exit 0
    ;;
  --dry-run)
    dry_run=true
    shift
    ;;
esac
if [[ $# -lt 2 || ! "$1" =~ ^[1-9][0-9]*$ ]]; then
  usage >&2
  exit 2
fi
count=$1
shift
port=${PORT:-$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export JAX_COORDINATOR_ADDRESS="127.0.0.1:$port" JAX_NUM_PROCESSES="$count"

if "$dry_run"; then
  for ((process = 0; process < count; process++)); do
    echo "JAX_COORDINATOR_ADDRESS=$JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES=$count JAX_PROCESS_ID=$process $*"
  done
  exit 0
fi

pids=()
for ((process = 0; process < count; process++)); do
  JAX_PROCESS_ID=$process "$@" &
  pids+=($!)
done
signals=0
trap 'signals=$((signals + 1)); kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM

status=0
for pid in "${pids[@]}"; do
  # A signal to this script ends a wait early, with a status of its own: wait again.
  while true; do
    before=$signals ended=0
    wait "$pid" || ended=$?
    [[ $signals -ne $before ]] || break
  done
  if [[ $status -eq 0 ]]; then
    status=$ended
  fi
done
exit "$status"
