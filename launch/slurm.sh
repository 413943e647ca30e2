#!/usr/bin/env bash
# Trains on a SLURM cluster with GPUs; one process per GPU.
#
#   ./launch/slurm.sh --dry-run --config.policy.path=/shared/Qwen3-4B   print the job
#   ./launch/slurm.sh --config.policy.path=/shared/Qwen3-4B             submit it
#
# Run it in a checkout on a file system that all nodes share; the environment is set up
# here, once. Arguments go to reskill_jax.main. A job that is requeued or submitted again
# resumes the run. Settings, as variables:
NODES="${NODES:-1}"
GPUS="${GPUS:-8}"                           # per node
CPUS="${CPUS:-8}"                           # per GPU; they play the environments
MEMORY="${MEMORY:-0}"                       # per node; 0: all of it
TIME="${TIME:-24:00:00}"
PARTITION="${PARTITION:-}"                  # empty: the cluster's default
ACCOUNT="${ACCOUNT:-}"
CONFIG="${CONFIG:-configs/alfworld.py}"
WORKDIR="${WORKDIR:-runs/alfworld}"
export ALFWORLD_DATA="${ALFWORLD_DATA:-}"   # holds json_2.1.1/
set -euo pipefail
# shellcheck source=launch/remote.sh
source "$(dirname "${BASH_SOURCE[0]}")/remote.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
require ALFWORLD_DATA

program=(./launch/process.sh alfworld,cuda --config="$CONFIG" --workdir="$WORKDIR"
    --distributed "$@")
job="#!/usr/bin/env bash
#SBATCH --job-name=reskill_jax
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$GPUS
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$CPUS
#SBATCH --mem=$MEMORY
#SBATCH --time=$TIME
#SBATCH --requeue${PARTITION:+
#SBATCH --partition=$PARTITION}${ACCOUNT:+
#SBATCH --account=$ACCOUNT}
#SBATCH --output=$WORKDIR/slurm-%j.log
export ALFWORLD_DATA=$(quote "$ALFWORLD_DATA")
export XLA_PYTHON_CLIENT_MEM_FRACTION=.92
srun --kill-on-bad-exit=1 $(quote "${program[@]}")"

run bash -c 'source launch/setup.sh && set_up alfworld,cuda'
run mkdir -p "$WORKDIR"
run_on "$job" sbatch
