#!/usr/bin/env bash
# Sets up an environment and runs the main job on this machine.
#
#   ./launch/local.sh                            the laboratory: two cores, no GPU
#   ./launch/local.sh --config.seed=1 --workdir=runs/seed1
#
# Arguments go to reskill_jax.main; paths are relative to the repository. Needs Python
# 3.11 or 3.12, a C++ compiler, make and cmake, and says so where one is missing.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up alfworld

config=--config=configs/alfworld.py:cpu
workdir=--workdir=runs/local
for argument in "$@"; do
    case "$argument" in
        --config | --config=*) config= ;;
        --workdir | --workdir=*) workdir= ;;
    esac
done
exec "$python" -m reskill_jax.main ${config:+"$config"} ${workdir:+"$workdir"} "$@"
