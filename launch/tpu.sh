#!/usr/bin/env bash
# Trains on a Cloud TPU slice; one process per host, which all run the same command.
#
#   TPU=mine ZONE=us-east5-b ./launch/tpu.sh --dry-run          print what would be run
#   TPU=mine ZONE=us-east5-b ./launch/tpu.sh --config.policy.path=/shared/Qwen3-4B
#
# Arguments go to reskill_jax.main. Started again, also after a preemption, it makes the
# slice if it has gone, copies the code and resumes the run. Settings, as variables:
TPU="${TPU:-}"                              # name of the slice
ZONE="${ZONE:-}"                            # where it is
PROJECT="${PROJECT:-}"                      # empty: the one gcloud is configured for
TYPE="${TYPE:-v6e-16}"                      # v5litepod-16, v5p-8, v6e-16, ...
VERSION="${VERSION:-v2-alpha-tpuv6e}"       # of the software; for v5p v2-alpha-tpuv5
CONFIG="${CONFIG:-configs/alfworld.py}"
WORKDIR="${WORKDIR:-/shared/runs/alfworld}" # on a file system that all hosts mount
DATA="${DATA:-/shared/alfworld}"            # holds json_2.1.1/
# A command that every host runs first, e.g. to mount what they share:
MOUNT="${MOUNT:-true}"
set -euo pipefail
# shellcheck source=launch/remote.sh
source "$(dirname "${BASH_SOURCE[0]}")/remote.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
require TPU ZONE

place=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})
tpu=(gcloud compute tpus tpu-vm)
code=/tmp/reskill_jax.tar.gz

if [ $dry_run = yes ] || ! "${tpu[@]}" describe "$TPU" "${place[@]}" >/dev/null 2>&1; then
    run "${tpu[@]}" create "$TPU" "${place[@]}" \
        --accelerator-type="$TYPE" --version="$VERSION"
fi
run git archive --format=tar.gz --output="$code" HEAD
run "${tpu[@]}" scp "$code" "$TPU:$code" "${place[@]}" --worker=all
program=(./launch/process.sh alfworld,tpu --config="$CONFIG" --workdir="$WORKDIR"
    --distributed "$@")
run "${tpu[@]}" ssh "$TPU" "${place[@]}" --worker=all --command="set -e
$MOUNT
mkdir -p reskill_jax
tar -xzf $code -C reskill_jax
cd reskill_jax
export ALFWORLD_DATA=$(quote "$DATA")
$(quote "${program[@]}")"
