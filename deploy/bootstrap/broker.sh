#!/bin/sh
# Installs RabbitMQ from the system's packages where it is missing, without letting a system service start:
# Konsil runs private nodes of its own.
set -eu
. "$(dirname "$0")/common.sh"

installed() {
    for root in ${RABBITMQ_HOME:-} /usr/lib/rabbitmq /usr/local/lib/rabbitmq /opt/rabbitmq; do
        for server in "$root"/sbin/rabbitmq-server "$root"/lib/rabbitmq_server-*/sbin/rabbitmq-server; do
            [ ! -e "$server" ] || return 0
        done
    done
    return 1
}

if installed; then exit 0; fi
command -v apt-get >/dev/null 2>&1 ||
    fail "RabbitMQ is not installed, and this system has no apt-get." \
        "Fedora: dnf install rabbitmq-server. Else: https://www.rabbitmq.com/docs/download (set RABBITMQ_HOME where it lies elsewhere)."

say "installing RabbitMQ from the system's packages (its system service stays off)"
log=$(mktemp)
policy=/usr/sbin/policy-rc.d # invoke-rc.d(8): 101 means "do not start what is being installed"
made_policy=
clean() {
    [ -z "$made_policy" ] || as_root rm -f "$policy"
    rm -f "$log"
}
trap clean EXIT
trap 'exit 130' INT TERM

if [ ! -e "$policy" ]; then
    made_policy=yes
    script=$(mktemp)
    printf '#!/bin/sh\nexit 101\n' >"$script"
    as_root install -m 755 "$script" "$policy"
    rm -f "$script"
fi
quietly() { "$@" >"$log" 2>&1 </dev/null || { tail -n 5 "$log" >&2; return 1; }; }
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then sudo -v; fi
quietly as_root apt-get update -qq ||
    fail "the list of packages could not be fetched." "Check the network and /etc/apt/sources.list, then run make again."
quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server ||
    fail "RabbitMQ could not be installed." "Try yourself: apt-get install rabbitmq-server"
# Not started now, and not at the next boot either.
if command -v systemctl >/dev/null 2>&1; then
    quietly as_root systemctl disable rabbitmq-server || say "note: the system's own rabbitmq-server may start at the next boot"
fi
installed || fail "RabbitMQ was installed but its server was not found." "Set RABBITMQ_HOME to where it lies."
