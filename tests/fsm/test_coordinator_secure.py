"""Secure rounds in the coordinator's core, with its worker and sites that are no services (Bonawitz et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from secure_run import MODEL, NAMES, SecureRun, carry_out, mean_of, restore_plainly

from coordinator.core import announce, effects
from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.checks import judge_pooled
from coordinator.core.records import ModelOrigin
from coordinator.core.state import SCORING, Phase, Timer
from messages import kinds
from messages.kinds import SecureReveal
from messages.reasons import Reason
from messages.scores import SplitScores
from nets.digest import arrays_digest

Make = Callable[..., SecureRun]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    carry_out(monkeypatch)
    return lambda *sites, **changes: SecureRun(tmp_path, sites or NAMES[:4], **changes)


def test_a_round_has_five_steps_and_its_model_is_the_mean_of_what_nobody_saw(make: Make) -> None:
    run = make()
    assert [run.step() for _ in range(5)] == ["keys", "shares", "masked", "consent", "reveal"]
    assert run.now.phase is Phase.AGGREGATING
    made = run.aggregate()
    assert isinstance(made, i.Aggregated)
    for name, expected in mean_of(run, 1, run.names).items():
        np.testing.assert_allclose(run.model(2)[name], expected, rtol=0, atol=1e-6)
    assert made.pooled is not None
    assert (made.pooled.cases, made.pooled.loss) == (100, 0.5)
    (told,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert told.contributors == {"site-a": 10, "site-b": 20, "site-c": 30, "site-d": 40}
    assert (run.round.number, run.round.step) == (2, "keys")


GAPS = {"keys": "BCDE", "shares": "BCDE", "masked": "BCDE", "consent": "ABCDE", "reveal": "ABCDE"}
"""Step before which site-a is lost → whose updates are in the sum."""


@pytest.mark.parametrize("gap", GAPS)
def test_a_site_lost_in_any_gap_leaves_the_plain_sum_of_those_whose_updates_came(make: Make, gap: str) -> None:
    run = make(*NAMES, least=4)
    run.lose("site-a", gap)
    sites = [f"site-{letter.lower()}" for letter in GAPS[gap]]
    assert run.now.phase is Phase.AGGREGATING
    run.aggregate()
    (made,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert sorted(made.contributors) == sites
    assert ("site-a" in made.left_out) == (gap in ("keys", "shares", "masked"))
    for name, expected in restore_plainly(run, sites).items():
        np.testing.assert_array_equal(run.model(2)[name], expected)


def reasons_of(decided: tuple[d.AnyDecision, ...]) -> list[Reason]:
    return [one.reason for one in decided if isinstance(one, d.Refused)]


def test_too_few_keys_or_shares_are_tried_again_three_times_and_then_the_round_is_void(make: Make) -> None:
    run = make()
    for tried, step in enumerate(("keys", "shares", "keys"), 1):
        assert (run.round.step, run.round.tried) == ("keys", tried)
        start = announce.round_opened(run.now)
        assert isinstance(start.body, kinds.RoundStart)
        assert start.body.secure is not None
        assert start.body.secure.tried == tried
        run.until(step)
        run.step("site-a", "site-b")
        run.fire(Timer.DEADLINE)
    (void,) = [one for one in run.decided if isinstance(one, d.RoundVoided)]
    assert (void.number, void.reason) == (1, Reason.QUORUM_NOT_MET)
    assert (run.round.number, run.round.tried, run.round.step) == (2, 1, "keys")
    assert run.now.models[2] == run.now.models[1], "the model goes on"
    (told,) = [one.what for one in effects.effects(run.now, void) if isinstance(one, effects.Announce)]
    assert isinstance(told.body, kinds.RoundVoid)
    assert told.body.model_digest == run.now.models[1].digest


def test_another_try_takes_in_who_was_late_and_draws_new_keys(make: Make) -> None:
    run = make()
    run.step("site-a")
    run.fire(Timer.DEADLINE)
    assert (run.round.step, sorted(run.round.parts)) == ("shares", ["site-b", "site-c", "site-d"])
    run.step("site-b")
    run.fire(Timer.DEADLINE)
    assert (run.round.step, run.round.tried, sorted(run.round.parts)) == ("keys", 2, sorted(run.names))
    assert not run.round.left_out
    run.step()
    late = kinds.SecureKeys(tried=1, sealing=b"\x05" * 32, masking=b"\x06" * 32)
    assert reasons_of(run.tell("site-a", late, attempt=9)) == [Reason.LATE]
    for _ in range(4):
        run.step()
    assert isinstance(run.aggregate(), i.Aggregated)


def test_three_rounds_in_a_row_without_a_sum_end_the_experiment(make: Make) -> None:
    run = make(rounds={"count": 9, "at_deadline": "fail"})
    for _ in range(3):
        run.until("masked")
        run.fire(Timer.DEADLINE)
    assert run.now.phase is Phase.FAILED
    assert run.now.reason is Reason.ROUND_VOID


def test_a_round_with_a_sum_forgives_those_without(make: Make) -> None:
    run = make(rounds={"count": 9, "at_deadline": "fail"})
    for _ in range(2):
        run.until("masked")
        run.fire(Timer.DEADLINE)
    assert run.now.voided == 2
    run.whole_round()
    assert (run.now.voided, run.now.completed) == (0, 3)


@pytest.mark.parametrize("step", ["consent", "reveal"])
def test_fewer_consents_or_reveals_than_the_threshold_are_waited_for_and_then_void(make: Make, step: str) -> None:
    run = make()
    run.until(step)
    run.step("site-a", "site-b")
    run.fire(Timer.DEADLINE)
    assert run.round.extensions == 1
    assert run.round.step == step
    run.fire(Timer.DEADLINE)
    run.fire(Timer.DEADLINE)
    (void,) = [one for one in run.decided if isinstance(one, d.RoundVoided)]
    assert void.reason is Reason.QUORUM_NOT_MET


def test_a_masked_update_that_comes_late_is_neither_taken_nor_stored(make: Make) -> None:
    run = make()
    run.until("masked")
    opened = announce.round_opened(run.now).body
    assert isinstance(opened, kinds.SecureMasking)
    run.step("site-a")
    run.fire(Timer.GRACE)
    (started,) = [one for one in run.decided if isinstance(one, d.RoundStarted) and one.step == "consent"]
    assert any(isinstance(one, effects.Forget) for one in effects.effects(run.now, started))
    ready, _raw = run.sites["site-a"].hear_masking(opened, run.model(1))
    assert reasons_of(run.tell("site-a", ready)) == [Reason.LATE]
    assert ready.transfer.seal not in effects.needed_blobs(run.now)


def test_a_site_that_tells_its_own_loss_beside_its_masked_update_is_refused(make: Make) -> None:
    run = make()
    run.until("masked")
    opened = announce.round_opened(run.now).body
    assert isinstance(opened, kinds.SecureMasking)
    ready, _raw = run.sites["site-a"].hear_masking(opened, run.model(1))
    assert reasons_of(run.tell("site-a", ready.model_copy(update={"loss": 0.5}))) == [Reason.MALFORMED]


def test_keys_that_are_not_signed_or_no_two_fresh_keys_are_refused(make: Make) -> None:
    run = make()
    start = announce.round_opened(run.now).body
    assert isinstance(start, kinds.RoundStart)
    said = {site: one.hear_start(1, start) for site, one in run.sites.items()}
    assert reasons_of(run.tell("site-a", said["site-a"], key=False)) == [Reason.SIGNATURE_MISSING]
    run.tell("site-a", said["site-a"])
    for wrong in (
        {"sealing": said["site-a"].masking},
        {"masking": said["site-b"].sealing},
        {"masking": bytes(32)},
        {"masking": b"\xff" * 32},
    ):
        decided = run.tell("site-b", said["site-b"].model_copy(update=wrong))
        assert reasons_of(decided) == [Reason.MALFORMED], wrong


def test_a_share_that_does_not_fit_names_its_holder_and_others_are_waited_for(make: Make) -> None:
    run = make()
    run.until("reveal")
    opened = announce.round_opened(run.now)
    bad = run.sites["site-a"].answer(opened.body, 1)
    assert isinstance(bad, SecureReveal)
    wrong = {dealer: bytes(32) + b"\x01" for dealer in bad.seeds}
    run.tell("site-a", bad.model_copy(update={"seeds": wrong}))
    run.step("site-a", "site-d")
    assert run.round.step == "reveal", "three reveals, of which one is wrong, give nothing"
    said = run.sites["site-d"].answer(opened.body, 1)
    assert said is not None
    run.tell("site-d", said)
    assert run.now.phase is Phase.AGGREGATING
    named = {one.holder for one in run.decided if isinstance(one, d.ShareWrong)}
    assert named == {"site-a"}
    assert isinstance(run.aggregate(), i.Aggregated)


def test_a_complaint_excludes_nobody_and_too_few_readable_shares_void_the_round(make: Make) -> None:
    run = make()
    run.until("shares")
    opened = announce.round_opened(run.now)
    for site in run.names:
        said = run.sites[site].answer(opened.body, 1)
        assert isinstance(said, kinds.SecureShares)
        if site == "site-a":
            said = said.model_copy(update={"shares": {peer: bytes(82) for peer in said.shares}})
        run.tell(site, said)
    decided = run.tell("site-b", run.sites["site-b"].complain("site-a"))
    assert d.ShareUnopened(dealer="site-a", holder="site-b", fault="either") in decided
    assert reasons_of(run.tell("site-d", run.sites["site-d"].complain("site-c"))) == [Reason.MALFORMED], "it does open"
    assert sorted(run.round.parts) == sorted(run.names)
    unproven = run.sites["site-c"].complain("site-a").model_copy(update={"secret": None})
    decided = run.tell("site-c", unproven, attempt="site-a")
    assert d.ShareUnopened(dealer="site-a", holder="site-c", fault="either") in decided
    assert [one.reason for one in decided if isinstance(one, d.RoundVoided)] == [Reason.BAD_SHARE]


def test_a_sum_that_no_honest_sites_can_have_is_void_and_the_model_stays(make: Make) -> None:
    run = make()
    run.until("masked")
    run.sites["site-b"].hear_masking = lambda opened, model: _shout(run, opened, model)  # type: ignore[method-assign]
    for _ in range(3):
        run.step()
    made = run.aggregate()
    assert isinstance(made, i.SumRefused)
    assert made.reason is Reason.SUM_OUT_OF_RANGE
    assert run.now.completed == 1
    assert run.now.models[2] == run.now.models[1]


def test_pooled_scores_of_sites_that_round_their_counts_void_no_round(make: Make) -> None:
    """A site rounds what it joins with by less than half, and scores all of its cases."""
    run = make()
    for _ in range(5):
        run.step()
    closed, made = run.round, run.aggregate()
    assert isinstance(made, i.Aggregated)
    announced = sum(run.now.members[site].validation or 0 for site in run.names)
    for cases, why in ((2 * announced, None), (2 * announced + 1, Reason.IMPLAUSIBLE_SCORES)):
        told = made.model_copy(update={"validation": SplitScores(cases=cases, withheld=True)})
        assert judge_pooled(run.now, closed, told) is why


def _shout(run: SecureRun, opened: kinds.SecureMasking, model: object) -> tuple[kinds.WeightsReady, bytes]:
    """A site that adds what it likes to its masked words."""
    from messages.tensors.layout import chunk_digests, seal_transfer

    site = run.sites["site-b"]
    ready, raw = type(site).hear_masking(site, opened, model)  # type: ignore[arg-type]
    buffer = np.frombuffer(raw, np.uint8).copy()
    buffer[:400].view(np.uint32)[...] += np.uint32(2**30)
    manifest = ready.transfer.manifest
    sealed = seal_transfer(manifest, chunk_digests(manifest, buffer))
    return site.seal_update(ready.transfer.model_copy(update={"seal": sealed})), buffer.tobytes()


def test_training_that_fails_before_masking_leaves_the_site_out_of_the_roster_or_the_masks(make: Make) -> None:
    run = make(least=3)
    run.until("shares")
    said = run.sites["site-a"].answer(announce.round_opened(run.now).body, 1)
    assert said is not None
    run.tell("site-a", said)
    assert d.SiteFailed(site="site-a", reason=Reason.CUDA_OOM) in run.tell(
        "site-a", kinds.RoundFailed(reason=Reason.CUDA_OOM)
    ), "what it has said so far is not its part"
    run.step("site-a")
    assert (run.round.step, sorted(run.round.parts)) == ("masked", ["site-b", "site-c", "site-d"])
    assert run.round.left_out == {"site-a": Reason.CUDA_OOM}


def test_the_evaluation_is_one_more_secure_round_and_tells_pooled_scores_alone(make: Make) -> None:
    run = make()
    run.whole_round()
    run.whole_round()
    assert run.now.phase is Phase.EVALUATING
    start = announce.round_opened(run.now)
    assert (start.kind, start.round) == ("evaluation-start", 3)
    steps = [run.step() for _ in range(5)]
    assert steps == ["score-keys", "score-shares", "score-masked", "score-consent", "score-reveal"]
    assert run.now.phase is Phase.COMPLETE
    assert run.now.outcome is not None
    test = run.now.outcome.test
    assert test is not None
    assert (test.cases, test.metrics["dice"]["WT"].sum) == (4, 1.0)
    assert not any(isinstance(one, d.SiteEvaluated) for one in run.decided)


def test_an_evaluation_without_a_sum_ends_the_experiment_without_scores(make: Make) -> None:
    run = make(rounds={"count": 1, "at_deadline": "fail"})
    run.whole_round()
    run.until("score-masked")
    run.step("site-a", "site-b")
    run.fire(Timer.DEADLINE)
    assert run.now.phase is Phase.COMPLETE
    assert run.now.outcome is not None
    assert (run.now.outcome.label, run.now.outcome.test) == ("final", None)


@pytest.mark.parametrize("step", ["keys", "shares", "masked", "consent", "reveal"])
def test_an_excluded_site_takes_part_no_more_and_the_others_masks_still_come_off(make: Make, step: str) -> None:
    run = make(*NAMES, least=4)
    run.until(step)
    run.wire(kinds.ExperimentExclude(site="site-a", reason=Reason.WRONG_LABELS))
    assert "site-a" not in run.round.parts
    while run.now.phase is Phase.RUNNING:
        run.step()
    run.aggregate()
    (made,) = [one for one in run.decided if isinstance(one, d.RoundCompleted)]
    assert ("site-a" in made.contributors) == (step in ("consent", "reveal")), "a sum that was agreed on stands"
    for name, expected in restore_plainly(run, made.contributors).items():
        np.testing.assert_array_equal(run.model(2)[name], expected)


def test_a_server_optimiser_is_given_the_mean_as_if_it_were_one_update(make: Make) -> None:
    run = make(plan={"strategy": {"name": "FedAvgM", "momentum": 0.5}})
    run.whole_round()
    first = run.model(2)
    for name, expected in mean_of(run, 1, run.names).items():
        np.testing.assert_allclose(first[name], expected, rtol=0, atol=1e-5)
    made = run.whole_round()
    assert isinstance(made, i.Aggregated)
    assert made.memory is not None
    name = "conv.bias"
    moved = mean_of(run, 2, run.names)[name] - run.model(2)[name] + 0.5 * (run.model(2)[name] - run.model(1)[name])
    np.testing.assert_allclose(run.model(3)[name], run.model(2)[name] + moved, rtol=0, atol=1e-5)


def test_a_bound_on_updates_holds_at_sites_and_for_their_sum(make: Make) -> None:
    run = make(privacy={"update_norm_max": 0.5})
    run.whole_round()
    moved = sum(float(np.sum((run.model(2)[name] - run.model(1)[name]) ** 2)) for name in run.model(1))
    assert 0 < moved <= 0.25


def test_keys_too_long_to_be_shown_to_others_are_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    said = run.sites["site-a"].answer(announce.round_opened(run.now).body, 1)
    assert said is not None
    monkeypatch.setattr("coordinator.core.steps.secure.MOST_SAID_BYTES", 100)
    assert reasons_of(run.tell("site-a", said)) == [Reason.TOO_LARGE]


def test_an_evaluation_alone_is_one_secure_round(make: Make) -> None:
    digest = arrays_digest(MODEL)
    run = make(
        find=lambda experiment, researcher: ModelOrigin(digest=digest),
        plan={"kind": "evaluation"},
        net={"name": "UNet", "channels": [4, 8], "strides": [2], "from": f"sha256:{digest}"},
        rounds={"count": 0},
    )
    assert [run.step() for _ in range(5)] == list(SCORING)
    assert run.now.phase is Phase.COMPLETE
    assert run.now.outcome is not None
    assert run.now.outcome.test is not None
    assert run.now.outcome.test.cases == 4
