#!/usr/bin/env bash
# All that is measured on one GPU, in under nine minutes and without a network: correctness first, then the training
# step and sampling, ours and the peer's in turn. Lines of JSON go to OUT/gpu.jsonl.
#
#   OUT=out PYTHON=python3 WHEELS=wheels bash benchmarks/gpu_suite.sh
#   TOY=1 OUT=out PYTHON=.venv/bin/python bash benchmarks/gpu_suite.sh      # its own test, on a CPU
#
# PYTHON has jax with CUDA; what it lacks of flax, optax and the rest comes from the folder WHEELS, into an environment
# of its own that sees PYTHON's packages. PEER is an interpreter with torch and transformers (default: PYTHON's); with
# PEER= there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-out}
PYTHON=${PYTHON:-python3}
PEER=${PEER-$PYTHON}
mkdir -p "$OUT"
lines=$OUT/gpu.jsonl
: >"$lines"

if [[ -n ${WHEELS:-} ]]; then
    "$PYTHON" -m venv --system-site-packages "$OUT/venv"
    "$OUT/venv/bin/pip" install --quiet --no-index --find-links "$WHEELS" .
    PYTHON=$OUT/venv/bin/python
fi

failed=0
part() { # SECONDS COMMAND...: what fails or takes too long is told, and the rest goes on.
    local limit=$1 status=0
    shift
    timeout "$limit" "$@" | tee -a "$lines" || status=$?
    if [[ $status != 0 ]]; then
        echo "failed ($status): $*" >&2
        failed=1
    fi
}
ours() { part "$1" "$PYTHON" -m benchmarks.gpu "${@:2}"; }
theirs() { [[ -z $PEER ]] || part "$1" "$PEER" benchmarks/workers/gpu_peer.py "${@:2}"; }

if [[ -n ${TOY:-} ]]; then
    ours 120 check --size toy
    ours 120 train --size toy --micro 2 --steps 1 --matrix 64
    theirs 120 train --size toy --micro 2 --steps 1
    ours 120 sample --size toy --batch 1 2 --bytes 4096
    theirs 120 sample --size toy --batch 1 2
    exit "$failed"
fi

ours 60 check --size gpt2
ours 75 train --size gpt2 --micro 16 32
theirs 60 train --size gpt2 --micro 16 32
ours 90 train --size gpt2-medium --micro 8 16
theirs 75 train --size gpt2-medium --micro 8 16
ours 75 sample --size gpt2
theirs 75 sample --size gpt2
exit "$failed"
