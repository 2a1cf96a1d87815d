"""What follows from the record of a secure round: who is in which set, what all must agree on, what can be rebuilt.

The sets are those of Bonawitz et al. 2017: the roster (U1) has told keys, U2 has shared and masks, the updates of U3
are here. Each is what an earlier step of the round left (`Round.earlier`).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from coordinator.core import models
from coordinator.core.state import KEYS, MASKED, SHARES, ExperimentState, Part, Round
from messages.experiment import Experiment
from messages.secure.context import Context, Exchange, Member, make_context, make_exchange
from messages.secure.dealing import Reveal
from messages.secure.pooled import name_candidates
from messages.secure.rules import ThresholdRule, least_in_sum, threshold_of
from messages.secure.unmasking import RebuiltSecrets, rebuild_secrets

EXCHANGE_WITHIN = 600.0
"""Seconds for keys, shares, consents and reveals each, where the file says nothing."""
_Dealt = tuple[tuple[str, bytes], ...]


def rule_of(experiment: Experiment) -> ThresholdRule:
    """How many of a roster reveal, as a word."""
    return experiment.privacy.threshold or "two-thirds"


def within_of(experiment: Experiment) -> float:
    """Deadline of each exchange, seconds."""
    return experiment.privacy.exchange_within or EXCHANGE_WITHIN


def exchange_of(state: ExperimentState, round_: Round) -> Exchange:
    """The try whose keys are here; from SHARES on."""
    keys = round_.earlier[KEYS]
    told = {site: part.answer or {} for site, part in keys.items()}
    return make_exchange(
        experiment=state.digest,
        model=_name_model(state, round_),
        round_number=round_.number,
        attempt=round_.tried,
        threshold=threshold_of(len(keys), rule_of(state.experiment)),
        roster=[Member(site, one["sealing"], one["masking"], one["signer"]) for site, one in told.items()],
    )


def _name_model(state: ExperimentState, round_: Round) -> str:
    if round_.is_scoring:
        return name_candidates({one.label: one.model_digest for one in models.list_candidates(state)})
    return state.models[round_.number].digest


def context_of(state: ExperimentState, round_: Round) -> Context:
    """What masks are made under; from MASKED on."""
    return make_context(exchange_of(state, round_), round_.weighed)


def arrived_in(round_: Round) -> tuple[str, ...]:
    """Whose masked updates are here (U3), by name; from CONSENT on."""
    return tuple(sorted(round_.earlier[MASKED]))


def least_of(state: ExperimentState, round_: Round) -> int:
    """With how many sites a step of a secure round goes on: the quorum's, three, and the threshold of its roster, once
    that is known."""
    known = round_.earlier.get(KEYS)
    threshold = 1 if known is None else threshold_of(len(known), rule_of(state.experiment))
    return least_in_sum(threshold, state.experiment.least_sites)


def threshold_in(state: ExperimentState, round_: Round) -> int:
    """How many consent, and how many reveal; from SHARES on."""
    return threshold_of(len(round_.earlier[KEYS]), rule_of(state.experiment))


def sealed_for(round_: Round, site: str) -> dict[str, bytes]:
    """What each peer of U2 has sealed for a site, by peer; from MASKED on."""
    dealt = round_.earlier[SHARES]
    return {peer: part.answer["shares"][site] for peer, part in sorted(dealt.items()) if peer != site and part.answer}


def count_holders(round_: Round, dealer: str) -> int:
    """How many of U2 hold shares of a dealer's secrets that they could read."""
    return sum((dealer, holder) not in round_.unopened for holder in round_.earlier[SHARES])


def rebuild_from(state: ExperimentState, round_: Round) -> RebuiltSecrets:
    """What the reveals that are here give; in REVEAL."""
    dealt = sorted(round_.earlier[SHARES].items())
    commitments = tuple((site, bytes.fromhex((part.answer or {})["seed"])) for site, part in dealt)
    reveals = tuple(
        (site, _items(part, "seeds"), _items(part, "keys"))
        for site, part in sorted(round_.parts.items())
        if part.answer is not None
    )
    return _rebuild(context_of(state, round_), arrived_in(round_), commitments, reveals)


@lru_cache(maxsize=4)
def _rebuild(
    context: Context, arrived: tuple[str, ...], commitments: _Dealt, reveals: tuple[tuple[str, _Dealt, _Dealt], ...]
) -> RebuiltSecrets:
    """The same again is asked for with each message; the work is some milliseconds a site."""
    told = {site: Reveal(of_seeds=dict(seeds), of_keys=dict(keys)) for site, seeds, keys in reveals}
    return rebuild_secrets(context, arrived, dict(commitments), told)


def _items(part: Part, name: str) -> _Dealt:
    said: Mapping[str, bytes] = (part.answer or {}).get(name, {})
    return tuple(sorted(said.items()))
