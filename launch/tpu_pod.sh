#!/usr/bin/env bash
# A run on a Cloud TPU slice of one or many hosts (TPU VMs, not GKE): created, filled, started, watched, deleted.
#
#   export NAME=gpt2 ZONE=us-east5-b TYPE=v6e-16 BUCKET=my-bucket SPOT=1
#   launch/tpu_pod.sh create
#   launch/tpu_pod.sh copy
#   launch/tpu_pod.sh run gpt2jax train my_settings.yaml --training.run-dir bucket/runs/gpt2 --mesh.fsdp 16
#   launch/tpu_pod.sh logs                    # of WORKER, by default 0, the one that talks; follows until Ctrl-C
#   launch/tpu_pod.sh status                  # of the slice, and of the run on each host
#   launch/tpu_pod.sh stop                    # a checkpoint, and the end; run goes on from there
#   launch/tpu_pod.sh delete
#   launch/tpu_pod.sh --dry-run VERB ...      # prints every gcloud command instead of running it
#
# Needs: gcloud, logged in, with a project and the TPU API; git here. The hosts need a disk that all of them share: with
#   BUCKET, copy mounts gs://BUCKET as the folder bucket/ by gcsfuse; data and run folder belong there. It should be a
#   bucket with a hierarchical namespace, in which a folder is renamed at once: a checkpoint is whole or not there.
# Settings, as environment variables: NAME (gpt2jax), ZONE (us-east5-b), TYPE (v6e-16), VERSION (the runtime for that
#   TYPE), PROJECT (gcloud's own), SPOT=1 for capacity that may be taken away, WORKER for logs (0), EXTRA for flags of
#   gcloud ... queued-resources create, say "--reserved" or "--network=mine".
# copy sends what git has committed, and installs it with the extra tpu. run starts in the background of every host: a
#   connection that is lost does not end it. It adds --distributed.auto to gpt2jax train: outside GKE a host learns of
#   the others from its metadata server alone, and is asked to.
# Stop: stop (SIGTERM; each host ends with a checkpoint), or delete, which takes the hosts away as they stand.
# Taken away (SPOT=1): status says SUSPENDED or FAILED. delete, create, copy and run go on from the last checkpoint.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}
fail() {
  echo "tpu_pod.sh: $1" >&2
  exit 2
}

NAME=${NAME:-gpt2jax}
ZONE=${ZONE:-us-east5-b}
TYPE=${TYPE:-v6e-16}
WORKER=${WORKER:-0}
BUCKET=${BUCKET:-}
GCSFUSE_VERSION=${GCSFUSE_VERSION:-3.12.0}
POLL_SECONDS=${POLL_SECONDS:-20}
FOLDER=gpt2jax # On the hosts, in the home folder.

dry_run=false
if [[ ${1:-} == --dry-run ]]; then
  dry_run=true
  shift
fi
verb=${1:-}
[[ $# -eq 0 ]] || shift

case $verb in
  "" | -h | --help)
    usage
    [[ -n $verb ]] || exit 2
    exit 0
    ;;
  run) [[ $# -gt 0 ]] || fail "run: nothing to run: launch/tpu_pod.sh run gpt2jax train SETTINGS.yaml" ;;
  create | copy | logs | status | stop | delete) [[ $# -eq 0 ]] || fail "$verb: $1: takes no arguments" ;;
  *) fail "$verb: unknown (create, copy, run, logs, status, stop or delete)" ;;
esac

# What ends up in a command on the hosts, or in the name of something in the cloud.
[[ $NAME =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "NAME: '$NAME': should be lower-case letters, digits and dashes"
[[ $WORKER =~ ^[0-9]+$ ]] || fail "WORKER: '$WORKER': should be a number"
[[ $BUCKET =~ ^[a-z0-9._-]*$ ]] || fail "BUCKET: '$BUCKET': should be the name of a bucket, without gs://"
case ${SPOT:-0} in 0 | 1) ;; *) fail "SPOT: '$SPOT': should be 0 or 1" ;; esac

if [[ -z ${VERSION:-} ]]; then
  case $TYPE in
    v6e-*) VERSION=v2-alpha-tpuv6e ;;
    v5p-*) VERSION=v2-alpha-tpuv5 ;;
    v5litepod-*) VERSION=v2-alpha-tpuv5-lite ;;
    v4-* | v3-* | v2-*) VERSION=tpu-ubuntu2204-base ;;
    *) fail "TYPE: '$TYPE': no runtime is known for it: give VERSION (gcloud compute tpus tpu-vm versions list)" ;;
  esac
fi

where=(--zone="$ZONE")
[[ -z ${PROJECT:-} ]] || where+=(--project="$PROJECT")

gcloud_tpus() {
  if "$dry_run"; then
    printf '%q ' gcloud compute tpus "$@"
    echo
  else
    gcloud compute tpus "$@"
  fi
}
on_hosts() { # WORKERS COMMAND
  gcloud_tpus tpu-vm ssh "$NAME" "${where[@]}" --worker="$1" --command="$2"
}
state() {
  gcloud_tpus queued-resources describe "$NAME" "${where[@]}" --format='value(state.state)'
}

