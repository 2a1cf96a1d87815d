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
install_without_services rabbitmq-server rabbitmq-server
installed || fail "RabbitMQ was installed but its server was not found." "Set RABBITMQ_HOME to where it lies."
