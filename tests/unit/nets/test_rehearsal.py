"""The rehearsal model: a wire can be tried with it, and nothing can be trained."""

from __future__ import annotations

import subprocess
import sys

import pytest

from messages.ground.errors import ConfigError
from nets import registry
from nets.architectures.rehearsal import RehearsalSpec
from nets.digest import model_digest


def test_it_has_so_many_tensors_and_bytes() -> None:
    manifest, buffer = RehearsalSpec(tensors=20, kilobytes=30).draw_without_net(seed=1)
    assert len(manifest.tensors) == 20
    assert manifest.nbytes == len(buffer) == 30_000


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    spec = RehearsalSpec(kilobytes=4)
    assert model_digest(*spec.draw_without_net(1)) == model_digest(*spec.draw_without_net(1))
    assert model_digest(*spec.draw_without_net(1)) != model_digest(*spec.draw_without_net(2))


def test_a_model_of_no_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="kilobytes"):
        registry.read_spec({"name": "Rehearsal", "kilobytes": 0})


def test_it_is_built_without_torch() -> None:
    program = (
        "import sys; from nets.registry import NETS; "
        "NETS['Rehearsal'](kilobytes=4).draw_without_net(1); raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
