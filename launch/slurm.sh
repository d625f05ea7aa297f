#!/usr/bin/env bash
#SBATCH --job-name=gpt2jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@180
# A run on Slurm: one task for each GPU, on any number of nodes; goes on by itself after the time limit or preemption.
#
#   sbatch --nodes=4 launch/slurm.sh gpt2jax train my_settings.yaml --mesh.fsdp 8
#   launch/slurm.sh --dry-run gpt2jax train my_settings.yaml       # prints what the job would start, and starts nothing
#
# Needs: gpt2jax in a virtual environment (VENV, by default .venv where it exists) or in a container (CONTAINER), and the
#   run's folder and data on a file system that all nodes share. Options of sbatch given before the script win over the
#   #SBATCH lines above it; partition and account are for them.
# Tasks: one for each GPU, --ntasks-per-node as many as --gpus-per-node; each sees its node's GPUs and takes its own. One
#   for each node (--ntasks-per-node=1) works too: it takes all of them.
# Container: CONTAINER=/shared/gpt2jax.sqsh (or an image's name) runs the tasks in it by pyxis and enroot (srun
#   --container-image), CONTAINER=/shared/gpt2jax.sif by apptainer. MOUNTS=/data,/scratch adds folders to the working
#   one, HOST:CONTAINER where the names differ.
# Watch: squeue --me; tail -F gpt2jax-JOBID.out
# Stop: scancel --batch --signal=INT JOBID writes a checkpoint and ends the job; scancel JOBID ends it at once, with a
#   checkpoint if that takes less than the cluster's KillWait (30 s, mostly). The same sbatch line goes on from there.
# Again: 180 s before the time limit, and when Slurm preempts the job, the tasks get SIGTERM, write a checkpoint and end
#   with a status that says that they are not done; then the job puts itself back into the queue. A finished run, one
#   that failed and one that you stopped stay ended. Slurm itself queues it again when a node fails.
set -euo pipefail

usage() {
  sed -n '/^# A run on Slurm/,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"
}
fail() {
  echo "slurm.sh: $1" >&2
  exit 2
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
[[ $# -gt 0 ]] || fail "nothing to run: sbatch launch/slurm.sh gpt2jax train SETTINGS.yaml (--help says more)"
[[ $1 != -* ]] || fail "$1: unknown option; those of sbatch stand before the script, those of gpt2jax after its verb"
if ! "$dry_run" && [[ -z ${SLURM_JOB_ID:-} ]]; then
  fail "not in a Slurm job: start it with sbatch, or look with --dry-run"
fi

# Tasks that stop for a checkpoint end with 75, and the first of them must not have the others killed; when one fails the
# others notice by themselves. srun does not take over --cpus-per-task from sbatch since Slurm 22.05.
srun=(srun --label --kill-on-bad-exit=0)
[[ -z ${SLURM_CPUS_PER_TASK:-} ]] || srun+=("--cpus-per-task=$SLURM_CPUS_PER_TASK")
command=("$@")
if [[ ${CONTAINER:-} == *.sif ]]; then
  [[ -f $CONTAINER ]] || fail "CONTAINER: $CONTAINER: no such file"
  command=(apptainer exec --nv --bind "$PWD${MOUNTS:+,$MOUNTS}" --pwd "$PWD" "$CONTAINER" "${command[@]}")
elif [[ -n ${CONTAINER:-} ]]; then
  mounts="$PWD:$PWD"
  for mount in ${MOUNTS//,/ }; do
    [[ $mount == *:* ]] || mount="$mount:$mount"
    mounts+=",$mount"
  done
  srun+=("--container-image=$CONTAINER" "--container-mounts=$mounts" "--container-workdir=$PWD")
else
  venv=${VENV:-.venv}
  if [[ -n ${VENV:-} && ! -d $venv/bin ]]; then
    fail "VENV: $venv: no virtual environment"
  elif [[ -d $venv/bin ]]; then
    bin=$(cd "$venv/bin" && pwd)
    export PATH="$bin:$PATH"
  fi
fi

# 75, "try again later" in sysexits.h: all tasks end with it when SIGTERM to one of them stopped the run before its end.
export GPT2JAX_STOPPED_STATUS=75
if "$dry_run"; then
  echo "GPT2JAX_STOPPED_STATUS=75 $(printf '%q ' "${srun[@]}" "${command[@]}")"
  exit 0
fi

# Signals reach the script alone. SIGUSR1 comes before the time limit (and before preemption where the cluster has
# PreemptParameters=send_user_signal), SIGTERM with preemption and with scancel, SIGINT from who wants it stopped.
# By scancel, because what srun does with a SIGTERM of its own has changed over its versions.
asked=
signals=0
# shellcheck disable=SC2329  # The traps call it.
stop() {
  signals=$((signals + 1))
  # The first signal counts, except that who wants the run to stay ended may still say so.
  [[ -z $asked || $1 == INT ]] || return 0
  asked=$1
  echo "slurm.sh: $1: asking the tasks for a checkpoint" >&2
  scancel --signal=TERM "$SLURM_JOB_ID" || true
}
trap 'stop USR1' USR1
trap 'stop TERM' TERM
trap 'stop INT' INT

"${srun[@]}" "${command[@]}" &
step=$!
# A signal ends a wait early, with a status of its own: wait again.
while true; do
  before=$signals status=0
  wait "$step" || status=$?
  [[ $signals -ne $before ]] || break
done
trap '' USR1 TERM INT

again=false
if [[ $status -eq 75 ]]; then
  case $asked in
    INT) ;;
    # Stopped by scancel, or preempted? A job that is cancelled does not count as running any more.
    TERM) [[ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T 2>/dev/null)" != RUNNING ]] || again=true ;;
    # Without a signal to the script, one of the tasks got it: a node that is drained or preempted.
    *) again=true ;;
  esac
  status=0
fi
if "$again"; then
  echo "slurm.sh: not finished: job $SLURM_JOB_ID goes back into the queue" >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
