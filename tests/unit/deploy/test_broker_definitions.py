"""Definitions: who reads and writes what, and where each kind goes (deploy.broker.definitions)."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.broker.definitions import keeps_old_exchange, merge_definitions, password_hash, render_definitions
from deploy.broker.topology import Party, StreamSizes
from messages import kinds
from messages.bus.memory.grants import Grants, Topics, matches_topic
from messages.ground.errors import RequestError

PARTIES = (
    Party("coordinator", "coordinator", "c"),
    Party("site-a", "site", "a"),
    Party("site-ab", "site", "ab"),
    Party("dr-a", "researcher", "r"),
    Party("auditor", "auditor", "u"),
)
DEFINITIONS = render_definitions("glioma", PARTIES)
GRANTS = Grants(DEFINITIONS, "glioma")


def test_the_password_hash_is_rabbitmqs_salted_sha256() -> None:
    assert (
        password_hash("test12", bytes.fromhex("908dc60a"))
        == base64.b64encode(
            bytes.fromhex("908dc60a") + hashlib.sha256(bytes.fromhex("908dc60a") + b"test12").digest()
        ).decode()
    )
    # the worked example of https://www.rabbitmq.com/docs/passwords
    assert password_hash("test12", bytes.fromhex("908DC60A")) == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"


def test_no_password_stands_in_the_definitions() -> None:
    rendered = render_definitions("glioma", [Party("coordinator", "coordinator", "very-secret-word")])
    assert "very-secret-word" not in json.dumps(rendered)


SENDERS = {"coordinator": "coordinator", "site": "site-a", "researcher": "dr-a"}


def leads_to(exchange: str, key: str) -> set[str]:
    """The queues that a key leads to from an exchange."""
    return {
        binding["destination"]
        for binding in DEFINITIONS["bindings"]
        if binding["source"] == exchange and matches_topic(binding["routing_key"], key)
    }


@pytest.mark.parametrize(("kind", "role"), [(kind, role) for kind in sorted(kinds.KINDS) for role in SENDERS])
def test_every_kind_leads_from_the_exchanges_of_those_that_send_it_to_exactly_its_queue(kind: str, role: str) -> None:
    spec, sender = kinds.KINDS[kind], SENDERS[role]
    addressee = "coordinator" if role == "site" else "site-ab"
    key = f"{kind}.{sender}.exp" + (f".{addressee}" if spec.queue == "inbox" else "")
    queue = {"update": "update.site-a", "inbox": f"inbox.{addressee}"}.get(spec.queue, spec.queue)
    # an inbox takes any kind of who may write to it: a newer version's, too
    wanted = role in spec.senders or (spec.queue == "inbox" and role == "site")
    assert leads_to(f"konsil.{sender}", key) == ({queue} if wanted else set())


def test_every_binding_of_an_exchange_names_its_party() -> None:
    parties = {exchange["name"].removeprefix("konsil.") for exchange in DEFINITIONS["exchanges"]}
    assert parties == {party.name for party in PARTIES if party.role != "auditor"}
    for binding in DEFINITIONS["bindings"]:
        assert binding["source"] == f"konsil.{binding['routing_key'].split('.')[1]}"


@pytest.mark.parametrize("old_exchange", [False, True])
def test_definitions_tell_their_topology_and_whether_the_old_exchange_is_open(
    tmp_path: Path, old_exchange: bool
) -> None:
    file = tmp_path / "definitions.json"
    assert not keeps_old_exchange(file)
    rendered = render_definitions("glioma", PARTIES, old_exchange=old_exchange)
    file.write_text(json.dumps(rendered))
    assert keeps_old_exchange(file) is old_exchange
    (said,) = rendered["global_parameters"]
    assert said == {"name": "konsil_topology.glioma", "value": {"number": 2, "old_exchange": old_exchange}}


def test_definitions_of_an_earlier_version_have_the_old_exchange(tmp_path: Path) -> None:
    file = tmp_path / "definitions.json"
    file.write_text(
        json.dumps({"permissions": [{"user": "site-a", "write": "^konsil$"}, {"user": "x", "write": "^$"}]})
    )
    assert keeps_old_exchange(file)


def test_a_file_that_holds_no_definitions_is_told(tmp_path: Path) -> None:
    file = tmp_path / "definitions.json"
    file.write_text("[]")
    with pytest.raises(RequestError, match="not a file of definitions"):
        keeps_old_exchange(file)


def test_nobody_may_declare_anything() -> None:
    assert {entry["configure"] for entry in DEFINITIONS["permissions"]} == {"^$"}


def test_a_name_that_begins_like_another_gains_nothing_by_it() -> None:
    assert GRANTS.may_write("site-a", "konsil.site-a", "hello.site-a.none")
    assert not GRANTS.may_write("site-a", "konsil.site-a", "hello.site-ab.none")
    assert not GRANTS.may_write("site-ab", "konsil.site-a", "hello.site-a.none")
    assert not GRANTS.may_write("site-a", "konsil.site-ab", "hello.site-a.none")
    assert not GRANTS.may_write("site-a", "konsil", "hello.site-a.none")
    assert not GRANTS.may_read("site-a", "inbox.site-ab")
    assert not GRANTS.may_write("site-a", "konsil.site-a", "hello.coordinator.site-a")


@pytest.mark.parametrize(
    ("party", "kind", "addressees"),
    [("coordinator", "receipt", {"site-a", "dr-a"}), ("site-a", "hello", {"coordinator"}), ("dr-a", "echo", set())],
)
def test_a_fourth_word_names_an_inbox_that_the_role_writes(party: str, kind: str, addressees: set[str]) -> None:
    for addressee in ("site-a", "dr-a", "coordinator"):
        may = GRANTS.may_write(party, f"konsil.{party}", f"{kind}.{party}.exp.{addressee}")
        assert may or addressee not in addressees
        assert party == "coordinator" or may is (addressee in addressees)


def test_nobody_writes_to_the_default_exchange() -> None:
    assert not any(GRANTS.may_write(party.name, "", "inbox.site-a") for party in PARTIES)


def test_queues_say_their_type_and_their_bounds() -> None:
    queues = {queue["name"]: queue["arguments"] for queue in DEFINITIONS["queues"]}
    assert {name for name, arguments in queues.items() if arguments["x-queue-type"] == "classic"} == {
        f"inbox.{party.name}" for party in PARTIES if party.role != "auditor"
    }
    sizes = StreamSizes()
    assert queues["update.site-a"]["x-max-length-bytes"] == sizes.update_chunks
    assert all(
        arguments["x-max-length-bytes"] >= 2 * arguments["x-stream-max-segment-size-bytes"]
        for arguments in queues.values()
        if arguments["x-queue-type"] == "stream"
    )


@pytest.mark.parametrize(
    ("consortium", "parties"),
    [
        ("Glioma", PARTIES),
        ("glioma", PARTIES[1:]),
        ("glioma", (*PARTIES, Party("site-a", "site", "again"))),
    ],
)
def test_a_wrong_consortium_is_refused(consortium: str, parties: tuple[Party, ...]) -> None:
    with pytest.raises(RequestError):
        render_definitions(consortium, parties)


@pytest.mark.parametrize(("name", "role"), [("site.a", "site"), ("site-a", "king"), ("coordinator", "site")])
def test_a_wrong_party_is_refused(name: str, role: str) -> None:
    with pytest.raises(RequestError):
        Party(name, role, "x")


def test_merging_keeps_each_user_once() -> None:
    merged = merge_definitions([DEFINITIONS, render_definitions("other", PARTIES)])
    assert [vhost["name"] for vhost in merged["vhosts"]] == ["glioma", "other"]
    assert len(merged["users"]) == len(PARTIES)
    assert len(merged["permissions"]) == 2 * len(PARTIES)


WORDS = st.sampled_from(["a", "b", "*", "#"])


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.lists(WORDS, min_size=1, max_size=4).map(".".join), st.sampled_from("xyz")), max_size=8),
    st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(".".join),
)
def test_bindings_looked_up_by_word_are_those_that_match_one_by_one(bindings: list[tuple[str, str]], key: str) -> None:
    assert Topics(bindings).queues_for(key) == {queue for pattern, queue in bindings if matches_topic(pattern, key)}
