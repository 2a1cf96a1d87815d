"""Every metric by its name on the wire: how it is called, and which values no case can have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A value that a site tells of it is 0 or more; kappa and R² are worked out of others, and may be less.

    Attributes:
        title: as tables, curves and commands call it.
        most: the largest value that a case can have; None where there is no largest.
        nothing_found: whether a false positive (the reference is empty, the prediction not) counts as 0; else it is
            not scored.
        headline: whether it is its task's main one, of which a site may share each case's value (`SplitScores.rows`).
        short: as a line of words calls it; "": as `title`.
        digits: decimals that tell something.
        lacks: which cases have no value of it, though the main metric scores them.
    """

    title: str
    most: float | None = None
    nothing_found: bool = False
    headline: bool = False
    short: str = ""
    digits: int = 3
    lacks: str = "no value"


METRICS: dict[str, Metric] = {
    "dice": Metric("Dice", most=1.0, nothing_found=True, headline=True),
    "auc": Metric("AUC", most=1.0, lacks="cases of one kind only"),
    "accuracy": Metric("accuracy", most=1.0),
    "balanced-accuracy": Metric("balanced accuracy", most=1.0),
    "sensitivity": Metric("sensitivity", most=1.0),
    "specificity": Metric("specificity", most=1.0),
    "kappa": Metric("quadratic weighted kappa"),
    "brier": Metric("Brier score", most=1.0),
    "ece": Metric("expected calibration error", most=1.0, short="ECE"),
    "absolute-error": Metric("mean absolute error", headline=True, digits=2),
    "rmse": Metric("root mean squared error", short="RMSE", digits=2),
    "r2": Metric("R²"),
    "above": Metric("above the centre"),
    "below": Metric("below the centre"),
    "hd95": Metric("95 % Hausdorff distance (mm)", short="HD95 (mm)", digits=1, lacks="only one of the two is empty"),
}
"""A name means the same in each task that has it."""
