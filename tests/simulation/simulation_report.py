"""What many schedules add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from simulation_plan import CRASHES, Act, Stage

Outcomes = list[Mapping[str, Any]]
TOLD = {act.value for act in CRASHES}


def sum_outcomes(found: Outcomes, seed: int, wall: float) -> dict[str, Any]:
    """The figures, as plain types."""
    number = max(1, len(found))
    bad = [one for one in found if one["violations"]]
    cpu = sum(one["cpu"] for one in found)
    return {
        "schedules": len(found),
        "faults": sum(len(one["struck"]) for one in found),
        "rounds": sum(one["rounds"] for one in found),
        "compared": sum(one["compared"] for one in found),
        "masked_rounds": sum(one.get("masked", 0) for one in found),
        "void_rounds": sum(one.get("void", 0) for one in found),
        "signed": sum(one.get("signed", False) for one in found),
        "violations": len(bad),
        "seconds": round(wall, 1),
        "seed": seed,
        "cpu_seconds": round(cpu, 1),
        "per_core_second": round(len(found) / cpu, 2) if cpu else 0.0,
        "mean_sites": round(sum(one["sites"] for one in found) / number, 2),
        "mean_rounds": round(sum(one["rounds"] for one in found) / number, 2),
        "mean_faults": round(sum(len(one["struck"]) for one in found) / number, 2),
        "with_crash": round(sum(_has_crash(one) for one in found) / number, 3),
        "virtual_hours": round(sum(one["seconds"] for one in found) / 3600, 1),
        "starts": sum(one["starts"] for one in found),
        "ended": dict(Counter(one["ended"] for one in found)),
        "violated": [{"seed": one["seed"], "violations": one["violations"]} for one in bad],
    }


def _has_crash(one: Mapping[str, Any]) -> bool:
    return any(act in TOLD for act, _stage in one["struck"])


def write_table(found: Outcomes) -> Iterable[str]:
    """Fault × stage: how often one met the other."""
    met = Counter((act, stage) for one in found for act, stage in one["struck"])
    stages = [stage.value for stage in Stage]
    yield f"{'':>32}" + "".join(f"{stage[:12]:>14}" for stage in stages)
    for act in Act:
        yield f"{act.value:>32}" + "".join(f"{met[act.value, stage]:>14}" for stage in stages)
    least = min((met[act.value, stage], act.value, stage) for act in Act for stage in stages)
    yield f"least: {least[0]} ({least[1]}, {least[2]})"
