"""Segmentation: each voxel belongs to regions, which are unions of concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from messages.ground.strictness import StrictModel, at_most
from messages.scores import MOST_TARGETS, ScoreSums, SplitScores, Target, sum_scores
from messages.tasks.base import Concept, Reading, ScoreReader, ScoreTable, Split, Task, TaskRows
from messages.tasks.losses import LossTable


class RegionRow(StrictModel):
    """One case, one region: Dice in 3-D on the native grid.

    Attributes:
        dice: None where reference and prediction are both empty (left out and counted); 0 where only the
            reference is empty (a false positive).
        hd95: 95th percentile of the surface distance in mm; None unless asked for and both are non-empty. A distance to
            nothing is none: such a case is left out of the mean, and the count of them stands beside it
            (docs/protocol.md, rule of evaluation 3). Its Dice is 0 all the same.
    """

    dice: Annotated[float, Field(ge=0, le=1)] | None
    reference_empty: bool
    prediction_empty: bool
    hd95: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _one_case_can_have_it(self) -> Self:
        if (self.dice is None) != (self.reference_empty and self.prediction_empty):
            raise ValueError("dice is None where both are empty, and only there")
        if self.reference_empty and (self.dice or self.hd95 is not None):
            raise ValueError("where the reference is empty there is nothing to overlap with, and no distance")
        return self


class CaseRow(StrictModel):
    """One case's scores. `case` is its local name: it stays at the site.

    Attributes:
        failed: the case could not be scored; counted, never skipped. `regions` is empty then.
    """

    case: str
    failed: bool = False
    regions: dict[Target, RegionRow]


class SplitRows(TaskRows):
    """`hd95` tells whether that metric was asked for."""

    cases: list[CaseRow]
    hd95: bool = False

    def scores(self) -> SplitScores:
        scored = [case.regions for case in self.cases if not case.failed]
        failed = len(self.cases) - len(scored)
        regions = list(dict.fromkeys(region for case in scored for region in case))
        metrics = {
            "dice": {
                region: sum_scores(
                    [case[region].dice for case in scored],
                    reference_empty=[case[region].reference_empty for case in scored],
                    failed=failed,
                )
                for region in regions
            }
        }
        if self.hd95:
            metrics["hd95"] = {region: self._sum_distances(region, scored, failed) for region in regions}
        rows = [
            {region: case.regions[region].dice if region in case.regions else None for region in regions}
            for case in self.cases
        ]
        return SplitScores(cases=len(self.cases), metrics=metrics, rows=rows)

    @staticmethod
    def _sum_distances(region: str, scored: list[dict[str, RegionRow]], failed: int) -> ScoreSums:
        rows = [case[region] for case in scored]
        score = sum_scores(
            [row.hd95 for row in rows], reference_empty=[row.reference_empty for row in rows], failed=failed
        )
        # A distance exists only where neither is empty: `both_empty` means what it says here too.
        both = sum(row.reference_empty and row.prediction_empty for row in rows)
        return score.model_copy(update={"both_empty": both})


@dataclass(frozen=True)
class SegmentationReader(ScoreReader):
    """Dice by region; means over cases, then over regions (docs/protocol.md, rule of evaluation 4)."""

    metric: ClassVar[str] = "dice"
    metrics: ClassVar[tuple[str, ...]] = ("dice", "hd95")
    target: ClassVar[str] = "region"
    plural: ClassVar[str] = "regions"

    def detail_table(self, scores: SplitScores) -> ScoreTable:
        """Cases scored, left out, false positives, failures (rule 3)."""
        dice = scores.metrics.get("dice", {})
        rows = [
            (
                region,
                score.n,
                score.mean,
                score.std,
                score.mean_nonempty,
                score.both_empty,
                f"{score.false_positive} of {score.reference_empty}",
                score.failed,
            )
            for region in self.targets
            if (score := dice.get(region)) is not None
        ]
        head = ("mean", "SD", "mean, reference not empty", "both empty, left out", "false positive", "failed")
        return ScoreTable("Dice by region over all test cases", ("region", "n", *head), tuple(rows))


class SegmentationTask(Task):
    """Regions are named unions of concepts, never a site's integers."""

    kind: Literal["segmentation"]
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    regions: Annotated[dict[Concept, Annotated[tuple[Concept, ...], at_most(64)]], at_most(MOST_TARGETS)] = Field(
        min_length=1
    )

    came_with: ClassVar[int] = 0
    losses: ClassVar[tuple[str, ...]] = ("dice+bce", "dice+ce")
    rows: ClassVar[type[TaskRows]] = SplitRows
    reader_type: ClassVar[type[ScoreReader]] = SegmentationReader

    @classmethod
    def choose_defaults(cls, content: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """The loss follows the activation; 0.1 refused softmax without a word on the loss, so no digest changes."""
        return {"training": {"loss": "dice+ce"}} if content["task"].get("activation") == "softmax" else cls.defaults

    @property
    def concepts(self) -> tuple[str, ...]:
        """Every concept that some region names, sorted."""
        return tuple(sorted({concept for members in self.regions.values() for concept in members}))

    @property
    def targets(self) -> tuple[str, ...]:
        """The regions, in the file's order."""
        return tuple(self.regions)

    @property
    def out_channels(self) -> int:
        """One a region for sigmoid, background first for softmax."""
        return len(self.regions) + (self.activation == "softmax")

    @model_validator(mode="after")
    def _regions_fit_the_activation(self) -> Self:
        members = [concept for region in self.regions.values() for concept in region]
        if any(not region for region in self.regions.values()):
            raise ValueError("every region names at least one concept")
        if self.activation == "softmax" and len(members) != len(set(members)):
            raise ValueError('regions that overlap need activation = "sigmoid"')
        return self

    def find_misfit(self, *, loss: LossTable, metrics: Sequence[str], select_by: str) -> str | None:
        """The loss goes with the activation."""
        if loss.name == "dice+bce" and self.activation == "softmax":
            return 'training.loss: "dice+bce" goes with sigmoid, "dice+ce" with softmax'
        if loss.name == "dice+ce" and self.activation == "sigmoid":
            return 'training.loss: "dice+ce" goes with softmax, "dice+bce" with sigmoid'
        return super().find_misfit(loss=loss, metrics=metrics, select_by=select_by)

    @property
    def reading(self) -> Reading:
        return self.activation

    def describe_outputs(self) -> dict[str, Any]:
        plain = self.model_dump(mode="json")
        return {"regions": plain["regions"], "activation": plain["activation"]}

    def rehearse_split(self, split: Split, cases: int) -> TaskRows:
        row = RegionRow(dice=0.5, reference_empty=False, prediction_empty=False)
        regions = dict.fromkeys(self.regions, row)
        return SplitRows(split=split, cases=[CaseRow(case=f"{split}-{n}", regions=regions) for n in range(cases)])
