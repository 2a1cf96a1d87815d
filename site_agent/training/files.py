"""A trainer's files: the global model that it reads and the update that it writes, in the codecs of their manifests.

No torch here. A site's own trainer program can import these two functions instead of knowing any codec.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages import crash
from messages.errors import WorkFailed
from messages.tensor_codecs import CODECS, Tensor
from messages.tensors import Manifest, blocks, tensors_of


def open_model(path: str | Path, manifest: Manifest) -> dict[str, Tensor]:
    """The received model's tensors, mapped and not read yet: `Tensor.read` or `Tensor.read_into` decodes one.

    Raises:
        WorkFailed: the file is not there or too short, or what it holds is no model.
    """
    if CODECS[manifest.codec].difference:
        raise WorkFailed("a global model cannot be a difference", where="manifest")
    try:
        whole = np.memmap(path, dtype=np.uint8, mode="r", shape=(manifest.nbytes,)) if manifest.nbytes else b""
    except (OSError, ValueError) as error:
        raise WorkFailed(f"the received model cannot be read ({error})", where="model") from None
    return tensors_of(manifest, whole)


def write_update(
    path: str | Path,
    arrays: Mapping[str, NDArray[Any]],
    manifest: Manifest,
    received: Mapping[str, Tensor],
    *,
    durable: bool = True,
) -> None:
    """Write the trained weights as the update's manifest says: whole, then renamed into place.

    One pass, block by block, straight from the arrays' memory, whatever their strides.

    Args:
        arrays: by name; a lazy mapping is asked once for each.
        received: what `open_model` gave for this round, since some codecs send the difference from it.
        durable: wait until the disk has it.

    Raises:
        ValueError: an array is missing, or differs from the manifest in shape or dtype.
        OSError: no space, for one.
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(place.name + ".part")
    with beside.open("wb", buffering=0) as file:
        if manifest.nbytes:
            os.posix_fallocate(file.fileno(), 0, manifest.nbytes)  # a full disk is told before any work is done
        for block in blocks(arrays, manifest, received):
            rest = block.data
            while rest:
                rest = rest[file.write(rest) :]
        if durable:
            os.fdatasync(file.fileno())
    crash.passed("trainer:writing")
    beside.replace(place)
