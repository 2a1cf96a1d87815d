"""The site's policy, pure: what may use the hospital's data, and what may leave it.

No argument of any function here comes from a message but the experiment that is judged: a message can be refused,
and can weaken nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import date
from fnmatch import fnmatchcase

from messages.abilities import WORDS_5, WORDS_6, is_known
from messages.experiment import Experiment
from messages.kinds import CaseCounts
from messages.reasons import IN_OLDER_WORDS, Reason
from messages.scores import SplitScores
from messages.sections import OWN_TRAINER
from messages.secure.rules import bound_round, margin_of
from messages.secure.section import DifferentialPrivacy
from site_agent.core.budget import Price
from site_agent.core.permissions import Allow, Floors, PolicyConfig

ANY_KEY = "any"
"""In a forecast, before anything is signed: whichever key a rule asks for."""


@dataclass(frozen=True, slots=True)
class PolicyVerdict:
    """Whether an experiment may use this site; `reason` says why not. `by_hand`: the operator approves first.

    `most`: experiments of its researcher that may be open here at a time; None: any number. `signer`: as it was given
    to `judge_experiment`.
    """

    reason: Reason | None = None
    by_hand: bool = False
    most: int | None = None
    signer: str | None = None

    @property
    def allowed(self) -> bool:
        """Whether nothing stands against it."""
        return self.reason is None


def judge_experiment(
    policy: PolicyConfig,
    experiment: Experiment,
    researcher: str,
    site: str,
    datasets: dict[str, set[str]],
    today: date,
    signer: str | None = None,
    trainers: Mapping[str, Collection[str] | None] | None = None,
    budgeted: Collection[str] = (),
) -> PolicyVerdict:
    """Judge an experiment.

    Args:
        researcher: the broker-validated user who published it.
        site: this site's name.
        datasets: the data sets described in site.toml, with the concepts that each one's labels name.
        today: the site's date.
        signer: fingerprint of the key that signed the researcher's event, where it was checked to be theirs; `ANY_KEY`
            in a forecast.
        trainers: name of a trainer that the operator registered → the data sets that it may read; None: any.
        budgeted: data sets with a privacy budget: what is not differentially private cannot be charged to it.
    """
    by_hand = policy.approval == "hand"
    for reason in (
        _not_for_us(experiment, site, today),
        _trainer_missing(experiment, {} if trainers is None else trainers),
        _refused_by_rules(policy, experiment, researcher, today, signer),
        _below_floor(policy.floors, experiment),
        _uncharged(experiment, budgeted),
        _statistics_refused(policy, experiment),
        _data_missing(experiment, datasets),
    ):
        if reason is not None:
            return PolicyVerdict(reason, by_hand, signer=signer)
    return PolicyVerdict(None, by_hand, policy.open_per_researcher, signer)


def _not_for_us(experiment: Experiment, site: str, today: date) -> Reason | None:
    if site not in experiment.sites:
        return Reason.NOT_INVITED
    if experiment.expires is not None and experiment.expires < today:
        return Reason.EXPERIMENT_EXPIRED
    return None


def _trainer_missing(experiment: Experiment, trainers: Mapping[str, Collection[str] | None]) -> Reason | None:
    asked = experiment.training.trainer
    if asked is None:
        return None
    if asked not in trainers:
        return Reason.UNSUPPORTED
    readable = trainers[asked]
    return None if readable is None or experiment.data.dataset in readable else Reason.DATASET_NOT_ALLOWED


def _refused_by_rules(
    policy: PolicyConfig, experiment: Experiment, researcher: str, today: date, signer: str | None
) -> Reason | None:
    """None where some rule fits; otherwise what the rule that came nearest refused."""
    if find_rule(policy, experiment, researcher, today, signer) is not None:
        return None
    misfits = [_first_misfit(rule, experiment, researcher, today, signer) for rule in policy.allow]
    nearest: tuple[int, Reason] = (-1, Reason.NOT_ALLOWED)
    return max((nearest, *(one for one in misfits if one is not None)), key=lambda pair: pair[0])[1]


def find_rule(
    policy: PolicyConfig, experiment: Experiment, researcher: str, today: date, signer: str | None
) -> int | None:
    """Which `[[policy.allow]]` lets an experiment in, counted from 1; 0: the default does; None: nothing does.

    A trainer of the site's own needs a rule that names it, whatever the default.
    """
    if policy.default == "allow" and experiment.training.trainer is None:
        return 0
    fitting = (
        number
        for number, rule in enumerate(policy.allow, start=1)
        if _first_misfit(rule, experiment, researcher, today, signer) is None
    )
    return next(fitting, None)


def _first_misfit(
    rule: Allow, experiment: Experiment, researcher: str, today: date, signer: str | None
) -> tuple[int, Reason] | None:
    """The first key that does not fit, with how many fitted before it."""
    checks = (
        (rule.researchers is None or researcher in rule.researchers, Reason.RESEARCHER_NOT_ALLOWED),
        (_is_signed_by(rule, signer), Reason.RESEARCHER_NOT_ALLOWED),
        (rule.datasets is None or experiment.data.dataset in rule.datasets, Reason.DATASET_NOT_ALLOWED),
        (rule.tasks is None or experiment.task.kind in rule.tasks, Reason.TASK_NOT_ALLOWED),
        (rule.nets is None or experiment.net.name in rule.nets, Reason.NET_NOT_ALLOWED),
        (rule.plans is None or experiment.plan.kind in rule.plans, Reason.PLAN_NOT_ALLOWED),
        (rule.strategies is None or experiment.plan.strategy.name in rule.strategies, Reason.NOT_ALLOWED),
        (rule.codecs is None or experiment.wire.codec in rule.codecs, Reason.CODEC_NOT_ALLOWED),
        ((experiment.training.trainer or OWN_TRAINER) in _named_trainers(rule), Reason.NOT_ALLOWED),
        (rule.rounds_max is None or experiment.rounds.count <= rule.rounds_max, Reason.TOO_MANY_ROUNDS),
        (_has_purpose(rule, experiment.purpose), Reason.PURPOSE_NOT_ALLOWED),
        (bool(experiment.approval.strip()) or not rule.needs_approval_number, Reason.APPROVAL_MISSING),
        (rule.until is None or today <= rule.until, Reason.POLICY_EXPIRED),
    )
    for fitted, (fits, reason) in enumerate(checks):
        if not fits:
            return fitted, reason
    return None


def _is_signed_by(rule: Allow, signer: str | None) -> bool:
    return rule.researcher_keys is None or signer == ANY_KEY or signer in rule.researcher_keys


def _has_purpose(rule: Allow, purpose: str) -> bool:
    """Whether the file's purpose, on one line, matches a pattern of the rule."""
    said = " ".join(purpose.split()).casefold()
    return rule.purposes is None or any(fnmatchcase(said, one.casefold()) for one in rule.purposes)


