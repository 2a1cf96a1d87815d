"""What an auditor is told of a log: how much was computed again, and what the sites' own records say of it.

Coordinator and agents are the real ones, on the bus in memory; what they leave on disk is asked with the commands.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from click.testing import Result
from coordinator_kit import CONSORTIUM, SITES, plain
from places import ROOT
from typer.testing import CliRunner
from whole_rig import COORDINATOR, Federation

from coordinator.core import inputs as i
from coordinator.record.recovery import read_step, step_body
from deploy.cli import audit
from deploy.site import cli as site
from messages import chain, codec
from messages.chain import Entry
from messages.envelope import Author
from messages.ground.errors import LogBroken, RequestError

HOUR = 3600.0


@dataclass(frozen=True)
class Kept:
    """What the parties left: an exported log, the ledger of each site, the coordinator's state folder."""

    folder: Path
    log: Path
    ledgers: dict[str, Path]

    @property
    def entries(self) -> list[Entry]:
        return list(chain.read_export(self.log))


def ask(app: Any, *arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        federation = Federation(folder, patch)
        federation.start()
        federation.publish(plain())
        federation.until("experiment-complete")
        federation.close()
    log = folder / "audit" / "log.konsil"
    log.parent.mkdir()
    assert ask(audit.app, "export", "exp-1", "--out", log, "--journal", folder / COORDINATOR).exit_code == 0
    ledgers = {}
    for name in SITES:
        config = folder / f"{name}.toml"
        config.write_text(
            f'schema = 1\n[site]\nname = "{name}"\nconsortium = "{CONSORTIUM}"\nstate = "{folder / name}"\n[broker]\n'
        )
        ledgers[name] = folder / f"{name}.json"
        ledgers[name].write_text(ask(site.app, "ledger", "--config", config, "--json").stdout)
    return Kept(folder, log, ledgers)


def write_forged(path: Path, entries: list[Entry], change: Callable[[Entry], Entry | None]) -> Path:
    """A log by whoever can write the whole file anew: each hash and link fits. None: the entry is left out."""
    forged: list[Entry] = []
    for entry in entries:
        if (changed := change(entry)) is not None:
            before = forged[-1].hash if forged else chain.ZERO
            place = len(forged) + 1
            forged.append(replace(changed, number=place, index=place, previous=before, before=before).with_hash())
    chain.write_export(path, forged)
    return path


def of_site(entry: Entry, kind: str, sender: str = "site-b") -> i.Received | None:
    given = read_step(entry)[0]
    fits = isinstance(given, i.Received) and (given.event.kind, given.event.sender) == (kind, sender)
    return given if fits and isinstance(given, i.Received) else None


# how much was computed again


def test_a_replay_without_stored_updates_says_that_nothing_was_computed_again(kept: Kept) -> None:
    told = ask(audit.app, "replay", "exp-1", kept.log)
    assert told.exit_code == 0
    last = told.stdout.splitlines()[-1]
    assert "2 rounds (2 digest only): every decision agrees; NO aggregate was computed again" in last
    assert "--blobs" in last
    assert "recomputed aggregate agrees" not in last


@pytest.mark.parametrize("place", ["beside", "named", "state"])
def test_a_replay_computes_again_from_blobs_beside_the_file_or_named(kept: Kept, tmp_path: Path, place: str) -> None:
    shutil.copy(kept.log, tmp_path / "log.konsil")
    blobs = kept.folder / COORDINATOR / "blobs"
    more: list[object] = []
    if place == "beside":
        shutil.copytree(blobs, tmp_path / "blobs")
    else:
        more = ["--blobs", blobs if place == "named" else blobs.parent]
    told = ask(audit.app, "replay", "exp-1", tmp_path / "log.konsil", *more)
    assert told.exit_code == 0
    assert "every decision agrees, and so does every aggregate (2 computed again)" in told.stdout.splitlines()[-1]


def test_a_folder_without_the_experiments_blobs_is_refused(kept: Kept, tmp_path: Path) -> None:
    told = ask(audit.app, "replay", "exp-1", kept.log, "--blobs", tmp_path)
    assert isinstance(told.exception, RequestError)
    assert "holds no models and updates of 'exp-1'" in str(told.exception)


# times


def test_an_entry_whose_time_was_moved_is_named(kept: Kept, tmp_path: Path) -> None:
    moved = write_forged(
        tmp_path / "log", kept.entries, lambda one: replace(one, time=one.time + HOUR) if one.index == 5 else one
    )
    told = ask(audit.app, "verify", moved)
    assert isinstance(told.exception, LogBroken)
    assert "entry 5 of exp-1" in str(told.exception)
    assert "60 min apart" in str(told.exception)
    again = ask(audit.app, "replay", "exp-1", moved)
    assert again.exit_code == 1
    assert "its time is not that of its input" in again.stdout.splitlines()[-1]


def move_whole(seconds: float, first: int = 1) -> Callable[[Entry], Entry]:
    """Entries from one on, with their inputs' times: what only the sites' clocks can contradict."""

    def change(entry: Entry) -> Entry:
        if entry.index < first:
            return entry
        given, decided = read_step(entry)
        later = given.model_copy(update={"time": given.time + seconds})
        return replace(entry, time=entry.time + seconds, body=codec.pack(step_body(later, decided)))

    return change


@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
@pytest.mark.parametrize("first", [1, 10])
def test_times_that_were_moved_with_all_that_is_inside_contradict_the_sites(
    kept: Kept, tmp_path: Path, seconds: float, first: int
) -> None:
    told = ask(audit.app, "verify", write_forged(tmp_path / "log", kept.entries, move_whole(seconds, first)))
    assert told.exit_code == 1
    assert "the log's times contradict the clocks of 3 of 3 sites" in told.stdout


def test_one_sites_wrong_clock_is_told_and_condemns_no_log(kept: Kept, tmp_path: Path) -> None:
    def late(entry: Entry) -> Entry:
        given, decided = read_step(entry)
        if not isinstance(given, i.Received) or given.event.sender != "site-b":
            return entry
        event = given.event
        author = Author(event.consortium, event.sender, event.incarnation)
        wrong = author.write_event(
            event.kind,
            event.body,
            time=event.time + HOUR,
            experiment=event.experiment,
            round_number=event.round,
            attempt=event.attempt,
            seq=event.seq,
        )
        return replace(entry, body=codec.pack(step_body(given.model_copy(update={"raw": wrong.raw}), decided)))

    told = ask(audit.app, "verify", write_forged(tmp_path / "log", kept.entries, late))
    assert told.exit_code == 0
    assert "site-b: its clock and the log's times are apart: the site's is ahead by 60 min or more" in told.stdout


@pytest.mark.parametrize("log", sorted((ROOT / "tests" / "audit" / "formats").glob("*/log.export")), ids=str)
def test_a_kept_log_of_an_earlier_version_passes(log: Path) -> None:
    told = ask(audit.app, "verify", log)
    assert told.exit_code == 0, told.stdout
    assert "contradict" not in told.stdout


# the sites' ledgers


def compare(log: Path, *ledgers: Path) -> tuple[int, dict[str, Any]]:
    told = ask(audit.app, "compare", log, *ledgers, "--json")
    return told.exit_code, json.loads(told.stdout)


def test_the_ledgers_and_an_honest_log_agree_on_every_event_and_update(kept: Kept) -> None:
    status, told = compare(kept.log, *kept.ledgers.values())
    assert (status, told["without_ledger"]) == (0, [])
    for name in SITES:
        about = told["sites"][name]
        # joined, two rounds accepted, sent and announced, the evaluation accepted and answered
        assert about == {"agrees": True, "same": 9, "undigested": 0, "later": 0, "wrong": []}, name


def test_a_site_of_which_no_ledger_was_given_is_named(kept: Kept) -> None:
    told = ask(audit.app, "compare", kept.log, kept.ledgers["site-a"])
    assert told.exit_code == 0
    assert "no ledger was given of: site-b, site-c" in told.stdout


def forge_event(entry: Entry, **changes: Any) -> Entry:
    """Another content of a site's event, as a coordinator could write it."""
    given, decided = read_step(entry)
    assert isinstance(given, i.Received)
    event = given.event
    forged = Author(event.consortium, event.sender, event.incarnation).write_event(
        event.kind,
        event.body.model_copy(update=changes),
        time=event.time,
        experiment=event.experiment,
        round_number=event.round,
        attempt=event.attempt,
        seq=event.seq,
    )
    return replace(entry, body=codec.pack(step_body(given.model_copy(update={"raw": forged.raw}), decided)))


def test_a_coordinator_that_writes_another_update_of_a_site_is_contradicted(kept: Kept, tmp_path: Path) -> None:
    def change(entry: Entry) -> Entry:
        given = of_site(entry, "weights-ready")
        if given is None or given.event.round != 2:
            return entry
        return forge_event(entry, transfer=given.event.body.transfer.model_copy(update={"seal": "ab" * 32}))

    status, told = compare(write_forged(tmp_path / "log", kept.entries, change), *kept.ledgers.values())
    assert status == 1
    assert {name for name, about in told["sites"].items() if not about["agrees"]} == {"site-b"}
    wrong = told["sites"]["site-b"]["wrong"]
    assert any(one.startswith("update (round 2): the ledger has ") and "abababababababab" in one for one in wrong)
    assert any(one.startswith("weights-ready (round 2): the ledger has ") for one in wrong)


def test_an_event_that_the_log_leaves_out_or_invents_is_named(kept: Kept, tmp_path: Path) -> None:
    left_out = write_forged(tmp_path / "log", kept.entries, lambda one: None if of_site(one, "round-accepted") else one)
    status, told = compare(left_out, *kept.ledgers.values())
    assert status == 1
    assert told["sites"]["site-b"]["wrong"] == [
        f"round-accepted (round {number}): the ledger has it with the coordinator's receipt, the log lacks it"
        for number in (1, 2, 3)
    ]
    ledger = json.loads(kept.ledgers["site-b"].read_text())
    ledger["ledger"] = [one for one in ledger["ledger"] if one["kind"] != "evaluated"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps(ledger))
    status, told = compare(kept.log, other)
    assert (status, told["sites"]["site-b"]["wrong"]) == (
        1,
        ["evaluated (round 3): the log has it, the ledger does not"],
    )


def test_what_came_after_the_log_was_exported_is_no_disagreement(kept: Kept, tmp_path: Path) -> None:
    early = tmp_path / "log"
    chain.write_export(early, kept.entries[:-4])
    status, told = compare(early, *kept.ledgers.values())
    assert status == 0
    assert sum(about["later"] for about in told["sites"].values()) > 0


def roll_back_spool(kept: Kept, state: Path, said_later: str) -> Path:
    """The ledger of a site whose spool came out of a backup, and that said the event after it in another way."""
    shutil.copytree(kept.folder / "site-a", state)
    with closing(sqlite3.connect(state / "spool.sqlite")) as spool:
        ((number,),) = spool.execute("SELECT number FROM ledger WHERE kind = ? AND round = 2", (said_later,))
        spool.execute("DELETE FROM ledger WHERE number > ?", (number,))
        spool.execute("DELETE FROM outbox")
        spool.execute("UPDATE ledger SET digest = ? WHERE number = ?", ("ab" * 32, number))
        spool.commit()
    config = state.parent / "site.toml"
    config.write_text(
        f'schema = 1\n[site]\nname = "site-a"\nconsortium = "{CONSORTIUM}"\nstate = "{state}"\n[broker]\n'
    )
    ledger = state.parent / "rolled-back.json"
    ledger.write_text(ask(site.app, "ledger", "--config", config, "--json").stdout)
    return ledger


def test_a_sites_spool_that_was_rolled_back_is_found_and_what_it_lost_or_said_otherwise_is_named(
    kept: Kept, tmp_path: Path
) -> None:
    status, told = compare(kept.log, roll_back_spool(kept, tmp_path / "state", "round-accepted"))
    wrong = told["sites"]["site-a"]["wrong"]
    assert (status, told["sites"]["site-a"]["same"]) == (1, 4)  # joined, and all of round 1
    first, *lost = wrong
    assert first.startswith("round-accepted (round 2): the ledger has ")
    assert "abababababababab" in first
    assert all(one.endswith("the log has it, the ledger does not") for one in lost), lost
    assert {one.partition(":")[0] for one in lost} >= {"weights-ready (round 2)", "evaluated (round 3)"}


def test_a_ledger_of_0_1_is_read_and_compared_by_size(kept: Kept, tmp_path: Path) -> None:
    state = tmp_path / "state"
    shutil.copytree(kept.folder / "site-a", state)
    with closing(sqlite3.connect(state / "spool.sqlite")) as spool:
        spool.execute("ALTER TABLE ledger DROP COLUMN digest")
        spool.commit()
    config = tmp_path / "site.toml"
    config.write_text(
        f'schema = 1\n[site]\nname = "site-a"\nconsortium = "{CONSORTIUM}"\nstate = "{state}"\n[broker]\n'
    )
    old = tmp_path / "old.json"
    old.write_text(ask(site.app, "ledger", "--config", config, "--json").stdout)
    status, told = compare(kept.log, old)
    about = told["sites"]["site-a"]
    # An event that has no receipt yet still lies in the outbox, with all its bytes.
    assert (status, about["same"] + about["undigested"], about["undigested"] >= 8) == (0, 9, True)
    assert f"{about['undigested']} by size alone" in ask(audit.app, "compare", kept.log, old).stdout


def test_a_file_that_is_no_ledger_is_refused_with_what_to_do(kept: Kept, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"ledger": []}')
    told = ask(audit.app, "compare", kept.log, other)
    assert isinstance(told.exception, RequestError)
    assert "konsil site ledger --json" in str(told.exception)


# what the sites keep for themselves


def test_a_site_shows_under_which_policy_it_took_part_and_the_log_agrees(kept: Kept, tmp_path: Path) -> None:
    proof, config = tmp_path / "proof.json", kept.folder / "site-a.toml"
    assert ask(site.app, "commitments", "--config", config, "--out", proof).exit_code == 0
    assert proof.stat().st_mode & 0o077 == 0  # it holds keys
    told = ask(audit.app, "commitments", kept.log, proof, "--json")
    found = json.loads(told.stdout)
    assert (told.exit_code, found["holds"]) == (0, True)
    policy = next(one for one in found["commitments"] if one["kind"] == "policy")
    assert json.loads(policy["content"])["allow"][0]["researchers"] == ["dr-a"]


@pytest.mark.parametrize(("what", "why"), [("content", "do not make"), ("site", "another digest"), ("key", "not make")])
def test_another_policy_than_the_one_in_force_does_not_hold(kept: Kept, tmp_path: Path, what: str, why: str) -> None:
    proof = tmp_path / "proof.json"
    ask(site.app, "commitments", "--config", kept.folder / "site-a.toml", "--out", proof)
    plain_proof = json.loads(proof.read_text())
    if what == "site":
        plain_proof["site"] = "site-b"
    else:
        plain_proof["commitments"][0][what] = "0" * 64
    proof.write_text(json.dumps(plain_proof))
    told = ask(audit.app, "commitments", kept.log, proof)
    assert told.exit_code == 1
    assert why in told.stdout


def test_a_site_names_what_a_case_went_into_and_can_erase_it(kept: Kept, tmp_path: Path) -> None:
    shutil.copytree(kept.folder / "site-c", tmp_path / "site-c")
    config = tmp_path / "site-c.toml"
    config.write_text((kept.folder / "site-c.toml").read_text().replace(str(kept.folder), str(tmp_path)))
    (model,) = {
        one["model"]
        for one in json.loads(ask(site.app, "lineage", "null-1", "--config", config, "--json").stdout)["rounds"]
        if one["round"] == 2
    }
    told = ask(site.app, "lineage", "null-1", "--config", config).stdout.splitlines()
    assert [line.split()[:3] for line in told[1:]] == [["exp-1", "1", "train"], ["exp-1", "2", "train"]]
    assert model[:16] in told[2]
    with closing(sqlite3.connect(tmp_path / "site-c" / "spool.sqlite")) as spool:
        job = msgpack.unpackb(spool.execute("SELECT state FROM jobs").fetchone()[0])
        job |= {"experiment": "exp-2", "file": {"net": {"from": f"sha256:{model}"}}}
        spool.execute("INSERT INTO jobs VALUES ('exp-2', ?, 0)", (msgpack.packb(job),))
        spool.commit()
    told = ask(site.app, "lineage", "null-1", "--config", config).stdout.splitlines()
    assert told[-1] == "exp-2 begins with such a model: each of its models holds it"
    assert ask(site.app, "forget", "null-1", "--config", config).stdout == "1 link erased\n"
    assert ask(site.app, "lineage", "null-1", "--config", config).stdout == ""
    assert "3 keys destroyed" in ask(site.app, "forget", "--destroy-keys", "--config", config).stdout
    assert isinstance(ask(site.app, "forget", "--config", config).exception, RequestError)
    gone = ask(site.app, "commitments", "--config", config)
    assert gone.stdout.count("erased: it cannot be opened") == 2
