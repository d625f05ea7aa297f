#!/usr/bin/env bash
# A run on Google Kubernetes Engine, as a JobSet: GPU nodes (gke_gpu.yaml) or TPU slices (gke_tpu.yaml).
#
#   export NAME=gpt2 IMAGE=us-docker.pkg.dev/me/images/gpt2jax BUCKET=my-bucket NODES=4
#   launch/gke.sh apply gpu gpt2jax train bucket/my_settings.yaml --training.run-dir bucket/runs/gpt2 --mesh.fsdp 8
#   launch/gke.sh status
#   launch/gke.sh logs                        # of the first process; follows until Ctrl-C
#   launch/gke.sh delete                      # stops it: each pod writes its part of a checkpoint first
#   launch/gke.sh --dry-run apply gpu ...     # prints the manifest; | kubectl apply --dry-run=server -f - asks a cluster
#   launch/gke.sh --dry-run logs              # prints the kubectl command
#
# Needs: kubectl with a GKE cluster as its context, the JobSet controller on it (0.8 or newer) and the Cloud Storage FUSE
#   CSI driver; an image (launch/Dockerfile says how); a bucket, best with a hierarchical namespace, that the service
#   account may write. It is the folder bucket/ of the command: settings, data and the run's folder belong there.
# Settings, as environment variables: IMAGE and BUCKET (both must be given), NAME (gpt2jax), NAMESPACE (default),
#   SERVICE_ACCOUNT (default), RESTARTS after failures (5), SPOT=1 for nodes that may be taken away.
#   gpu: NODES (1), GPUS of a node (8), ACCELERATOR (nvidia-h100-80gb).
#   tpu: ACCELERATOR (tpu-v6e-slice), TOPOLOGY (4x4), CHIPS of a host (4), SLICES (1).
# Stop: delete. Apply the same again, and it goes on from its last checkpoint.
# Again: a pod that is evicted or loses its node takes the run to a checkpoint where there is time for one, and the
#   JobSet starts all pods again; so after a failure, RESTARTS times.
set -euo pipefail

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}
fail() {
  echo "gke.sh: $1" >&2
  exit 2
}
numbers() {
  local name
  for name in "$@"; do
    [[ ${!name} =~ ^[1-9][0-9]*$ ]] || fail "$name: '${!name}': should be a number above 0"
  done
}

NAME=${NAME:-gpt2jax}
NAMESPACE=${NAMESPACE:-default}
SERVICE_ACCOUNT=${SERVICE_ACCOUNT:-default}
RESTARTS=${RESTARTS:-5}
IMAGE=${IMAGE:-}
BUCKET=${BUCKET:-}

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
  apply | status | logs | delete) ;;
  *) fail "$verb: unknown (apply, status, logs or delete)" ;;
esac
# Pods are called NAME-train-0-0, which is a host's name and may have 63 letters.
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  fail "NAME: '$NAME': should be at most 40 lower-case letters, digits and dashes"
[[ $NAMESPACE =~ ^[a-z0-9-]+$ ]] || fail "NAMESPACE: '$NAMESPACE': should be lower-case letters, digits and dashes"

kubernetes() {
  if "$dry_run"; then
    printf '%q ' kubectl --namespace="$NAMESPACE" "$@"
    echo
  else
    kubectl --namespace="$NAMESPACE" "$@"
  fi
}