def _named_trainers(rule: Allow) -> tuple[str, ...]:
    return (OWN_TRAINER,) if rule.trainers is None else rule.trainers


def _below_floor(floors: Floors, experiment: Experiment) -> Reason | None:
    """A floor that this version cannot keep refuses the experiment rather than being passed over."""
    asked = experiment.privacy.secure_aggregation
    if floors.secure_modes and asked not in floors.secure_modes:
        return Reason.PRIVACY_BELOW_FLOOR
    if asked == "masks" and not can_hide(floors, experiment):
        return Reason.PRIVACY_BELOW_FLOOR
    return _below_noise_floor(floors, experiment.privacy.dp)


def _below_noise_floor(floors: Floors, dp: DifferentialPrivacy | None) -> Reason | None:
    """Of differential privacy; how much is spent in the end, `judge_price` says."""
    if dp is None:
        wanted = floors.noise_multiplier_min > 0 or floors.dp_unit is not None or floors.epsilon_max is not None
        return Reason.PRIVACY_BELOW_FLOOR if wanted else None
    fits = (
        dp.noise_multiplier >= floors.noise_multiplier_min
        and (floors.clip_norm_max is None or dp.clip_norm <= floors.clip_norm_max)
        and (floors.dp_unit != "patient" or dp.unit == "patient")
    )
    return None if fits else Reason.PRIVACY_BELOW_FLOOR


def _uncharged(experiment: Experiment, budgeted: Collection[str]) -> Reason | None:
    spends_unseen = experiment.privacy.dp is None and experiment.data.dataset in budgeted
    return Reason.PRIVACY_BELOW_FLOOR if spends_unseen else None


def judge_price(floors: Floors, experiment: Experiment, price: Price) -> Reason | None:
    """Why an experiment may not spend so much here, whatever the ledger has left; None where it may."""
    if floors.epsilon_max is not None and price.epsilon > floors.epsilon_max:
        return Reason.PRIVACY_BELOW_FLOOR
    own = experiment.privacy.dp
    if own is not None and own.epsilon_max is not None and price.epsilon > own.epsilon_max:
        return Reason.PRIVACY_BUDGET_SPENT
    return None


