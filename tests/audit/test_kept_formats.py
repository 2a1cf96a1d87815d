"""What each kept format wrote lives: it replays, recovers, verifies, and goes on in mid-experiment to the same bits.

One folder of `tests/audit/formats` for each released or landed format, made with its own code (`keep_format`); its
README says what each file holds. A new folder is tried without a change here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from format_facts import read_journal_facts, read_log_facts, read_replay_facts, read_site_facts, replay_folder
from format_files import check_files
from format_rig import PAIR, Pair, Scripted, read_members, read_states, unpack_folder
from format_scenes import file
from format_words import wire_words
from typer.testing import CliRunner

from coordinator.core.state import Phase
from deploy.cli import audit
from messages import chain, codec, envelope, experiment, kinds
from messages.abilities import read_abilities
from messages.envelope import Author
from messages.experiment import Experiment
from messages.tensors.transfer import decode_chunk, encode_chunk

FORMATS = sorted(path for path in (Path(__file__).parent / "formats").iterdir() if path.is_dir())
JOURNALS = {"coordinator.zip": "", "site.zip": "coordinator", "walks.zip": ""}
"""Packed state folders → where the coordinator's lies in them."""


@pytest.fixture(scope="module", params=FORMATS, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest) -> Path:
    """One kept format's folder."""
    folder: Path = request.param
    return folder


@pytest.fixture(scope="module")
def facts(kept: Path) -> dict[str, Any]:
    """What the format's own code said of what it wrote."""
    read: dict[str, Any] = json.loads((kept / "facts.json").read_text("utf-8"))
    return read


def facts_of_journal(facts: dict[str, Any], packed: str) -> dict[str, Any]:
    part: dict[str, Any] = facts[packed.removesuffix(".zip")]
    found: dict[str, Any] = part.get("coordinator", part)
    return found


def final_digest(facts: dict[str, Any], name: str) -> str:
    """Of the last model that an experiment made."""
    models: dict[str, str] = facts["experiments"][name]["models"]
    return models[max(models, key=int)]


def test_a_kept_format_is_never_edited(kept: Path) -> None:
    lines = (kept / "SHA256SUMS").read_text("utf-8").splitlines()
    sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    there = {str(path.relative_to(kept)): path for path in kept.rglob("*") if path.is_file()}
    assert set(there) - {"SHA256SUMS"} == set(sums)
    assert [name for name in sums if sha256(there[name].read_bytes()).hexdigest() != sums[name]] == []


