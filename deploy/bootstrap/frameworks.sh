#!/bin/sh
# An environment of its own for each framework of experiments/trainers (.frameworks/NAME); nothing the second time.
set -eu
for pair in sklearn:scikit-learn jax:jax tensorflow:tensorflow-cpu paddle:paddlepaddle; do
    name=${pair%%:*} package=${pair#*:}
    if [ -e ".frameworks/$name/installed" ]; then
        continue
    fi
    echo "konsil: installing $package"
    .venv/bin/python -m venv --clear ".frameworks/$name"
    if ".frameworks/$name/bin/python" -m pip --disable-pip-version-check -qq install numpy safetensors "$package"; then
        touch ".frameworks/$name/installed"
    else
        rm -rf ".frameworks/$name"
        echo "konsil: $package could not be installed: its test is skipped" >&2
    fi
done
