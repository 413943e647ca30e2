#!/usr/bin/env bash
# Runs one process of the main program on a host of a cluster.
#
#   ./launch/process.sh alfworld,tpu --config=configs/alfworld.py --distributed ...
#
# The first argument lists the extras to install, the others go to reskill_jax.main.
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up "$1"
exec "$python" -m reskill_jax.main "${@:2}"
