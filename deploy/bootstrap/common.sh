# Shared by the scripts beside it: plain words, and what to do where something is missing. Sourced, never run.
# shellcheck shell=sh

say() { printf 'konsil: %s\n' "$*"; }

fail() { # what, advice
    printf 'konsil: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '        %s\n' "$2" >&2
    exit 3
}

# Runs a command as root: directly, or through sudo. Names the command first, so that nobody types a password blindly.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        say "needs root: sudo $*"
        sudo "$@"
    else
        fail "needs root for: $*" "Run that as root (there is no sudo here), then run make again."
    fi
}
