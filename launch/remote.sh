# shellcheck shell=bash
# What the launchers of clusters share; to be sourced.
#
# With --dry-run as the first argument of a launcher, commands are printed, not run.

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Stop unless the variables have values.
require() {
    local name
    for name in "$@"; do
        [ -n "${!name:-}" ] || fail "$name is not set: see the top of $0"
    done
}

# Quote words for a shell.
quote() {
    printf '%q ' "$@"
}

# Run a command, or print it as it could be typed.
run() {
    if [ "$dry_run" = yes ]; then
        quote "$@"
        echo
    else
        "$@"
    fi
}

# Run a command on a text, or print both.
run_on() {
    local text="$1"
    shift
    if [ "$dry_run" = yes ]; then
        printf '%s <<END\n%s\nEND\n' "$(quote "$@")" "$text"
    else
        "$@" <<<"$text"
    fi
}

dry_run=no
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
