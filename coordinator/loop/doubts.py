"""Tells in the log where one site's scores contradict the others' (`messages.contradictions`), and whose update stands
out (`messages.outliers`)."""

from __future__ import annotations

import structlog

from coordinator.core import decisions as d
from coordinator.core.checks import lengths_of
from coordinator.core.state import ENDED, ExperimentState, Round
from messages.contradictions import CONTRADICTION_ADVICE, Contradiction, Persistent, find_contradictions
from messages.outliers import UNUSUAL_ADVICE, check_updates
from messages.scores import SplitScores

log = structlog.get_logger("coordinator")


class Doubts:
    """Looks at each model's scores by site. Main loop's thread; a restart forgets what was told."""

    def __init__(self) -> None:
        self._persistent: dict[str, Persistent] = {}

    def note_decision(self, before: ExperimentState | None, decision: d.Decision) -> None:
        """Look at what a decision, made in that state, says of the scores."""
        if before is None or before.round is None:
            return
        reader = before.experiment.task.reader
        if isinstance(decision, d.UpdateLeftOut):
            self._tell_update(before, before.round, decision.site, "an update is not used")
        elif isinstance(decision, d.RoundCompleted):
            self._tell_updates(before, before.round, decision)
            if not before.experiment.plan.shares_model:
                return  # each site has scored another model
            persistent = self._persistent.setdefault(before.id, Persistent())
            found = persistent.take_news(find_contradictions(_validation_of(before.round), reader))
            self._tell_found(before, "validation", found)
        elif isinstance(decision, d.Completed):
            found = find_contradictions(_test_of(before.round, decision.label), reader)
            self._tell_found(before, "test", found)
        if isinstance(decision, d.Completed | d.Failed | d.Aborted) or before.phase in ENDED:
            self._persistent.pop(before.id, None)

    @staticmethod
    def _tell_updates(state: ExperimentState, round_: Round, completed: d.RoundCompleted) -> None:
        """How far each update of a round moved the model, and those that stand out."""
        norms = lengths_of(round_)[0]
        checks = check_updates(dict.fromkeys(completed.contributors, 0.0), norms, completed.cosines)
        log.info(
            "updates of a round",
            experiment=state.id,
            round=completed.number,
            cases=completed.contributors,
            norms={site: float(f"{norm:.4g}") for site, norm in norms.items()},
            cosines={site: round(cosine, 2) for site, cosine in completed.cosines.items()},
        )
        for site, one in checks.items():
            if one.stands_out:
                log.warning(
                    "an update stands out",
                    experiment=state.id,
                    round=completed.number,
                    site=site,
                    times_median=None if one.ratio is None else float(f"{one.ratio:.3g}"),
                    cosine=None if one.cosine is None else round(one.cosine, 2),
                    advice=UNUSUAL_ADVICE,
                )

    @staticmethod
    def _tell_update(state: ExperimentState, round_: Round, site: str, what: str) -> None:
        norms = {name: float(f"{norm:.4g}") for name, norm in lengths_of(round_)[0].items()}
        log.warning(what, experiment=state.id, round=round_.number, site=site, norms=norms)

    @staticmethod
    def _tell_found(state: ExperimentState, split: str, found: tuple[Contradiction, ...]) -> None:
        for one in found:
            log.warning(
                "a site's scores contradict the others'",
                experiment=state.id,
                site=one.site,
                target=one.target,
                split=split,
                score=round(one.mean, 3),
                cases=one.n,
                others=round(one.others, 3),
                advice=CONTRADICTION_ADVICE,
            )


def _validation_of(round_: Round) -> dict[str, SplitScores]:
    """Of the model that the round received: what goes on with an earlier one has scored that."""
    return {
        site: part.update.validation
        for site, part in round_.parts.items()
        if part.update is not None and part.update.validation is not None and part.base is None
    }


def _test_of(round_: Round, label: str) -> dict[str, SplitScores]:
    scored = ((site, (part.scores or {}).get(label)) for site, part in round_.parts.items())
    tested = ((site, dict(one.splits.items()).get("test")) for site, one in scored if one is not None)
    return {site: one for site, one in tested if one is not None}