create() {
  local flags=()
  [[ ${SPOT:-0} == 0 ]] || flags+=(--spot)
  # shellcheck disable=SC2206  # Several flags in one variable.
  flags+=(${EXTRA:-})
  gcloud_tpus queued-resources create "$NAME" --node-id="$NAME" "${where[@]}" --accelerator-type="$TYPE" \
    --runtime-version="$VERSION" ${flags[@]+"${flags[@]}"}
  if "$dry_run"; then
    state
    return
  fi
  # Capacity may be a while in coming: Ctrl-C ends the waiting, not the request, and status tells of it.
  local now="" before=""
  while true; do
    now=$(state)
    [[ $now == "$before" ]] || echo "tpu_pod.sh: $NAME is $now" >&2
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDED | SUSPENDING) fail "$NAME: $now: delete it, and create it again" ;;
    esac
    before=$now
    sleep "$POLL_SECONDS"
  done
}

copy() {
  local archive=/tmp/gpt2jax.tar.gz install
  if ! "$dry_run"; then
    archive=$(mktemp -d)/gpt2jax.tar.gz
    git -C "$(dirname "$0")/.." archive --format=tar.gz --output="$archive" HEAD
  fi
  gcloud_tpus tpu-vm scp "$archive" "$NAME:gpt2jax.tar.gz" "${where[@]}" --worker=all
  "$dry_run" || rm -r "$(dirname "$archive")"
  # Runs on every host. uv brings a Python of its own: those of the older runtimes are too old.
  install="set -e; mkdir -p $FOLDER; tar -xzf gpt2jax.tar.gz -C $FOLDER; cd $FOLDER"
  install+="; command -v uv >/dev/null || python3 -m pip install --quiet --user uv"
  install+="; export PATH=\$HOME/.local/bin:\$PATH"
  install+="; test -d .venv || uv venv --quiet --python 3.12 .venv"
  install+="; uv pip install --quiet --python .venv/bin/python --constraint constraints/py3.12.txt --editable '.[tpu]'"
  if [[ -n $BUCKET ]]; then
    local deb=gcsfuse_${GCSFUSE_VERSION}_amd64.deb
    install+="; if ! command -v gcsfuse >/dev/null; then curl -fsSLO"
    install+=" https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$GCSFUSE_VERSION/$deb"
    install+="; sudo apt-get install --yes --quiet ./$deb; fi"
    # Hosts see each other's files at once: nothing is remembered of what is in the bucket.
    install+="; mkdir -p bucket; mountpoint -q bucket"
    install+=" || gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 $BUCKET bucket"
  fi
  on_hosts all "$install"
}

start() {
  local command=("$@") line remote
  if [[ ${command[0]} == gpt2jax && ${command[1]:-} == train && " ${command[*]} " != *" --distributed."* ]]; then
    command+=(--distributed.auto)
  fi
  line=$(printf '%q ' "${command[@]}")
  # Two runs would wait for each other's chips.
  remote="cd $FOLDER && if $running; then echo \"\$(hostname): runs already: stop it first\" >&2; exit 1; fi"
  remote+="; rm -f run.status; export PATH=\$PWD/.venv/bin:\$PATH GPT2JAX_STOPPED_STATUS=75"
  # In a session of its own, so that the connection may go. The shell outlives a SIGTERM to both of them, and notes what
  # the run ended with; 75: stopped before its last step.
  remote+="; setsid nohup bash -c 'echo \$\$ >run.pid; trap : TERM; \"\$@\"; echo \$? >run.status' run $line"
  remote+=">>run.log 2>&1 </dev/null & sleep 2; echo \"\$(hostname): started\""
  on_hosts all "$remote"
}

# On a host: whether a run is there.
# shellcheck disable=SC2016
running='test -s run.pid && ! test -f run.status && kill -0 $(cat run.pid) 2>/dev/null'

case $verb in
  create) create ;;
  copy) copy ;;
  run) start "$@" ;;
  logs) on_hosts "$WORKER" "tail -n 100 -F $FOLDER/run.log" ;;
  status)
    state
    report="cd $FOLDER && if $running; then echo \"\$(hostname): running\""
    report+="; elif test -f run.status; then echo \"\$(hostname): ended with status \$(cat run.status)\""
    report+="; else echo \"\$(hostname): no run\"; fi"
    on_hosts all "$report"
    ;;
  # To the group: the shell that waits, and the run.
  stop)
    on_hosts all "cd $FOLDER && if $running; then kill -TERM -- -\$(cat run.pid); else echo \"\$(hostname): no run\"; fi"
    ;;
  delete) gcloud_tpus queued-resources delete "$NAME" "${where[@]}" --force --quiet ;;
esac