def count_least(floors: Floors, experiment: Experiment) -> int:
    """How many sites of a sum must not collude: as many as the policy asks for, and as add to a shared noise."""
    dp = experiment.privacy.dp
    return max(floors.secure_least_sites, 0 if dp is None else dp.count_adding(experiment.least_sites))


def can_hide(floors: Floors, experiment: Experiment) -> bool:
    """Whether some number of the experiment's sites makes a secure sum that the floors let this site's update into."""
    rule, quorum = experiment.privacy.threshold, experiment.least_sites
    for count in range(quorum, len(experiment.sites) + 1):
        bounds = bound_round(count, rule, quorum)
        counted = count if floors.peers is None else min(count, len(floors.peers) + 1)
        colluding = floors.secure_colluding + count - counted  # who is not pinned is taken to collude
        hidden = counted - floors.secure_colluding >= count_least(floors, experiment)
        if hidden and bounds.possible and margin_of(count, bounds.threshold) > colluding:
            return True
    return False


def _data_missing(experiment: Experiment, datasets: dict[str, set[str]]) -> Reason | None:
    concepts = datasets.get(experiment.data.dataset)
    if concepts is None:
        return Reason.UNKNOWN_DATASET
    return None if set(experiment.task.concepts) <= concepts else Reason.MISSING_CONCEPT


def _statistics_refused(policy: PolicyConfig, experiment: Experiment) -> Reason | None:
    """A site that tells no sums of scores tells no statistics either."""
    may_leave = policy.statistics and policy.floors.share_site_metrics
    return Reason.STATISTICS_NOT_ALLOWED if experiment.measures_first and not may_leave else None


def enough_cases(floors: Floors, experiment: Experiment, counts: CaseCounts) -> Reason | None:
    """Why the site cannot take part with these cases; None where it can."""
    needed = counts.train if experiment.plan.uses_training else counts.validation + counts.test
    if counts.used < max(floors.least_cases, experiment.data.least_cases) or needed < 1:
        return Reason.TOO_FEW_CASES
    if experiment.plan.trains and experiment.count_steps(counts.train) < floors.least_steps:
        return Reason.PRIVACY_BELOW_FLOOR
    if experiment.measures_first and counts.train < find_statistics_floor(floors):
        return Reason.PRIVACY_BELOW_FLOOR  # nothing of its fingerprint could leave
    if counts.found and counts.used / counts.found < experiment.data.least_used_share:
        return Reason.TOO_MANY_LEFT_OUT
    return None


def in_known_words(verdict: PolicyVerdict, abilities: frozenset[str]) -> PolicyVerdict:
    """The verdict in words that a coordinator with these abilities knows."""
    reads = 6 if WORDS_6 in abilities else 5 if WORDS_5 in abilities else 4
    if verdict.reason is None or is_known(verdict.reason, reads):
        return verdict
    return replace(verdict, reason=IN_OLDER_WORDS[verdict.reason])


def find_statistics_floor(floors: Floors) -> int:
    """Cases below which no count of statistics leaves: rounded, fewer would be told as more than there are."""
    return max(floors.least_metric_cases, floors.round_counts_to)


def round_count(floors: Floors, count: int) -> int:
    """A count as it may leave the site; what is there is never told as nothing."""
    step = floors.round_counts_to
    return 0 if count == 0 else max(step, (count + step // 2) // step * step)


def counts_for_sharing(floors: Floors, counts: CaseCounts) -> CaseCounts:
    """Case counts as they may leave the site."""
    return CaseCounts(
        found=round_count(floors, counts.found),
        used=round_count(floors, counts.used),
        left_out={reason: round_count(floors, count) for reason, count in counts.left_out.items()},
        train=round_count(floors, counts.train),
        validation=round_count(floors, counts.validation),
        test=round_count(floors, counts.test),
    )


def scores_for_sharing(floors: Floors, scores: SplitScores) -> SplitScores:
    """Scores as they may leave the site."""
    if not floors.share_site_metrics:
        return SplitScores(cases=round_count(floors, scores.cases), withheld=True)
    shared = scores.for_sharing(floors.least_metric_cases, floors.share_case_metrics)
    return shared.model_copy(update={"cases": round_count(floors, shared.cases)}) if shared.withheld else shared


def loss_for_sharing(floors: Floors, loss: float | None) -> float | None:
    """The training loss as it may leave the site."""
    return loss if floors.share_site_metrics else None
