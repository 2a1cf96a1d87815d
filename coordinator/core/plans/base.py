"""What a plan decides: who takes part in the next step, which model each receives, when a step closes, what is made of
it, and when the experiment is done. Pure functions of the state; what they answer is journaled in decisions.

The base class holds what plans have in common: a round for all joined sites, closed by quorum, one model for all. A
plan is a file of its own with a class that changes what it must, and a row in `coordinator.core.plans.table`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.core import decisions as d
from coordinator.core import models, quorum
from coordinator.core.state import EMPTY, SCORES, UPDATES, ExperimentState, Member, Model, Round, StepName
from coordinator.core.steps.base import Decided, left_behind, pool_parts
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.scores import SplitScores


@dataclass(frozen=True, slots=True)
class Opening:
    """A step that is to open.

    Attributes:
        sites: who takes part.
        evaluate: whether they score the model that they receive on their validation cases.
        weights: of an ensemble, by label, which is then what is scored.
        tried: which try of a secure round's exchange; 0: it is no secure round.
        weighed: by site that masks, how much it weighs.
    """

    step: StepName
    sites: tuple[str, ...]
    evaluate: bool
    weights: Mapping[str, float] = field(default_factory=lambda: EMPTY)
    tried: int = 0
    weighed: Mapping[str, int] = field(default_factory=lambda: EMPTY)


class Plan:
    """What plans have in common."""

    steps: tuple[StepName, ...] = (UPDATES,)
    """The steps of a training round, in order; with the last one the round closes."""

    def next_round(self, state: ExperimentState) -> Opening:
        """What opens once the next model is there: a round, or the final evaluation by all joined sites."""
        number = state.completed + 1
        if self.is_trained(state.experiment, state.completed) or _has_stalled(state):
            return Opening(SCORES, state.joined, evaluate=True)
        return Opening(self.steps[0], self.choose_participants(state), is_scored_in(state.experiment, number))

    def choose_participants(self, state: ExperimentState) -> tuple[str, ...]:
        """Who takes part in the round that opens: at least one site."""
        return state.joined

    def is_trained(self, experiment: Experiment, completed: int) -> bool:
        """Whether training is over after so many rounds: then the model is evaluated, and the experiment is done."""
        return completed >= experiment.rounds.count

    def count_cases(self, member: Member) -> int:
        """How many cases a site counts with towards `quorum.least_case_share`."""
        return member.train

    def next_step(self, state: ExperimentState, round_: Round) -> Opening | None:
        """The step that comes after the open one in the same round, for those who have reported; None: the last."""
        later = self.steps[self.steps.index(round_.step) + 1 :] if round_.step in self.steps else ()
        return Opening(later[0], round_.reported, round_.evaluate) if later else None

    def is_enough(self, state: ExperimentState, round_: Round) -> bool:
        """Whether enough has been reported for the open step to close."""
        return quorum.is_met(round_, state.experiment)

    def waits_for_others(self, round_: Round) -> bool:
        """Whether the open step waits for the others, for a while, once enough has been reported."""
        return True

    def waits_for_all(self, round_: Round) -> bool:
        """Whether the open step waits for all others until its deadline, even where enough has been reported."""
        return False

    def try_again(self, state: ExperimentState, round_: Round) -> Opening | None:
        """With whom the round begins anew where the open step's deadline came and too little is here; None: it does
        not."""
        return None

    def list_going_on(self, state: ExperimentState) -> Mapping[str, int]:
        """Who goes on in the round that opens with what it does for an earlier one, and which that is."""
        return EMPTY

    def leave_behind(self, state: ExperimentState, round_: Round) -> tuple[dict[str, Reason], Decided]:
        """Who is left out of a round that closes, with the reason; and what they are told."""
        return left_behind(round_)

    def choose_instead(self, state: ExperimentState, round_: Round, *, again: bool = False) -> Opening | None:
        """Whom the round goes on with where the open step cannot be met; None: it waits for its deadline.

        Args:
            again: the round's deadline is extended, and whoever was left behind in it may be tried once more.
        """
        return None

    def find_shared(self, round_: Round) -> int:
        """Which model the sites receive in a round: the number of the round that it was made for."""
        return round_.number

    def find_own(self, state: ExperimentState, round_: Round, site: str) -> Model | None:
        """The model of its own that a site receives in a round instead; None: it has none."""
        return None

    def choose_contributors(self, state: ExperimentState, round_: Round) -> tuple[str, ...]:
        """Whose updates the next model is made of."""
        return round_.reported

    def end_experiment(self, state: ExperimentState, round_: Round | None, now: float) -> d.Completed:
        """The experiment's end with the model that there is, whatever has been reported of it: the one of the last
        round, or the one of an earlier round whose validation scores are better.

        Args:
            round_: the open one; only an evaluation has scores of the candidates.
        """
        label, rounds = "final", models.final_rounds(state)
        best = state.selected
        if best is not None and best != state.completed:
            reader = state.experiment.task.reader
            final = self.pool_scores(state, round_, "final", "validation")
            final_mean = reader.headline_score(final) if final is not None else None
            best_mean = next(scored.mean for scored in state.scores if scored.rounds == best)
            if final_mean is None or reader.rank_score(best_mean) > reader.rank_score(final_mean):
                label, rounds = "selected", best
        return d.Completed(time=now, label=label, rounds=rounds, test=self.pool_scores(state, round_, label, "test"))

    def pool_scores(self, state: ExperimentState, round_: Round | None, label: str, split: str) -> SplitScores | None:
        """What has been told of a candidate on a split, over all sites; None where nothing was."""
        return None if round_ is None else pool_parts(state, round_.parts, label, split)

    def remember_turns(self, turns: tuple[str, ...], contributors: Iterable[str]) -> tuple[str, ...]:
        """`ExperimentState.turns` after a completed round: what the plan needs to know of earlier rounds."""
        return ()


def _has_stalled(state: ExperimentState) -> bool:
    """Whether as many models in a row as the file has patience for are no better than the best one before them."""
    patience = state.experiment.rounds.patience
    if state.logic < 5 or patience is None or len(state.scores) <= patience:
        return False
    ranks = [state.experiment.task.reader.rank_score(scored.mean) for scored in state.scores]
    return max(ranks[-patience:]) <= max(ranks[:-patience])


def is_scored_in(experiment: Experiment, number: int) -> bool:
    """Whether round `number` scores the model it receives: the one that a multiple of `every` rounds made.

    The initial model is never scored: it has learnt nothing, and scoring costs a pass over the validation cases.
    """
    return number > 1 and (number - 1) % experiment.evaluation.every == 0
