"""Tensors on the wire. What 0.1 had in `messages.tensors` itself can be imported from here for one release more."""

from __future__ import annotations

from messages.tensors.layout import Manifest, TensorSpec

__all__ = ["Manifest", "TensorSpec"]
