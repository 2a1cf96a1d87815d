"""Digests of a case's content, and the keyed fingerprint of a set of cases."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from messages import codec
from site_agent.dicom.base import LabelMap, Volume

VERSION = 1
"""Raise it when the same objects come to lie on disk otherwise than before."""


def content_digest(patient: str, channels: Mapping[str, Volume], label: LabelMap, names: Sequence[str]) -> str:
    """SHA-256 (hex) over one case: whose it is, its grid, every voxel, and what the label's values mean."""
    reference = next(iter(channels.values()))
    state = sha256(codec.canonical([VERSION, patient, list(channels), list(names), list(reference.voxels.shape)]))
    state.update(np.ascontiguousarray(reference.affine, dtype="<f8").data)
    for volume in channels.values():
        state.update(np.ascontiguousarray(volume.voxels, dtype="<f4").data)
    state.update(np.ascontiguousarray(label.voxels, dtype=np.uint8).data)
    return state.hexdigest()


def of_set(secret: bytes, digests: Sequence[str]) -> str:
    """HMAC-SHA256 (hex; RFC 2104) under the site's secret over the sorted digests of the cases.

    Keyed, so that nobody who has a patient's images can test whether they are in the set.
    """
    if not secret:
        raise ValueError("the fingerprint needs the site's secret")
    state = hmac.new(secret, b"konsil-fingerprint\xff", sha256)
    for digest in sorted(digests):
        state.update(digest.encode() + b"\n")
    return state.hexdigest()
