#!/usr/bin/env bash
# Sets up an environment and passes the tests; arguments go to pytest.
#
#   ./launch/test.sh                          # the default tier
#   ./launch/test.sh -m "slow or not slow"    # slow ones, too: what CI runs
#   ./launch/test.sh -k checkpoint
#   ./launch/test.sh -n 0 -x                  # in one process; stops at a failure
#
# Tests of the report page need a browser, and are skipped without one:
#   apt-get update && apt-get install -y --no-install-recommends chromium
set -euo pipefail
# shellcheck source=launch/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up alfworld,scienceworld,search,llm,vllm,tfds,wandb,trackio,docs,dev

"$python" -m ruff check .
"$python" -m ruff format --check .
"$python" -m mypy
# In two processes, which take a file each: most of a test is compiling, on one core.
exec "$python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
