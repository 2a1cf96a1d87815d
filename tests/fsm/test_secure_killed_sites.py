"""Sites killed behind each thing that they store in secure rounds: the same models, the same bytes, nothing twice."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from secure_consortium import digests_of, run_secure, start_secure
from signed_consortium import THREE, uplink_of
from virtual_consortium import VirtualConsortium

from messages.ground import crash

WITH_EACH_START = frozenset({"agent:ignore", "agent:recover", "agent:switch"})
"""A kill there would come again for ever."""
DONE_AGAIN = frozenset({"agent:begin", "agent:fetched", "agent:recount"})
"""What a site does again after it was killed behind them: so it is killed a few times only."""


class Killed(BaseException):
    """The process would be gone here."""


class Mortal(VirtualConsortium):
    """Agents that die behind each thing that they store, and are started again."""

    kills: Counter[str]
    passed: Counter[tuple[str, str]]

    def _run_agent(self, site: str) -> None:
        while True:
            try:
                self.agents[site].run()
                return
            except Killed as killed:
                self.kills[str(killed)] += 1
                self.agents[site] = self._agent(site)

    def pass_step(self, step: str) -> None:
        site = threading.current_thread().name
        if site not in THREE or not step.startswith("agent:") or step in WITH_EACH_START:
            return
        self.passed[site, step] += 1
        if step not in DONE_AGAIN or self.passed[site, step] <= 2:
            raise Killed(step)


def finish(consortium: VirtualConsortium) -> None:
    start_secure(consortium)
    consortium.until("experiment-complete", 7200.0)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        kills, passed = Counter[str](), Counter[tuple[str, str]]()
        patch.setattr(Mortal, "kills", kills, raising=False)
        patch.setattr(Mortal, "passed", passed, raising=False)
        made: list[Mortal] = []

        def work(consortium: VirtualConsortium) -> None:
            assert isinstance(consortium, Mortal)
            made.append(consortium)
            patch.setattr(crash, "pass_step", consortium.pass_step)
            finish(consortium)
            patch.setattr(crash, "pass_step", lambda _step: None)

        yield run_secure(tmp_path_factory.mktemp("killed"), work, make=Mortal)


def test_sites_that_are_killed_behind_each_decision_make_the_models_of_a_calm_run(
    killed: Mortal, tmp_path: Path
) -> None:
    assert {"agent:takestep", "agent:takemail", "agent:tellsecure", "agent:keepinside", "agent:keep", "agent:seal"} <= {
        *killed.kills
    }
    calm = run_secure(tmp_path, finish)
    assert digests_of(killed) == digests_of(calm)
    assert len(digests_of(calm)) == 2
    assert not killed.of("round-void")
    assert len(killed.of("round-start")) == 2, "a try was lost"


def test_a_killed_site_says_each_step_once_and_in_the_same_bytes(killed: Mortal) -> None:
    said = [one for one in uplink_of(killed) if one.kind.startswith(("secure-", "weights-ready"))]
    once = {(one.sender, one.kind, one.round, one.attempt): one.raw for one in said}
    assert {one.raw for one in said} == {*once.values()}
    per_round = Counter((one.sender, one.kind, one.round) for one in {one.raw: one for one in said}.values())
    assert set(per_round.values()) == {1}


def test_a_killed_site_does_not_train_again_what_it_has_kept(killed: Mortal) -> None:
    """Before it is kept, a round is trained anew from its checkpoint, as in any other experiment."""
    for site in THREE:
        assert killed.passed[site, "agent:keepinside"] == 2, "one a round"
        assert killed.passed[site, "agent:keep"] == 2
