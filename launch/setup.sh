# shellcheck shell=bash
# Makes the Python environment that the launch scripts run in; to be sourced.
#
#   set_up alfworld,dev     makes or reuses the environment; then "$python" is its Python
#
# RESKILL_VENV names the environment's directory (default: .venv in the repository). An
# environment is installed once per content of setup.py: a later call needs no network.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
venv="${RESKILL_VENV:-$PWD/.venv}"
python="$venv/bin/python"

# Compiled programs are kept for the next run.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/xla}"

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Print the first Python that this package supports and that can make environments.
find_python() {
    local candidate
    for candidate in python3 python3.12 python3.11; do
        if have "$candidate" && "$candidate" -c '
import ensurepip, sys, venv
sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)])' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# Print the packages of this distribution that hold a supported Python.
python_packages() {
    local version
    for version in 3.12 3.11; do
        if have apt-cache && apt-cache show "python$version-venv" >/dev/null 2>&1; then
            echo "python$version python$version-venv"
            return
        fi
    done
    return 1
}

# Install the tools that are missing, or say how to.
require_tools() {
    local missing=() as_root=no names packages
    have c++ || have g++ || missing+=(g++)
    have make || missing+=(make)
    have cmake || missing+=(cmake)
    if find_python >/dev/null && [ ${#missing[@]} -eq 0 ]; then
        return
    fi
    if [ "$(id -u)" -eq 0 ] && have apt-get; then
        as_root=yes
        apt-get update
    fi
    if ! find_python >/dev/null; then
        names=$(python_packages) || fail "Python 3.11 or 3.12 with its venv module is" \
            "needed, and this system's packages have neither: install one, e.g. with" \
            "pyenv or uv, so that python3.12 or python3.11 is on PATH, and start again"
        read -ra packages <<<"$names"
        missing+=("${packages[@]}")
    fi
    if [ $as_root = yes ]; then
        DEBIAN_FRONTEND=noninteractive \
            apt-get install -y --no-install-recommends "${missing[@]}"
    else
        fail "missing: ${missing[*]}. Install with" \
            "'sudo apt-get install ${missing[*]}' and start again"
    fi
}

set_up() {
    local extras="$1" hash extra ready=yes
    if [ -L "$python" ] && [ ! -e "$python" ]; then
        fail "the environment $venv has lost its Python: remove it and start again"
    fi
    hash=$(sha256sum setup.py | cut -d ' ' -f 1)
    for extra in ${extras//,/ }; do
        [ "$(cat "$venv/.installed-$extra" 2>/dev/null)" = "$hash" ] || ready=no
    done
    if [ $ready = yes ]; then
        return
    fi
    require_tools
    echo "Installing reskill_jax[$extras] into $venv: a few minutes, once."
    [ -e "$python" ] || "$(find_python)" -m venv "$venv"
    "$python" -m pip install --editable ".[$extras]"
    for extra in ${extras//,/ }; do
        echo "$hash" >"$venv/.installed-$extra"
    done
}
