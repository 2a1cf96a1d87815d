#!/bin/sh
# Makes the virtual environment .venv with the pinned dependencies; does nothing where it is up to date.
#
#   KONSIL_TORCH        cpu or cuda: which build of torch (default: cuda where an NVIDIA GPU is visible)
#   KONSIL_TORCH_INDEX  a package index that holds that build, e.g. the CPU index that pytorch.org names. Without it pip
#                       uses its own configuration: where that offers a "+cpu" build it is taken, else the plain build,
#                       which runs on a CPU as well and is some gigabytes larger.
#   KONSIL_PYTHON       the Python to build on
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
cd "$here/../.."

gpu_visible() {
    [ -d /proc/driver/nvidia/gpus ] && [ -n "$(ls /proc/driver/nvidia/gpus 2>/dev/null)" ] ||
        { command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; }
}

if [ -z "${KONSIL_TORCH:-}" ]; then
    if gpu_visible; then KONSIL_TORCH=cuda; else KONSIL_TORCH=cpu; fi
fi
case $KONSIL_TORCH in cpu | cuda) ;; *) fail "KONSIL_TORCH=$KONSIL_TORCH is not known." "Use cpu or cuda." ;; esac

wanted=$({ cat pyproject.toml constraints.txt; printf '%s\n' "$KONSIL_TORCH" "$PWD"; } | sha256sum | cut -d' ' -f1)
stamp=.venv/.konsil-installed
if [ -x .venv/bin/konsil ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi

python=$(sh "$here/find-python.sh")
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "making the virtual environment .venv with $python"
    "$python" -m venv --clear .venv || fail "the virtual environment could not be made." "Is the disk full, or the folder read-only?"
fi
rm -f "$stamp"
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }

version=$(sed -n 's/^torch==//p' constraints.txt)
say "installing torch $version for ${KONSIL_TORCH} (the largest part; this may take some minutes)"
if [ -n "${KONSIL_TORCH_INDEX:-}" ]; then
    pip install -c constraints.txt --extra-index-url "$KONSIL_TORCH_INDEX" "torch==$version" ||
        fail "torch $version could not be installed from KONSIL_TORCH_INDEX." "Check the address."
elif [ "$KONSIL_TORCH" = cuda ]; then
    # '===' takes this very version and no '+cpu' build that a local wheel folder may offer
    pip install "torch===$version" -c constraints.txt || fail "torch $version could not be installed." "Check the network, or set KONSIL_TORCH_INDEX."
elif pip install -c constraints.txt "torch==$version+cpu" 2>/dev/null; then
    : # what pip is configured with offers the CPU build
else
    say "no CPU build of torch is offered here: taking the plain one, which is larger (set KONSIL_TORCH_INDEX to avoid that)"
    pip install -c constraints.txt "torch==$version" || fail "torch $version could not be installed." "Check the network, or set KONSIL_TORCH_INDEX."
fi
say "installing Konsil and its pinned dependencies"
pip install -c constraints.txt --editable '.[site,dev,onnx]' ||
    fail "the dependencies could not be installed." "pip's own words stand above. Check the network and run make again."
printf '%s\n' "$wanted" >"$stamp"
