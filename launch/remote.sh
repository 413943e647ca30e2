# shellcheck shell=bash
# What the launchers of clusters share; to be sourced.
#
# With --dry-run among the arguments of a launcher, commands are printed, not run.

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

# Take --dry-run out of the arguments, wherever it stands.
dry_run=no
for argument in "$@"; do
    shift
    if [ "$argument" = --dry-run ]; then
        dry_run=yes
    else
        set -- "$@" "$argument"
    fi
done
