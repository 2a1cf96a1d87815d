"""What a model file says of its outputs (`Task.describe_outputs`), read again where there is no more than the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def name_kind(about: Mapping[str, Any]) -> str:
    """The kind of task."""
    kinds = {"regions": "segmentation", "classes": "classification"}
    return next((name for key, name in kinds.items() if key in about), "regression")


def is_of_voxels(about: Mapping[str, Any]) -> bool:
    """Whether it answers for each voxel, and not for a whole image."""
    return name_kind(about) == "segmentation"


def list_outputs(about: Mapping[str, Any]) -> list[str]:
    """The outputs by name, in their order; where they exclude each other the background is the first."""
    kind = name_kind(about)
    if kind == "segmentation":
        return [*(["background"] if about["activation"] == "softmax" else []), *about["regions"]]
    if kind == "classification":
        classes = list(about["classes"])
        return [f"{one} or above" for one in classes[1:]] if about.get("labels") == "ordinal" else classes
    return [str(about.get("quantity", "output"))]