# Arguments as a JSON list, which is YAML too. $(...) would be a variable to Kubernetes, and $$ keeps it from that.
as_json() {
  local argument list=""
  for argument in "$@"; do
    [[ $argument != *[[:cntrl:]]* ]] || fail "'$argument': no line breaks or tabs in an argument"
    argument=${argument//\\/\\\\}
    argument=${argument//\"/\\\"}
    argument=${argument//"\$("/"\$\$("}
    list+=", \"$argument\""
  done
  echo "[${list#, }]"
}

# Reads the template, fills in ${...} of these names, and leaves the node selector for spot nodes out without SPOT=1.
manifest() { # KIND NAMES...
  local text name
  text=$(cat "$(dirname "$0")/gke_$1.yaml")
  shift
  [[ ${SPOT:-0} == 1 ]] || text=$(grep -v 'gke-spot:' <<<"$text")
  text=$(grep -v '^#' <<<"$text")
  # Otherwise & in a value would mean what was replaced, since bash 5.2.
  shopt -u patsub_replacement 2>/dev/null || true
  for name in "$@"; do
    text=${text//"\${$name}"/${!name}}
  done
  echo "$text"
}

apply() {
  local kind=${1:-} names=(NAME NAMESPACE SERVICE_ACCOUNT RESTARTS IMAGE BUCKET ACCELERATOR) side chips=1
  [[ $kind == gpu || $kind == tpu ]] || fail "apply: '$kind': should be gpu or tpu, then the command to run"
  shift
  [[ $# -gt 0 ]] || fail "apply $kind: nothing to run: launch/gke.sh apply $kind gpt2jax train bucket/SETTINGS.yaml"
  [[ -n $IMAGE ]] || fail "IMAGE: not set: the image to run (launch/Dockerfile says how to build one)"
  [[ $IMAGE =~ ^[a-zA-Z0-9._/:@-]+$ ]] || fail "IMAGE: '$IMAGE': should be the name of an image"
  [[ -n $BUCKET ]] || fail "BUCKET: not set: the bucket that is the folder bucket/"
  [[ $BUCKET =~ ^[a-z0-9._-]+$ ]] || fail "BUCKET: '$BUCKET': should be the name of a bucket, without gs://"
  [[ $SERVICE_ACCOUNT =~ ^[a-z0-9.-]+$ ]] || fail "SERVICE_ACCOUNT: '$SERVICE_ACCOUNT': should be a Kubernetes name"
  case ${SPOT:-0} in 0 | 1) ;; *) fail "SPOT: '$SPOT': should be 0 or 1" ;; esac
  numbers RESTARTS
  if [[ $kind == gpu ]]; then
    ACCELERATOR=${ACCELERATOR:-nvidia-h100-80gb} NODES=${NODES:-1} GPUS=${GPUS:-8}
    numbers NODES GPUS
    names+=(NODES GPUS)
  else
    ACCELERATOR=${ACCELERATOR:-tpu-v6e-slice} TOPOLOGY=${TOPOLOGY:-4x4} CHIPS=${CHIPS:-4} SLICES=${SLICES:-1}
    numbers CHIPS SLICES
    [[ $TOPOLOGY =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] || fail "TOPOLOGY: '$TOPOLOGY': should be as 4x4 or 2x2x4"
    for side in ${TOPOLOGY//x/ }; do chips=$((chips * side)); done
    [[ $((chips % CHIPS)) -eq 0 ]] || fail "CHIPS: $CHIPS of a host do not divide the $chips of a slice of $TOPOLOGY"
    # shellcheck disable=SC2034  # The manifest has it.
    HOSTS=$((chips / CHIPS))
    names+=(TOPOLOGY CHIPS SLICES HOSTS)
  fi
  [[ $ACCELERATOR =~ ^[a-z0-9-]+$ ]] || fail "ACCELERATOR: '$ACCELERATOR': should be the name of one, as GKE has it"
  # shellcheck disable=SC2034  # The manifest has it.
  COMMAND=$(as_json "$@")
  if "$dry_run"; then
    manifest "$kind" "${names[@]}" COMMAND
  else
    manifest "$kind" "${names[@]}" COMMAND | kubernetes apply --filename=-
  fi
}

jobset=jobset.sigs.k8s.io
case $verb in
  apply) apply "$@" ;;
  status)
    kubernetes get jobset "$NAME"
    kubernetes get pods --selector="$jobset/jobset-name=$NAME" --output=wide
    ;;
  logs)
    kubernetes logs --follow --tail=100 --container=train \
      --selector="$jobset/jobset-name=$NAME,$jobset/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ;;
  # In the foreground: done when the pods are gone, with their checkpoint.
  delete) kubernetes delete jobset "$NAME" --cascade=foreground ;;
esac
