"""What is compared: each arm is one way to learn from the same cases. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Norm = Literal["instance", "batch"]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to learn.

    Attributes:
        name: of its folder, and in the experiment's id.
        title: for tables.
        plan: the experiment file's [plan]; None: the pooled cases, which nobody can pool in the field.
        norm: the net's norm layers; None: the study's own.
        visits: whether a round is one site's visit, so that a cycle takes as many rounds as there are sites.
    """

    name: str
    title: str
    plan: Mapping[str, Any] | None = field(default_factory=dict, hash=False)
    norm: Norm | None = None
    visits: bool = False


POOLED = Arm("pooled", "pooled", None)
FEDAVG = Arm("fedavg", "FedAvg", {"strategy": "FedAvg"})
FEDPROX = Arm("fedprox", "FedProx", {"strategy": "FedProx"})
SCAFFOLD = Arm("scaffold", "SCAFFOLD", {"strategy": "SCAFFOLD"})
CYCLIC = Arm("cyclic", "cyclic", {"kind": "sequential"}, visits=True)
ALONE = Arm("alone", "alone", {"kind": "alone"})
ENSEMBLE = Arm("ensemble", "ensemble", {"kind": "ensemble"})
FEDBN = Arm("fedbn", "FedBN, batch norm", {"strategy": "FedBN"}, "batch")
FEDBN_OWN = Arm("fedbn", "FedBN", {"strategy": "FedBN"})
FEDAVG_BN = Arm("fedavg-bn", "FedAvg, batch norm", {"strategy": "FedAvg"}, "batch")
POOLED_BN = Arm("pooled-bn", "pooled, batch norm", None, "batch")

BAR = ("fedavg", "cyclic")
"""The arms that are held against the bar of 0.99: FedAvg, and one named before any test score was read. Cyclic takes as
many steps one after the other as a pooled epoch does, where an average of three sites takes a third."""
