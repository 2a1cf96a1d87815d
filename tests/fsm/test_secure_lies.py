"""A coordinator that lies in secure rounds, before real agents: each lie ends the round, and no more is said in it.

A round holds one lie. What the coordinator says is changed as it says it; it believes itself, and goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import CONSORTIUM
from secure_consortium import FOUR, MODEL, PRIVACY, ROUNDS, add_up, digests_of, run_secure, start_secure
from signed_consortium import THREE, uplink_of
from virtual_consortium import VirtualConsortium

from coordinator.core import effects
from coordinator.core.secure import facts
from coordinator.core.state import ExperimentState, Round
from coordinator.core.steps import table
from messages import kinds
from messages.envelope import Author
from messages.reasons import Reason
from messages.trust.keys import derive_key
from nets.digest import arrays_digest

OTHER_MODEL = "ab" * 32
Tell = Callable[[ExperimentState, Round, Any], kinds.Body]


@dataclass(frozen=True)
class Lie:
    """What is told in a step instead; `never`: what no site says then; `reason`: with which code they give up; `model`:
    the digest that the round is said to be of."""

    step: str
    tell: Tell
    never: str
    reason: Reason | None = None
    model: str | None = None


def forge_keys(state: ExperimentState, round_: Round, name: str, *, signs: bool) -> bytes:
    """A site's keys, by the coordinator's own hand."""
    key = derive_key(b"coordinator's own".ljust(32, b".")) if signs else None
    body = kinds.SecureKeys(tried=round_.tried, sealing=b"\x09" + bytes(31), masking=b"\x0a" + bytes(31))
    author = Author(CONSORTIUM, name, incarnation=1, key=key)
    return author.write_event(
        "secure-keys", body, time=1.8e9, experiment=state.id, round_number=round_.number, attempt=9
    ).raw


def changed(**changes: Any) -> Tell:
    """Fields told otherwise; a callable gets what would be said."""

    def tell(state: ExperimentState, round_: Round, honest: Any) -> kinds.Body:
        made = {name: one(state, round_, honest) if callable(one) else one for name, one in changes.items()}
        return type(honest).model_validate({**honest.as_plain(), **made})

    return tell


def with_forged(*, signs: bool) -> Callable[[ExperimentState, Round, Any], list[bytes]]:
    def keys(state: ExperimentState, round_: Round, honest: kinds.SecureRoster) -> list[bytes]:
        return [*honest.keys[:2], forge_keys(state, round_, "site-c", signs=signs)]

    return keys


def stranger(state: ExperimentState, round_: Round, honest: kinds.SecureRoster) -> list[bytes]:
    return [*honest.keys, forge_keys(state, round_, "site-x", signs=True)]


def heavier(state: ExperimentState, round_: Round, honest: kinds.SecureMasking) -> dict[str, int]:
    return {site: 1000 * weight for site, weight in honest.weights.items()}


def outsider(state: ExperimentState, round_: Round, honest: kinds.SecureMasking) -> dict[str, int]:
    return {**honest.weights, "site-x": 1}


def plain_start(state: ExperimentState, round_: Round, honest: kinds.RoundStart) -> kinds.Body:
    return honest.model_copy(update={"secure": None})


ROSTER = "secure-shares"
LIES: dict[str, tuple[Lie, Lie, Lie]] = {
    "keys": (
        Lie("shares", changed(keys=with_forged(signs=False)), ROSTER, Reason.BAD_ROSTER),
        Lie("shares", changed(keys=with_forged(signs=True)), ROSTER, Reason.BAD_SIGNATURE),
        Lie("shares", changed(keys=stranger), ROSTER, Reason.BAD_SIGNATURE),
    ),
    "roster": (
        Lie("shares", changed(keys=lambda _s, _r, honest: [*honest.keys, honest.keys[0]]), ROSTER, Reason.BAD_ROSTER),
        Lie("shares", changed(keys=lambda _s, _r, honest: honest.keys[:2]), ROSTER, Reason.TOO_FEW_PEERS),
        Lie("keys", plain_start, "secure-keys", Reason.PRIVACY_BELOW_FLOOR),
    ),
    "masking": (
        Lie("masked", changed(weights=heavier), "weights-ready", Reason.OTHER_CONTEXT),
        Lie("masked", changed(weights=outsider), "weights-ready", Reason.OTHER_CONTEXT),
        Lie("keys", changed(model_digest=OTHER_MODEL), "weights-ready", Reason.OTHER_CONTEXT, OTHER_MODEL),
    ),
    "sums": (
        Lie("consent", changed(sites=lambda _s, _r, honest: honest.sites[:2]), "secure-consent"),
        Lie("reveal", changed(consents=lambda _s, _r, honest: honest.consents[:2]), "secure-reveal"),
        Lie("reveal", changed(consents=lambda _s, _r, honest: honest.consents[:1] * 3), "secure-reveal"),
    ),
}


def tell_lies(patch: pytest.MonkeyPatch, lies: tuple[Lie, ...]) -> None:
    """From now on the n-th round is told with the n-th lie; the coordinator reckons with the model that it names."""
    named, other = facts._name_model, {place for place, lie in enumerate(lies, 1) if lie.model is not None}
    patch.setattr(
        facts, "_name_model", lambda state, round_: OTHER_MODEL if round_.number in other else named(state, round_)
    )
    for step in {lie.step for lie in lies}:
        row = table.ROWS[step]

        def body(state: ExperimentState, round_: Round, row: Any = row, step: str = step) -> kinds.Body:
            honest, lie = row.body(state, round_), lies[min(round_.number, len(lies)) - 1]
            return lie.tell(state, round_, honest) if lie.step == step else honest

        patch.setitem(table.ROWS, step, replace(row, body=body))


@pytest.mark.parametrize("group", LIES)
def test_no_lie_of_a_coordinator_gets_more_out_of_a_site(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lies = LIES[group]
    tell_lies(monkeypatch, lies)

    def work(consortium: VirtualConsortium) -> None:
        privacy = {**PRIVACY, "exchange_within": 20.0}
        start_secure(consortium, rounds=ROUNDS | {"count": 3, "train_within": 120.0}, privacy=privacy)
        consortium.until("experiment-failed", 7200.0)

    consortium = run_secure(tmp_path, work)
    said = uplink_of(consortium)
    for number, lie in enumerate(lies, 1):
        of_round = [one for one in said if one.round == number]
        assert {one.sender for one in of_round if one.kind == "round-accepted"} == {*THREE} or lie.step == "keys"
        assert lie.never not in {one.kind for one in of_round}, (group, number)
        if lie.never != "secure-reveal":
            assert "secure-reveal" not in {one.kind for one in of_round}
        codes = {one.body.reason for one in of_round if isinstance(one.body, kinds.RoundFailed)}
        assert codes == (set() if lie.reason is None else {lie.reason}), (group, number)
    assert not consortium.of("round-complete")


def test_changed_mail_is_left_out_of_the_reveal_and_no_site_reveals_the_key_of_the_true_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = effects.sealed_for

    def change(round_: Round, site: str) -> dict[str, bytes]:
        sealed = honest(round_, site)
        if site == "site-a":
            sealed["site-b"] = sealed["site-b"][:-1] + bytes([sealed["site-b"][-1] ^ 1])
        return sealed

    monkeypatch.setattr(effects, "sealed_for", change)

    def work(consortium: VirtualConsortium) -> None:
        start_secure(consortium, sites=list(FOUR), rounds=ROUNDS | {"count": 1})
        consortium.until("round-complete", 1800.0)

    consortium = run_secure(tmp_path, work, sites=FOUR)
    assert digests_of(consortium) == [arrays_digest(add_up(MODEL, 1, FOUR, FOUR))]
    said = uplink_of(consortium)
    assert "secure-complaint" not in {one.kind for one in said}
    told = {
        one.sender: {*one.body.seeds} for one in said if isinstance(one.body, kinds.SecureReveal) and one.round == 1
    }
    assert "site-b" not in told["site-a"]
    assert "site-b" in told["site-c"]
