"""A site's agent, its trainer and the operator's program as real processes, with a broker between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import external_rig
import pytest
from brokers import eventually, need_broker
from e2e_rig import Rig

from deploy.demo.consortium import RESEARCHER
from deploy.demo.toml import write_toml
from messages.experiment import Experiment
from messages.names import COORDINATOR

pytestmark = [pytest.mark.broker, pytest.mark.slow]
SLOW = external_rig.LINEAR.replace("steps = task", "import time; time.sleep(0.5 * (task.round == 1)); steps = task")


class OneSite(Rig):
    """Only site-a, whose operator registered a program."""

    def _write_site(self, site: str) -> None:
        data = external_rig.write_table(self.layout.data / site, seed=1)
        source = external_rig.table_of_numbers(data)
        file = self.consortium.write_site(
            site, *self._broker(), dataset="clinic", source=source, threads=1, gpus=[], trainer=None
        )
        program: dict[str, Any] = external_rig.register(self.layout.run / f"programs-{site}", SLOW)
        rule = {"researchers": [RESEARCHER], "trainers": ["linear"]}
        more = write_toml({"trainers": {"linear": program}}) + "[[policy.allow]]\n" + write_toml(rule)
        file.write_text(file.read_text() + "\n" + more)


def test_a_site_that_is_killed_while_its_program_trains_finishes_the_experiment(tmp_path: Path) -> None:
    need_broker()
    rig = OneSite(tmp_path)
    try:
        rig.start_broker()
        for party in (COORDINATOR, "site-a"):
            rig.start(party)
        plain = external_rig.experiment(id="programs").as_plain() | {"rounds": {"count": 2}}
        rig.publish(Experiment.model_validate(plain))
        cases = rig.layout.site_folder("site-a") / "cache" / "programs" / "external" / "work" / "cases.csv"
        eventually(lambda: cases.exists() and "true outcome" in cases.read_text(), what="a program that trains")
        rig.kill("site-a")
        rig.start("site-a")
        story = rig.complete("programs")
        assert [one.contributors.keys() for one in story.round_list] == [{"site-a"}] * 2
        eventually(lambda: not cases.parent.exists(), what="the run's files are gone")
    finally:
        rig.close()
