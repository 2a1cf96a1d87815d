"""A safetensors file that somebody else wrote is refused in one line, whatever its metadata say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from messages.ground.errors import ConfigError
from nets.model_file import read_model


@pytest.mark.parametrize(
    "said",
    [[], "text", 5, None, {}, {"tensors": 5}, {"tensors": ["w"]}, {"tensors": [["w"]]}, {"tensors": {"w": 1}}],
    ids=repr,
)
def test_metadata_of_another_shape_are_no_model_of_konsil(said: Any, tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model", metadata={"konsil": json.dumps(said)})
    with pytest.raises(ConfigError, match="is not a model of Konsil"):
        read_model(tmp_path / "model")


def test_metadata_that_are_nested_without_end_are_no_model_of_konsil(tmp_path: Path) -> None:
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "model", metadata={"konsil": "[" * 100_000})
    with pytest.raises(ConfigError, match="is not a model of Konsil"):
        read_model(tmp_path / "model")
