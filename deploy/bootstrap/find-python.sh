#!/bin/sh
# Prints the path of a Python that Konsil runs on (3.11 or newer, with venv), or says how to get one.
# KONSIL_PYTHON names one that is not on the PATH.
set -eu
. "$(dirname "$0")/common.sh"

for candidate in ${KONSIL_PYTHON:-} python3 python3.13 python3.12 python3.11; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    "$path" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    "$path" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$path has no venv module." "On Debian or Ubuntu: apt-get install python3-venv"
    printf '%s\n' "$path"
    exit 0
done
fail "no Python 3.11 or newer was found." \
    "On Debian 12, Ubuntu 24.04 or newer: apt-get install python3 python3-venv. Else set KONSIL_PYTHON=/path/to/python3."
