#!/usr/bin/env bash
# Sets up an environment and passes the tests; arguments go to pytest.
#
#   ./launch/test.sh                          # the default tier
#   ./launch/test.sh -m "slow or not slow"    # slow ones, too: what CI runs
#   ./launch/test.sh -k checkpoint
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
exec "$python" -m pytest "$@"
