#!/usr/bin/env bash
# Trains on a SLURM cluster with GPUs; one process per GPU, or with vLLM one per node.
#
#   ./launch/slurm.sh --dry-run --config.policy.path=/shared/Qwen3-4B   print the job
#   ./launch/slurm.sh --config.policy.path=/shared/Qwen3-4B             submit it
#
# Run it in a checkout on a file system that all nodes share; the environment is set up
# here, once. Arguments go to reskill_jax.main; where vLLM is, for example, is told by
# --config.engine.vllm.executable=/shared/vllm/bin/vllm. A job that is requeued or
# submitted again resumes the run. Settings, as variables:
NODES="${NODES:-1}"
GPUS="${GPUS:-8}"                           # per node
VLLM_GPUS="${VLLM_GPUS:-0}"                 # of them, for a vLLM server each; 0: no vLLM
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

tasks=$GPUS cpus=$CPUS extras=alfworld,cuda trainer=() engine=()
if [ "$VLLM_GPUS" != 0 ]; then
    own=$((GPUS - VLLM_GPUS))
    ((0 < own && own < GPUS)) ||
        fail "VLLM_GPUS=$VLLM_GPUS of GPUS=$GPUS: servers and trainer want one or more"
    # One process per node has the first GPUs; servers that it starts have the others.
    tasks=1 cpus=$((CPUS * GPUS)) extras=alfworld,cuda,vllm
    first=$(seq -s , 0 $((own - 1)))
    # On SLURM jax takes one GPU per process unless it is told which.
    trainer=(env CUDA_VISIBLE_DEVICES="$first" JAX_LOCAL_DEVICE_IDS="$first")
    engine=(--config.engine.name=vllm --config.engine.vllm.replicas="$VLLM_GPUS"
        --config.engine.vllm.devices="($(seq -f "'%g'," -s '' $own $((GPUS - 1))))")
fi
# Beside servers on the same GPUs the program takes what engine.vllm.trainer_memory says.
share="export XLA_PYTHON_CLIENT_MEM_FRACTION=.92"
[[ "$*" == *engine.vllm.colocate=[Tt]rue* ]] && share=""
program=("${trainer[@]}" ./launch/process.sh "$extras" --config="$CONFIG"
    --workdir="$WORKDIR" --distributed "${engine[@]}" "$@")
job="#!/usr/bin/env bash
#SBATCH --job-name=reskill_jax
#SBATCH --nodes=$NODES
#SBATCH --ntasks-per-node=$tasks
#SBATCH --gpus-per-node=$GPUS
#SBATCH --cpus-per-task=$cpus
#SBATCH --mem=$MEMORY
#SBATCH --time=$TIME
#SBATCH --requeue${PARTITION:+
#SBATCH --partition=$PARTITION}${ACCOUNT:+
#SBATCH --account=$ACCOUNT}
#SBATCH --output=$WORKDIR/slurm-%j.log
export ALFWORLD_DATA=$(quote "$ALFWORLD_DATA")
$share
srun --kill-on-bad-exit=1 $(quote "${program[@]}")"

run bash -c "source launch/setup.sh && set_up $extras"
run mkdir -p "$WORKDIR"
run_on "$job" sbatch
