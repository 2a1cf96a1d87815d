"""Deliberate mistakes in the product, each a change of text: the checker has to find every one of them.

`survey_mutation` makes a copy of the product and the tests, changes it, and runs schedules against it in processes of
their own until one is violated.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("messages", "nets", "coordinator", "site_agent", "deploy")


@dataclass(frozen=True)
class Mutation:
    """One mistake: `before` stands once in `file`, and becomes `after`."""

    name: str
    file: str
    before: str
    after: str
    needs: tuple[str, ...] = ()
    """What a schedule has to have in it so that this can show (`Schedule.list_words`): others are passed over."""

    def apply_to(self, root: Path) -> None:
        """Make the mistake in a copy; ValueError where the text does not stand there once."""
        path = root / self.file
        text = path.read_text()
        if text.count(self.before) != 1:
            raise ValueError(f"{self.name}: {text.count(self.before)} places in {self.file}")
        path.write_text(text.replace(self.before, self.after))


MUTATIONS = (
    Mutation(
        "an update's receipt goes out when it is announced, not when it is stored",
        "coordinator/core/machine.py",
        "    if any(isinstance(one, d.UpdateAnnounced) for one in answer):\n        return answer\n",
        "",
    ),
    Mutation(
        "what is decided is done before it is in the journal",
        "coordinator/loop/steps.py",
        "        self.parts.journal.append_entry(\n            home,\n            STEP,\n",
        "        for effect in todo:\n            self.hands.carry_out(effect)\n"
        "        self.parts.journal.append_entry(\n            home,\n            STEP,\n",
    ),
    Mutation(
        "the journal is not synced",
        "coordinator/record/journal.py",
        '"PRAGMA synchronous = {choose_synchronous()}"',
        '"PRAGMA synchronous = NORMAL"',
    ),
    Mutation(
        "the spool is not synced",
        "site_agent/disk/spool.py",
        '"PRAGMA synchronous={choose_synchronous()}"',
        '"PRAGMA synchronous=OFF"',
    ),
    Mutation(
        "a blob's folder is not synced, and a received update's neither",
        "messages/ground/durable.py",
        "    if not _waits_for_disks:\n        return\n    descriptor",
        "    if not _waits_for_disks or path.is_dir():\n        return\n    descriptor",
    ),
    Mutation(
        "a blob's content is not synced",
        "messages/ground/durable.py",
        "    if not _waits_for_disks:\n        return\n    descriptor",
        "    if not _waits_for_disks or path.is_file():\n        return\n    descriptor",
    ),
    Mutation(
        "a site's new secret is not synced under its name",
        "site_agent/disk/secret.py",
        "    sync_to_disk(state)  #",
        "    #",
        ("masks", "power cut behind a step"),
    ),
    Mutation(
        "a start of the coordinator takes no new term",
        "coordinator/record/journal.py",
        'self.term = int(self.get_value("term") or b"0") + 1',
        'self.term = max(1, int(self.get_value("term") or b"0"))',
    ),
    Mutation(
        "a start of a site takes no new incarnation",
        "site_agent/disk/spool.py",
        'self.incarnation = self._bump_number("incarnation")',
        'self.incarnation = max(1, self._get_number("incarnation"))',
    ),
    Mutation(
        "a site's numbers go on over a start",
        "site_agent/disk/spool.py",
        '        self.incarnation = self._bump_number("incarnation")\n        self._set_number("seq", 0)\n',
        '        self.incarnation = self._bump_number("incarnation")\n',
    ),
    Mutation(
        "a site says what it has said once more, under the same id",
        "site_agent/wire/outbox.py",
        "        if not self._spool.note_seen(identity, now):\n            return\n",
        "        self._spool.note_seen(identity, now)\n",
    ),
    Mutation(
        "the spool is freed on the broker's confirm",
        "site_agent/wire/outbox.py",
        "        confirm = self._send_raw(event.key, event.raw)\n        before",
        "        confirm = self._send_raw(event.key, event.raw)\n"
        "        if confirm is not None and confirm.done:\n"
        "            self._spool.take_receipted(event.id, self._clock.wall())\n"
        "        before",
    ),
    Mutation(
        "an update's file is freed once it is sent",
        "site_agent/core/effects.py",
        "    Seal: _effects_of_seal,\n",
        "    Seal: lambda change, x: (*_effects_of_seal(change, x), Free(x.experiment, change.job.round)),\n",
    ),
    Mutation(
        "a round that is done again has the attempt that it had",
        "site_agent/core/evolve.py",
        '"attempt": job.attempt + 1, "start": job.start}',
        '"attempt": job.attempt, "start": job.start}',
    ),
    Mutation(
        "an update that comes while the round is averaged is counted",
        "coordinator/core/handlers/reports.py",
        "state.round.base_of(site) != number or not takes_more(state):",
        "state.round.base_of(site) != number:",
        ("few", "grace", "aggregation"),
    ),
    Mutation(
        "that a round's update is of an older attempt is not seen",
        "coordinator/core/handlers/reports.py",
        "and not part.stored and part.update.attempt == attempt",
        "and not part.stored",
    ),
    Mutation(
        "what was unfinished is not taken up at a start",
        "coordinator/loop/shell.py",
        "                self.steps.hands.carry_out(effect)\n        self._greet_sites()",
        "                pass\n        self._greet_sites()",
    ),
    Mutation(
        "an aggregate that was under way is not made again",
        "coordinator/core/effects.py",
        "        todo = (*todo, *_aggregate_round(state))\n    if state.round is None",
        "        todo = (*todo,)\n    if state.round is None",
    ),
    Mutation(
        "a site forgets at a start what it was at",
        "site_agent/core/handlers.py",
        "            decisions.append(Recover(experiment))\n",
        "",
    ),
    Mutation(
        "a trainer that died is not started again",
        "site_agent/core/handlers.py",
        "said.out_of_memory else Reason.TRAINER_DIED)\n    return (Retry(job.experiment),)",
        "said.out_of_memory else Reason.TRAINER_DIED)\n    return ()",
        ("trainer killed",),
    ),
    Mutation(
        "that an update's file is lost is not told",
        "site_agent/wire/sender.py",
        "            self._on_lost(key)\n",
        "            pass\n",
        ("power cut behind a step", "agent:sending"),
    ),
    Mutation(
        "the coordinator asks for no missing chunk",
        "coordinator/wire/incoming.py",
        "            self._ask(awaited.effect, ",
        "            (lambda *_given: None)(awaited.effect, ",
        ("broker loses its last seconds",),
    ),
    Mutation(
        "a site asks for no missing chunk",
        "site_agent/wire/receiver.py",
        "        self._ask(\n            key.experiment,\n",
        "        (lambda *_given: None)(\n            key.experiment,\n",
    ),
    Mutation(
        "the coordinator returns no chunk that a site asks for",
        "coordinator/loop/returning.py",
        "        if wanted.seal not in e.needed_blobs(state):\n            return\n",
        "        if wanted.seal:\n            return\n",
    ),
    Mutation(
        "chunks that are recorded as here are believed to be whole",
        "messages/tensors/transfer.py",
        "                if sha256(data).digest() == digest:\n",
        "                if data is not None:\n",
        ("power cut behind a step", "agent:fetching"),
    ),
    Mutation(
        "a model that is here is believed to be whole",
        "site_agent/wire/receiver.py",
        "            if Sealer().seal_file(path, sealed.manifest) == sealed.seal:\n",
        "            if path.stat().st_size:\n",
        ("power cut behind a step", "agent:fetched"),
    ),
    Mutation(
        "blobs that are still needed are pruned",
        "coordinator/core/effects.py",
        "    seals |= {state.models[number].seal for number in rounds if number in state.models}\n",
        "    seals |= {state.models[number].seal for number in rounds if number + 1 in state.models}\n",
    ),
    Mutation(
        "nothing is pruned",
        "coordinator/work/blobs.py",
        "if len(one.name) == 64 and one.name not in keep and one.is_file()]:",
        "if not keep and one.is_file()]:",
    ),
    Mutation(
        "a site frees nothing when the experiment ends",
        "site_agent/core/effects.py",
        "CloseTrainer(x.experiment), Free(x.experiment, None)),",
        "CloseTrainer(x.experiment)),",
    ),
    Mutation(
        "the quorum counts those who failed",
        "coordinator/core/quorum.py",
        "        round_.parts.sums[_REPORTED] >= experiment.least_sites\n",
        "        round_.parts.sums[_HEARD] >= experiment.least_sites\n",
    ),
    Mutation(
        "a site's policy is not asked",
        "site_agent/core/policy.py",
        '    if policy.default == "allow" and experiment.training.trainer is None:\n',
        "    if policy:\n",
    ),
    Mutation(
        "an operator's pause is not asked",
        "site_agent/core/heard.py",
        "    if agenda.paused:\n        return Reason.SITE_PAUSED\n",
        "",
        ("operator pauses a site",),
    ),
    Mutation(
        "a pause ends when the disk is free",
        "coordinator/core/handlers/reports.py",
        "    if state.phase is not Phase.PAUSED or state.paused_because is not Reason.DISK_FULL:\n",
        "    if state.phase is not Phase.PAUSED:\n",
        ("a pause while the disk is full",),
    ),
    Mutation(
        "a second update of a round is weighed by the cases of another",
        "coordinator/core/steps/updates.py",
        "        cases_used=body.cases_used,\n",
        "        cases_used=body.cases_used + (event.attempt != '1'),\n",
    ),
    Mutation(
        "positions on uplink are stored before what they stand for",
        "coordinator/loop/inbound.py",
        '        """Take one message; whatever it is, it is acknowledged once what it led to is stored."""\n',
        '        """Take one message; whatever it is, it is acknowledged once what it led to is stored."""\n'
        "        self._note_position(delivery)\n        self.save_positions()\n",
    ),
    Mutation(
        "a site's events are said again by nobody",
        "site_agent/wire/outbox.py",
        "        if everything:\n            self._say_all()\n",
        "",
    ),
    Mutation(
        "a mark that does not come back is not published again",
        "coordinator/loop/shell.py",
        "> MARK_AGAIN:\n            self.publish_mark()\n",
        "> MARK_AGAIN:\n            pass\n",
    ),
)


@dataclass(frozen=True)
class Found:
    """What became of a mutation: `schedules` that were run until it was found (0: it was not), and how it showed."""

    name: str
    schedules: int
    seed: int
    violation: str


def survey_mutation(mutation: Mutation, first: int, schedules: int, jobs: int) -> Found:
    """Run schedules against a mutated copy until one is violated."""
    with TemporaryDirectory(prefix="konsil-mutation-") as made:
        root = Path(made)
        for name in PRODUCT:
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / "simulation", root / "tests" / "simulation")
        for path in (ROOT / "tests").glob("*.py"):
            shutil.copy(path, root / "tests" / path.name)
        mutation.apply_to(root)
        command = [sys.executable, "-m", "tests.simulation", "--schedules", str(schedules), "--seed", str(first)]
        command += ["--jobs", str(jobs), "--until-violated", "--json", *(f"--with={word}" for word in mutation.needs)]
        environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    try:
        told = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return Found(mutation.name, 1, first, f"it does not even start: {done.stderr.strip()[-200:]}")
    bad = told["violated"]
    if not bad:
        return Found(mutation.name, 0, 0, "")
    return Found(mutation.name, told["schedules"], bad[0]["seed"], bad[0]["violations"][0])
