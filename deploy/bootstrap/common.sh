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

# Installs Debian packages without letting a system service start, now or at the next boot: Konsil runs private servers
# of its own.
#   install_without_services SERVICE PACKAGE...
install_without_services() {
    service=$1
    shift
    log=$(mktemp)
    policy=/usr/sbin/policy-rc.d # invoke-rc.d(8): 101 means "do not start what is being installed"
    made_policy=
    trap _clean_install EXIT
    trap 'exit 130' INT TERM
    if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then sudo -v; fi
    if [ ! -e "$policy" ]; then
        made_policy=yes
        script=$(mktemp)
        printf '#!/bin/sh\nexit 101\n' >"$script"
        as_root install -m 755 "$script" "$policy"
        rm -f "$script"
    fi
    _quietly as_root apt-get update -qq ||
        fail "the list of packages could not be fetched." "Check the network and /etc/apt/sources.list, then run make again."
    _quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" ||
        fail "$* could not be installed." "Try yourself: apt-get install $*"
    if command -v systemctl >/dev/null 2>&1; then
        _quietly as_root systemctl disable "$service" || say "note: the system's own $service may start at the next boot"
    fi
    _clean_install
    trap - EXIT INT TERM
}
_quietly() { "$@" >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; return 1; }; }
_clean_install() {
    [ -z "$made_policy" ] || as_root rm -f "$policy"
    made_policy=
    rm -f "$log"
}
