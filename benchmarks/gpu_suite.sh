#!/usr/bin/env bash
# All that is measured on one GPU, in under nine minutes and without a network: correctness first, then the training
# step and sampling, ours and the peer's in turn. Lines of JSON go to OUT/gpu.jsonl.
#
#   OUT=out PYTHON=python3 WHEELS=wheels bash benchmarks/gpu_suite.sh
#   TOY=1 OUT=out PYTHON=.venv/bin/python bash benchmarks/gpu_suite.sh      # its own test, on a CPU
#
# PYTHON has jax with CUDA; what it lacks of flax, optax and the rest is in the folder WHEELS, as wheels, all of which are
# unpacked into OUT/site. PEER is an interpreter with torch and transformers (default: PYTHON's); with
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
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$OUT/site" "$WHEELS"/*.whl
    export PYTHONPATH=$OUT/site${PYTHONPATH:+:$PYTHONPATH}
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
    part 120 "$PYTHON" -m benchmarks.gpu_trial --size toy --kernels 4,4,64
    theirs 120 sample --size toy --batch 1 2
    exit "$failed"
fi

ours 55 check --size gpt2
ours 85 train --size gpt2-medium --micro 16 32
theirs 85 train --size gpt2-medium --micro 16 32
ours 60 sample --size gpt2
theirs 60 sample --size gpt2
ours 40 sample --size gpt2-medium gpt2-xl --batch 1
part 45 "$PYTHON" -m benchmarks.gpu_trial --size gpt2
ours 55 train --size gpt2 --micro 32
theirs 55 train --size gpt2 --micro 32
exit "$failed"
