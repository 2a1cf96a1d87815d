"""Secure rounds in a schedule: what must never be said in them, and the sum that they have to make."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from messages.secure.context import Exchange, make_context
from messages.secure.encoding import find_arrival, find_share, quantise_tensor, restore_tensor

Arrays = Mapping[str, NDArray[Any]]
MASKABLE: Arrays = {"conv.weight": np.linspace(-3, 3, 400, dtype=np.float32).reshape(10, 40)}
"""The initial model of secure rounds: numbers that can be masked alone."""


class SecrecyWatch:
    """Hears what sites say in secure rounds, each event once.

    A masked update is as good as plain for who holds both secrets of its site, the seed of its self-mask and its
    masking key (Bonawitz et al. 2017, section 4). So of no site both are ever told, by whomever. Two updates under the
    same masks tell their difference.
    """

    def __init__(self, fail: Callable[[str], None]) -> None:
        self._fail = fail
        self._seals: dict[tuple[str, int, str], str] = {}
        self._keys: dict[bytes, tuple[str, int, int]] = {}
        self._told: defaultdict[tuple[int, str, int], dict[str, set[str]]] = defaultdict(
            lambda: {"s": set(), "k": set()}
        )

    def note_said(self, site: str, said: Mapping[str, Any]) -> None:
        """A site says something for the first time."""
        kind, number, body = said["kind"], said["round"], said["body"]
        if kind == "weights-ready":
            seal = body["transfer"]["seal"]
            if self._seals.setdefault((site, number, str(said["attempt"])), seal) != seal:
                self._fail(f"{site} masks two updates in round {number} under the same keys")
            if body.get("loss") or body.get("validation"):
                self._fail(f"{site} tells figures of its own in secure round {number}")
        elif kind == "secure-keys":
            whose = (site, number, body["tried"])
            for key in (bytes(body["sealing"]), bytes(body["masking"])):
                if self._keys.setdefault(key, whose) != whose:
                    self._fail(f"{site} uses keys of an earlier try again in round {number}")
        elif kind == "secure-reveal":
            told = self._told[number, str(said["attempt"]).partition("-")[0], body["tried"]]
            told["s"] |= set(body["seeds"])
            told["k"] |= set(body.get("keys") or ())
            if both := sorted(told["s"] & told["k"]):
                self._fail(f"shares of both secrets of {both} are told in round {number}")


def sum_masked(
    model: Arrays, weighed: Mapping[str, int], summed: tuple[str, ...], step_of: Callable[[str], np.float32]
) -> Arrays:
    """The fixed-point sum of what sites make of a model, added to it.

    Args:
        weighed: by site that masks, its weight. summed: whose updates are in the sum.
        step_of: what a site adds to each number.
    """
    context = make_context(Exchange("", "", 1, 1, 3, ()), dict(weighed))
    made: dict[str, NDArray[Any]] = {}
    for name, array in model.items():
        parts: list[NDArray[np.uint32]] = []
        for site in summed:
            words = np.empty(array.size, dtype=np.uint32)
            trained = array + step_of(site).astype(array.dtype)
            quantise_tensor(trained, array, share=find_share(context, site), shrink=1.0, out=words)
            parts.append(words)
        total = parts[0].copy()
        for one in parts[1:]:
            total += one
        made[name] = np.empty_like(array)
        restore_tensor(total, array, find_arrival(context, summed), made[name])
    return made
