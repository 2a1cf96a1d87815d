"""The files of a secure round's update: what was trained, its difference as whole numbers, and that under its masks.

| file | holds | leaves |
|---|---|---|
| `.trained` | the trained weights, as the trainer wrote them | never |
| `.words` | the weighted difference and the figures as whole numbers; durable before any mask is made | never |
| `.update` | the same under all its masks | yes |

The second follows from the first once, the third from the second as often as need be, to the same bytes. Memory is a
few blocks, whatever the model's size: files are mapped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from messages.ground import crash
from messages.ground.durable import keep_file
from messages.secure.encoding import find_shrink, is_out_of_range, quantise_tensor, sum_squares
from messages.secure.figures import Figure, encode_figures
from messages.secure.masks import Mask, WordLayout, add_masks
from messages.tensors.layout import Manifest, view_tensors
from messages.tensors.seals import map_file


class OutOfRange(ValueError):
    """Too much of an update lies beyond what a secure sum holds."""


def write_words(
    out: Path,
    *,
    trained: Path,
    received: Path,
    manifest: Manifest,
    share: float,
    norm_max: float | None,
    figures: NDArray[np.uint64],
    whole: bool = False,
) -> None:
    """Write an update as whole numbers, durably: whole, then renamed into place.

    Args:
        manifest: of both models; every tensor float32, as its own bytes.
        share: the site's part of the weight of all.
        norm_max: longest difference (L2); None: any.
        figures: words that follow.
        whole: the trainer wrote whole numbers of 32 bits in the place of weights (`messages.secure.shared`): they are
            taken as they are, since they have their noise.

    Raises:
        OutOfRange: more than one number in 10,000 was clipped.
        ValueError: a number is not finite.
        OSError: no space; a file is missing.
    """
    ours, theirs = (view_tensors(manifest, map_file(path, manifest)) for path in (trained, received))
    shrink = 1.0
    if norm_max is not None:
        shrink = find_shrink(sum(sum_squares(ours[name], theirs[name]) for name in ours), norm_max)
    layout = WordLayout(sum(array.size for array in ours.values()), figures.size)
    beside = out.with_name(out.name + ".part")
    beside.unlink(missing_ok=True)
    clipped, start = 0, 0
    with beside.open("xb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, layout.nbytes))
        file.truncate(layout.nbytes)
    buffer = np.memmap(beside, dtype=np.uint8, mode="r+", shape=(layout.nbytes,))
    words = buffer[: 4 * layout.words32].view(np.uint32)
    for name, array in ours.items():
        place = words[start : start + array.size]
        if whole:
            place[:] = array.reshape(-1).view(np.uint32)
        else:
            clipped += quantise_tensor(array, theirs[name], share=share, shrink=shrink, out=place)
        start += array.size
    buffer[4 * layout.words32 :] = figures.astype("<u8").view(np.uint8)
    buffer.flush()
    del buffer, words
    if is_out_of_range(clipped, start):
        beside.unlink()
        raise OutOfRange(f"{clipped} of {start} numbers")
    keep_file(beside, out)


def write_masked(out: Path, words: Path, layout: WordLayout, masks: Sequence[Mask]) -> None:
    """Write the words under their masks: whole, then renamed into place. The same bytes each time.

    Raises:
        OSError, ValueError: no space; the words are missing, or of another size.
    """
    if words.stat().st_size != layout.nbytes:
        raise ValueError(f"{words.stat().st_size} bytes of words, not {layout.nbytes}")
    beside = out.with_name(out.name + ".part")
    beside.unlink(missing_ok=True)
    shutil.copyfile(words, beside)
    buffer = np.memmap(beside, dtype=np.uint8, mode="r+", shape=(layout.nbytes,))
    crash.pass_step("agent:masking")
    add_masks(buffer, layout, masks)
    buffer.flush()
    del buffer
    beside.replace(out)


def mask_figures(table: Sequence[Figure], values: Mapping[str, float], masks: Sequence[Mask]) -> bytes:
    """Figures alone under their masks."""
    words = encode_figures(table, values).astype("<u8")
    buffer = words.view(np.uint8)
    add_masks(buffer, WordLayout(0, words.size), masks)
    return buffer.tobytes()
