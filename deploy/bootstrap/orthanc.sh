#!/bin/sh
# Installs Orthanc, the PACS of `konsil demo --from-pacs` and of tests/pacs, from the system's packages where it is
# missing, without letting a system service start. Nothing else needs it: where it cannot be had, that is said, and the
# rest goes on.
set -eu
. "$(dirname "$0")/common.sh"

installed() {
    { command -v Orthanc >/dev/null 2>&1 || [ -x /usr/sbin/Orthanc ]; } || return 1
    for plugin in "${ORTHANC_PLUGINS:-/usr/share/orthanc/plugins}"/libOrthancDicomWeb.so*; do
        [ ! -e "$plugin" ] || return 0
    done
    return 1
}
without() { # why
    say "note: Orthanc is not installed ($1); only 'konsil demo --from-pacs' and tests/pacs need it"
    say "      later: apt-get install orthanc orthanc-dicomweb, as root (elsewhere: https://www.orthanc-server.com)"
    exit 0
}

if installed; then exit 0; fi
command -v apt-get >/dev/null 2>&1 || without "this system has no apt-get"
if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null 2>&1; then without "that needs root, and there is no sudo here"; fi

say "installing Orthanc from the system's packages (its system service stays off)"
install_without_services orthanc orthanc orthanc-dicomweb
installed || fail "Orthanc was installed but it or its DICOMweb plugin was not found." "Set ORTHANC_PLUGINS to the plugins' folder."