@pytest.mark.parametrize("packed", JOURNALS)
def test_a_kept_journal_recovers_replays_and_makes_every_aggregate_again(
    packed: str, kept: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    folder = unpack_folder(kept / packed, tmp_path) / JOURNALS[packed]
    steps = replay_folder(folder)
    assert [f"entry {step.entry.number}: {step.problem}" for step in steps if not step.agrees] == []
    found = read_journal_facts(folder) | {"aggregates": read_replay_facts(steps)}
    assert found == facts_of_journal(facts, packed)


@pytest.mark.parametrize("packed", ["coordinator.zip", "site.zip"])
def test_a_changed_byte_of_a_kept_update_is_found(packed: str, kept: Path, tmp_path: Path) -> None:
    """The replay of the kept journals does compare bits: where one is another, it says so."""
    folder = unpack_folder(kept / packed, tmp_path) / JOURNALS[packed]
    blob = max((folder / "blobs" / "done").iterdir())
    content = bytearray(blob.read_bytes())
    content[7] ^= 1
    blob.write_bytes(content)
    assert [step.entry.experiment for step in replay_folder(folder) if not step.agrees] == ["done"]


def test_the_coordinator_takes_up_what_was_open_and_ends_it_with_the_same_bits(
    kept: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    expected = facts["coordinator"]
    world = Scripted(unpack_folder(kept / "coordinator.zip", tmp_path))
    try:
        world.start()
        again = Experiment.model_validate(file("done")).as_plain()
        world.say("experiment-start", kinds.ExperimentStart(experiment=again), 90, "done")
        world.join()
        _completes(world, "half", final_digest(expected, "done"))
        world.say("experiment-resume", kinds.ExperimentResume(), 91, "paused")
        _completes(world, "paused", final_digest(expected, "done"))
        refused = [one.experiment for one in world.heard if one.kind == "experiment-refused"]
        assert "done" not in refused, "the same file is no longer the same experiment"
    finally:
        world.close()
    assert [step.problem for step in replay_folder(tmp_path) if not step.agrees] == []
    phases = {name: str(state.phase) for name, state in read_states(tmp_path).items()}
    then = {name: one["phase"] for name, one in expected["experiments"].items()}
    assert phases == then | {"half": "complete", "paused": "complete"}


def _completes(world: Scripted, name: str, digest: str) -> None:
    body = world.told("experiment-complete", name).body
    assert isinstance(body, kinds.ExperimentComplete)
    assert body.final_digest == digest


@pytest.mark.parametrize("site", PAIR)
def test_a_kept_site_is_taken_up_where_it_was(site: str, kept: Path, facts: dict[str, Any], tmp_path: Path) -> None:
    folder = unpack_folder(kept / "site.zip", tmp_path)
    assert read_site_facts(folder / site, site) == facts["site"][site]


def test_a_kept_coordinator_and_its_agents_finish_the_experiment_together_with_the_same_bits(
    kept: Path, facts: dict[str, Any], tmp_path: Path
) -> None:
    state = unpack_folder(kept / "site.zip", tmp_path / "state")
    secrets = {site: (state / site / "secret").read_bytes() for site in PAIR}
    pair = Pair(state)
    try:
        pair.start()
        assert pair.complete("half").final_digest == final_digest(facts["site"]["coordinator"], "done")
        closed = next(one.body for one in pair.heard if (one.kind, one.experiment) == ("round-complete", "half"))
        assert isinstance(closed, kinds.RoundComplete)
        assert sorted(closed.contributors) == list(PAIR)
    finally:
        pair.close()
    assert [step.problem for step in replay_folder(state / "coordinator") if not step.agrees] == []
    assert {name: one.phase for name, one in read_states(state / "coordinator").items()} == {
        "done": Phase.COMPLETE,
        "half": Phase.COMPLETE,
    }
    assert {site: (state / site / "secret").read_bytes() for site in PAIR} == secrets


def _written_again(name: str, raw: bytes) -> bytes:
    """What today's code makes of bytes on the wire, once it has read them."""
    if name.endswith(".chunk"):
        header, data = decode_chunk(raw)
        return encode_chunk(header, data)
    if name.endswith(".entry"):
        return chain.decode_entry(raw).with_hash().encode()
    event = envelope.decode_event(raw)
    attempt = codec.unpack(codec.unpack(raw)[0])["attempt"]
    can = read_abilities(event.ext)  # as its version had them
    author = Author(event.consortium, event.sender, event.incarnation, event.term, can)
    again = author.write_event(
        event.kind,
        event.body,
        time=event.time,
        experiment=event.experiment,
        round_number=event.round,
        attempt=attempt,
        seq=event.seq,
    )
    assert again == event
    return again.raw


def test_each_kept_word_of_the_wire_is_read_and_written_again_to_the_very_same_bytes(kept: Path) -> None:
    words = read_members(kept / "wire.zip")
    assert len(words) > 100
    assert [name for name, raw in words.items() if _written_again(name, raw) != raw] == []


def test_each_kept_experiment_has_the_digest_that_it_had(kept: Path) -> None:
    digests: dict[str, str] = json.loads((kept / "digests.json").read_text("utf-8"))
    words = read_members(kept / "wire.zip")

    def said(name: str) -> Experiment:
        body = envelope.decode_event(words[name]).body
        assert isinstance(body, kinds.ExperimentStart)
        return Experiment.model_validate(body.experiment)

    read = {name: said(name) if name in words else experiment.read_experiment(kept / name) for name in digests}
    assert {name: one.digest() for name, one in read.items()} == digests


def test_what_a_kept_experiment_was_sent_and_stored_as_has_the_same_digest_as_its_file(kept: Path) -> None:
    digests: dict[str, str] = json.loads((kept / "digests.json").read_text("utf-8"))
    for path in sorted((kept / "experiments").glob("*.json")):
        stored = Experiment.model_validate(json.loads(path.read_text("utf-8")))
        digest = digests[f"experiments/{path.stem}.toml"]
        assert stored.digest() == digest, path.name
        assert Experiment.model_validate(stored.as_plain()).digest() == digest, path.name


Invoke = Callable[..., str]


@pytest.fixture
def konsil_audit() -> Invoke:
    def invoke(*words: str, status: int = 0) -> str:
        done = CliRunner().invoke(audit.app, list(words))
        assert done.exit_code == status, done.output
        return done.stdout

    return invoke


def test_a_kept_export_verifies_and_replays_alone_and_is_exported_again_to_the_same_bytes(
    kept: Path, facts: dict[str, Any], konsil_audit: Invoke, tmp_path: Path
) -> None:
    log = kept / "log.export"
    expected = facts["log"]
    assert read_log_facts(list(chain.read_export(log))) == expected
    name = expected["experiment"]
    verified = json.loads(konsil_audit("verify", str(log), "--json"))
    assert (verified["entries"], verified["last"]["hash"]) == ({name: expected["entries"]}, expected["head"])
    told = json.loads(konsil_audit("replay", name, str(log), "--json"))
    assert told["agrees"] is True
    folder = unpack_folder(kept / "coordinator.zip", tmp_path / "state")
    konsil_audit("export", name, "--journal", str(folder), "--out", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == log.read_bytes()


def test_a_changed_byte_of_a_kept_export_is_found(kept: Path, tmp_path: Path) -> None:
    changed = tmp_path / "log"
    content = bytearray((kept / "log.export").read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    done = CliRunner().invoke(audit.app, ["verify", str(changed)])
    assert done.exit_code != 0


def test_what_makes_the_next_format_names_every_kind_and_key_of_today() -> None:
    """A kind, a body's field or an experiment's key that is new has no example yet: add it where this fails."""
    check_files()
    words = wire_words()
    assert [name for name, raw in words.items() if _written_again(name, raw) != raw] == []
