"""The site's policy: default deny, a code for each refusal, and nothing that a message could weaken."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from messages.experiment import Experiment
from messages.kinds import CaseCounts
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores
from site_agent.core import policy
from site_agent.core.permissions import Floors, PolicyConfig
from site_agent.desk.secure_words import say_secure

TODAY = date(2026, 5, 1)
DATASETS = {"glioma": {"NCR", "ED", "ET"}}
ALLOW: dict[str, Any] = {
    "researchers": ["dr-a"],
    "datasets": ["glioma"],
    "tasks": ["segmentation"],
    "nets": ["UNet"],
    "strategies": ["FedAvg"],
    "codecs": ["float32"],
    "rounds_max": 600,
    "until": date(2027, 12, 31),
}


def experiment(**changes: Any) -> Experiment:
    plain: dict[str, Any] = {
        "schema": 1,
        "id": "e",
        "sites": ["site-a"],
        "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ET", "ED"]}},
        "data": {"dataset": "glioma", "least_cases": 20, "least_used_share": 0.9},
        "net": {"name": "UNet"},
        "rounds": {"count": 500},
    }
    return Experiment.model_validate({**plain, **changes})


def verdict(config: dict[str, Any], *, researcher: str = "dr-a", site: str = "site-a", **changes: Any) -> Reason | None:
    parsed = PolicyConfig.model_validate(config)
    return policy.judge_experiment(parsed, experiment(**changes), researcher, site, DATASETS, TODAY).reason


def test_what_every_key_allows_is_allowed() -> None:
    assert verdict({"allow": [ALLOW]}) is None


def test_a_site_without_rules_denies() -> None:
    assert verdict({}) is Reason.NOT_ALLOWED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"researchers": ["dr-b"]}, Reason.RESEARCHER_NOT_ALLOWED),
        ({"datasets": ["spleen"]}, Reason.DATASET_NOT_ALLOWED),
        ({"tasks": ["classification"]}, Reason.TASK_NOT_ALLOWED),
        ({"nets": ["VNet"]}, Reason.NET_NOT_ALLOWED),
        ({"strategies": ["FedProx", "SCAFFOLD"]}, Reason.NOT_ALLOWED),
        ({"codecs": ["bfloat16", "bfloat16-difference"]}, Reason.CODEC_NOT_ALLOWED),
        ({"rounds_max": 499}, Reason.TOO_MANY_ROUNDS),
        ({"until": date(2026, 4, 30)}, Reason.POLICY_EXPIRED),
    ],
)
def test_each_key_that_does_not_fit_has_its_own_code(change: dict[str, Any], reason: Reason) -> None:
    assert verdict({"allow": [{**ALLOW, **change}]}) is reason


def test_one_rule_that_fits_is_enough_and_rules_do_not_mix() -> None:
    other = {**ALLOW, "researchers": ["dr-b"]}
    assert verdict({"allow": [other, ALLOW]}) is None
    assert verdict({"allow": [{**ALLOW, "nets": ["VNet"]}, other]}) is Reason.NET_NOT_ALLOWED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sites": ["site-b"]}, Reason.NOT_INVITED),
        ({"expires": date(2026, 4, 30)}, Reason.EXPERIMENT_EXPIRED),
        ({"data": {"dataset": "spleen"}}, Reason.UNKNOWN_DATASET),
        (
            {"task": {"kind": "segmentation", "channels": ["T1"], "regions": {"RC": ["RC"]}}},
            Reason.MISSING_CONCEPT,
        ),
    ],
)
def test_what_this_site_cannot_do_is_refused_even_where_all_is_allowed(changes: dict[str, Any], reason: Reason) -> None:
    assert verdict({"default": "allow"}, **changes) is reason


@pytest.mark.parametrize("floors", [{"secure_aggregation": True}, {"noise_multiplier_min": 0.1}])
def test_a_floor_that_cannot_be_kept_refuses(floors: dict[str, Any]) -> None:
    assert verdict({"allow": [ALLOW], "floors": floors}) is Reason.PRIVACY_BELOW_FLOOR


THREE = ["site-a", "site-b", "site-c"]
MASKS: dict[str, Any] = {"sites": THREE, "quorum": {"least_sites": 3}, "privacy": {"secure_aggregation": "masks"}}
PINNED = [number * 32 for number in ("01", "02", "03")]


@pytest.mark.parametrize(
    ("floors", "changes", "allowed"),
    [
        ({"secure_aggregation": True}, MASKS, True),
        ({"secure_aggregation": ["masks"]}, MASKS, True),
        ({"secure_aggregation": ["bfv"]}, MASKS, False),
        ({"secure_aggregation": ["masks", "bfv"]}, {}, False),
        ({"secure_aggregation": False}, {}, True),
        ({}, MASKS, True),
        ({"secure_least_sites": 3}, MASKS, False),
        ({"secure_least_sites": 3, "secure_colluding": 0}, MASKS, True),
        ({"secure_colluding": 2}, MASKS, False),
        ({}, {**MASKS, "privacy": {"secure_aggregation": "masks", "threshold": "majority"}}, False),
        (
            {"secure_colluding": 0},
            {**MASKS, "privacy": {"secure_aggregation": "masks", "threshold": "majority"}},
            True,
        ),
        ({"peers": PINNED[:2]}, MASKS, True),
        ({"peers": PINNED[:1]}, MASKS, False),
    ],
)
def test_a_secure_sum_has_to_hide_the_site_as_its_floors_ask(
    floors: dict[str, Any], changes: dict[str, Any], *, allowed: bool
) -> None:
    found = verdict({"allow": [ALLOW], "floors": floors}, **changes)
    assert found is (None if allowed else Reason.PRIVACY_BELOW_FLOOR)


SHARED: dict[str, Any] = {
    "training": {"local_steps": 1, "optimizer": {"name": "SGD", "momentum": 0.0}}, "plan": {"weight_by": "equal"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("floors", "colluding", "allowed"),
    [
        ({"secure_colluding": 0}, 0, True),
        ({"secure_colluding": 1}, 0, False),
        ({"secure_colluding": 1}, 1, True),
        ({"secure_colluding": 0, "peers": PINNED[:1]}, 0, False),
    ],
)
def test_as_many_sites_as_share_the_noise_must_not_be_those_that_may_collude(
    floors: dict[str, Any], colluding: int, *, allowed: bool
) -> None:
    dp = {"noise_multiplier": 1.5, "clip_norm": 1.0, "sample_rate": 0.2, "noise": "shared", "colluding": colluding}
    changes = {**MASKS, **SHARED, "privacy": {"secure_aggregation": "masks", "dp": dp}}
    found = verdict({"allow": [ALLOW], "floors": {"secure_least_sites": 2} | floors}, **changes)
    assert found is (None if allowed else Reason.PRIVACY_BELOW_FLOOR)


@pytest.mark.parametrize(
    ("floors", "sites", "words"),
    [
        ({}, 3, "sums over 3 sites or more, and of this site's own update, loss and scores nothing unless 2 other"),
        ({"secure_colluding": 0, "secure_least_sites": 2}, 4, "unless 2 other sites help it"),
        ({"peers": PINNED[:2]}, 3, "2 pinned peers count, all others as helpers"),
        ({"secure_least_sites": 3}, 3, "policy.floors lets this site into no such sum"),
    ],
)
def test_a_secure_round_is_told_in_words(floors: dict[str, Any], sites: int, words: str) -> None:
    named = [f"site-{letter}" for letter in "abcdef"[:sites]]
    told = say_secure(Floors.model_validate(floors), experiment(**{**MASKS, "sites": named}))
    assert told is not None
    assert words in told
    assert say_secure(Floors(), experiment()) is None


def test_an_empty_list_of_modes_is_a_mistake_in_one_line() -> None:
    with pytest.raises(ValidationError, match="an empty list lets nothing in"):
        PolicyConfig.model_validate({"floors": {"secure_aggregation": []}})


def test_what_no_floor_says_is_not_in_the_policy_that_is_committed_to() -> None:
    plain = PolicyConfig.model_validate({"floors": {"secure_aggregation": True}}).model_dump(mode="json")["floors"]
    assert plain["secure_aggregation"] is True
    assert not {"secure_least_sites", "secure_colluding", "peers"} & plain.keys()


@given(
    researcher=st.sampled_from(["dr-a", "dr-b", "x"]),
    rounds=st.integers(1, 1000),
    privacy=st.sampled_from([{}, {"secure_aggregation": False}]),
    rules=st.lists(st.fixed_dictionaries({"researchers": st.just(["dr-b"]), "rounds_max": st.integers(1, 600)})),
)
def test_no_experiment_is_allowed_unless_a_rule_names_its_researcher(
    researcher: str, rounds: int, privacy: dict[str, Any], rules: list[dict[str, Any]]
) -> None:
    config = PolicyConfig.model_validate({"allow": rules})
    wanted = experiment(rounds={"count": rounds}, privacy=privacy)
    found = policy.judge_experiment(config, wanted, researcher, "site-a", DATASETS, TODAY)
    fits = researcher == "dr-b" and any(rounds <= rule["rounds_max"] for rule in rules)
    assert found.allowed == fits


def counts(found: int, used: int, train: int) -> CaseCounts:
    return CaseCounts(found=found, used=used, train=train, validation=0, test=used - train)


@pytest.mark.parametrize(
    ("found", "used", "train", "reason"),
    [
        (30, 30, 20, None),
        (19, 19, 19, Reason.TOO_FEW_CASES),
        (30, 30, 0, Reason.TOO_FEW_CASES),
        (30, 26, 20, Reason.TOO_MANY_LEFT_OUT),
    ],
)
def test_too_few_or_too_many_left_out_cases_decline(found: int, used: int, train: int, reason: Reason | None) -> None:
    assert policy.enough_cases(Floors(), experiment(), counts(found, used, train)) is reason


def test_an_evaluation_needs_cases_to_score_and_none_to_train_on() -> None:
    net, rounds = {"name": "UNet", "from": "sha256:" + "0" * 64}, {"count": 0}
    scored = experiment(net=net, rounds=rounds, plan={"kind": "evaluation"})
    assert policy.enough_cases(Floors(), scored, counts(30, 30, 0)) is None
    assert policy.enough_cases(Floors(), scored, counts(30, 30, 30)) is Reason.TOO_FEW_CASES


def test_the_sites_floor_of_cases_holds_over_a_lower_one_of_the_experiment() -> None:
    assert policy.enough_cases(Floors(least_cases=31), experiment(), counts(30, 30, 20)) is Reason.TOO_FEW_CASES


def scores(cases: int) -> SplitScores:
    region = ScoreSums(n=cases, sum=0.5 * cases, squares=0.25 * cases)
    return SplitScores(cases=cases, metrics={"dice": {"WT": region}}, rows=[{"WT": 0.5}] * cases)


@given(cases=st.integers(0, 40), floor=st.integers(1, 20), rows=st.booleans(), metrics=st.booleans())
def test_scores_leave_only_as_far_as_the_floors_let_them(cases: int, floor: int, rows: bool, metrics: bool) -> None:
    floors = Floors(least_metric_cases=floor, share_case_metrics=rows, share_site_metrics=metrics)
    shared = policy.scores_for_sharing(floors, scores(cases))
    told = metrics and cases >= floor
    assert shared.withheld == (not told)
    assert bool(shared.metrics) == told
    assert (shared.rows is not None) == (told and rows)


@given(count=st.integers(0, 10_000), step=st.integers(1, 50))
def test_counts_leave_as_multiples_and_never_turn_into_nothing(count: int, step: int) -> None:
    told = policy.round_count(Floors(round_counts_to=step), count)
    assert told % step == 0
    assert (told == 0) == (count == 0)
    assert count == 0 or abs(told - count) < step


def test_a_site_that_shares_no_metrics_tells_no_loss_either() -> None:
    assert policy.loss_for_sharing(Floors(share_site_metrics=False), 0.5) is None
    assert policy.loss_for_sharing(Floors(), 0.5) == 0.5


KEY = "a" * 64


@pytest.mark.parametrize(
    ("rule", "file", "reason"),
    [
        ({"plans": ["sequential", "evaluation"]}, {}, Reason.PLAN_NOT_ALLOWED),
        ({"plans": ["aggregation"]}, {}, None),
        ({"needs_approval_number": True}, {}, Reason.APPROVAL_MISSING),
        ({"needs_approval_number": True}, {"approval": "  "}, Reason.APPROVAL_MISSING),
        ({"needs_approval_number": True}, {"approval": "EC-2027-014"}, None),
        ({"purposes": ["glioma segmentation"]}, {}, Reason.PURPOSE_NOT_ALLOWED),
        ({"purposes": ["glioma segmentation"]}, {"purpose": "Glioma  segmentation\n"}, None),
        ({"purposes": ["glioma *"]}, {"purpose": "Stroke"}, Reason.PURPOSE_NOT_ALLOWED),
        ({"purposes": ["stroke", "*glioma*"]}, {"purpose": "Segmentation of gliomas"}, None),
        ({"purposes": []}, {"purpose": "glioma"}, Reason.PURPOSE_NOT_ALLOWED),
    ],
)
def test_a_rule_may_ask_for_plan_purpose_and_approval(
    rule: dict[str, Any], file: dict[str, Any], reason: Reason | None
) -> None:
    assert verdict({"allow": [{**ALLOW, **rule}]}, **file) is reason


@pytest.mark.parametrize(
    ("signer", "reason"),
    [
        (None, Reason.RESEARCHER_NOT_ALLOWED),
        ("b" * 64, Reason.RESEARCHER_NOT_ALLOWED),
        (KEY, None),
        (policy.ANY_KEY, None),
    ],
)
def test_a_rule_for_a_key_fits_only_what_that_key_has_signed(signer: str | None, reason: Reason | None) -> None:
    config = PolicyConfig.model_validate({"allow": [{**ALLOW, "researcher_keys": [KEY]}]})
    said = policy.judge_experiment(config, experiment(), "dr-a", "site-a", DATASETS, TODAY, signer)
    assert (said.reason, said.signer) == (reason, signer)


def test_a_message_cannot_stand_for_any_key() -> None:
    with pytest.raises(ValueError, match="pattern"):
        PolicyConfig.model_validate({"allow": [{"researcher_keys": [policy.ANY_KEY]}]})


def test_an_update_of_too_few_steps_is_below_the_floor() -> None:
    counts = CaseCounts(found=30, used=30, train=21, validation=3, test=6)
    floors = Floors(least_steps=11)  # one epoch over 21 cases in batches of 2 has 11 steps
    assert policy.enough_cases(floors, experiment(), counts) is None
    assert policy.enough_cases(Floors(least_steps=12), experiment(), counts) is Reason.PRIVACY_BELOW_FLOOR
    assert policy.enough_cases(floors, experiment(training={"local_steps": 10}), counts) is Reason.PRIVACY_BELOW_FLOOR


def test_a_coordinator_that_lacks_a_word_is_told_an_older_one() -> None:
    said = policy.PolicyVerdict(Reason.PURPOSE_NOT_ALLOWED)
    assert policy.in_known_words(said, frozenset({"words-5"})).reason is Reason.PURPOSE_NOT_ALLOWED
    assert policy.in_known_words(said, frozenset({"words-4"})).reason is Reason.NOT_ALLOWED
    assert policy.in_known_words(policy.PolicyVerdict(), frozenset()).allowed


FOREIGN: dict[str, Any] = {
    "task": {"kind": "regression", "channels": ["a"], "quantity": "age"},
    "net": {"name": "Tensors", "tensors": [{"name": "w", "shape": [1]}]},
    "training": {"trainer": "sgd"},
}


def foreign(config: dict[str, Any], *, known: dict[str, tuple[str, ...] | None] | None = None) -> Reason | None:
    parsed = PolicyConfig.model_validate(config)
    trainers = {"sgd": None} if known is None else known
    given = experiment(**FOREIGN)
    return policy.judge_experiment(parsed, given, "dr-a", "site-a", DATASETS, TODAY, trainers=trainers).reason


def test_a_trainer_of_the_sites_own_needs_a_rule_that_names_it() -> None:
    named = {"researchers": ["dr-a"], "trainers": ["sgd"]}
    assert foreign({"allow": [named]}) is None
    assert foreign({"allow": [{"researchers": ["dr-a"]}]}) is Reason.NOT_ALLOWED
    assert foreign({"allow": [named | {"trainers": ["konsil"]}]}) is Reason.NOT_ALLOWED
    assert foreign({"allow": [named | {"trainers": []}]}) is Reason.NOT_ALLOWED
    assert foreign({"default": "allow"}) is Reason.NOT_ALLOWED
    assert foreign({"default": "allow", "allow": [named]}) is None


def test_a_rule_for_a_trainer_of_the_sites_own_does_not_let_konsils_in() -> None:
    assert verdict({"allow": [{"trainers": ["sgd"]}]}) is Reason.NOT_ALLOWED
    assert verdict({"allow": [{"trainers": ["sgd", "konsil"]}]}) is None
    assert verdict({"allow": [{"trainers": ["sgd"]}], "default": "allow"}) is None


def test_a_trainer_that_the_site_does_not_have_is_not_supported() -> None:
    rule = {"trainers": ["sgd"]}
    assert foreign({"allow": [rule]}, known={"other": None}) is Reason.UNSUPPORTED
    assert foreign({"allow": [rule]}, known={"sgd": ("other",)}) is Reason.DATASET_NOT_ALLOWED
    assert foreign({"allow": [rule]}, known={"sgd": ("glioma",)}) is None


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({}, None),
        ({"statistics": False}, Reason.STATISTICS_NOT_ALLOWED),
        ({"floors": {"share_site_metrics": False}}, Reason.STATISTICS_NOT_ALLOWED),
    ],
)
def test_statistics_are_told_where_the_policy_lets_them(keys: dict[str, Any], reason: Reason | None) -> None:
    assert verdict({"default": "allow", **keys}, net={"name": "auto"}) is reason
    assert verdict({"default": "allow", **keys}) is None, "an experiment that names its net asks for none"


def test_a_site_with_fewer_training_cases_than_its_floor_does_not_take_part_in_statistics() -> None:
    chosen = experiment(net={"name": "auto"}, data={"dataset": "glioma"})
    assert policy.enough_cases(Floors(), chosen, counts(10, 10, 4)) is Reason.PRIVACY_BELOW_FLOOR
    assert policy.enough_cases(Floors(), chosen, counts(10, 10, 5)) is None
