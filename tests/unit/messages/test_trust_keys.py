"""Keys, notes and the operator's register: what signs, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages.ground.errors import ConfigError, MalformedMessage, RequestError
from messages.trust import keys, register
from messages.trust.keys import derive_key, is_usable, make_key, read_key, say_fingerprint, verify_message, write_key
from messages.trust.notes import Note, NoteSignature, read_note
from messages.trust.register import KeyEntry, Register, check_successor, read_register, sign_register

OPERATOR, COORDINATOR, SITE = derive_key(bytes(32)), derive_key(bytes([1]) * 32), derive_key(bytes([2]) * 32)
RFC_8032_SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


def entry(name: str = "site-a", key: keys.SigningKey = SITE, **more: object) -> KeyEntry:
    role = "coordinator" if name == "coordinator" else "site"
    fields = {"name": name, "role": role, "key": key.public.hex(), "since": 100.0, "until": 200.0} | more
    return KeyEntry.model_validate(fields)


def registered(*entries: KeyEntry, serial: int = 1, **more: object) -> Register:
    return Register.model_validate(
        {"consortium": "glioma", "serial": serial, "made": 100.0, "keys": [one.model_dump() for one in entries]} | more
    )


def test_the_key_of_rfc_8032_s_first_vector_has_its_public_key_and_signature() -> None:
    key = derive_key(RFC_8032_SEED)
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign_bytes(b"").hex().startswith("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")


@given(message=st.binary(max_size=64), place=st.integers(0, 63), bit=st.integers(0, 7))
def test_a_signature_holds_for_one_message_in_one_context_and_no_changed_bit_of_it(
    message: bytes, place: int, bit: int
) -> None:
    signature = SITE.sign_message("konsil event 1", message)
    assert verify_message(SITE.public, "konsil event 1", message, signature)
    assert not verify_message(SITE.public, "konsil head 1", message, signature)
    assert not verify_message(COORDINATOR.public, "konsil event 1", message, signature)
    changed = bytearray(signature)
    changed[place] ^= 1 << bit
    assert not verify_message(SITE.public, "konsil event 1", message, bytes(changed))


def test_a_signature_with_its_s_raised_by_the_group_s_order_is_refused() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    signature = SITE.sign_message("c", b"m")
    s = int.from_bytes(signature[32:], "little") + order
    assert not verify_message(SITE.public, "c", b"m", signature[:32] + s.to_bytes(32, "little"))


@pytest.mark.parametrize(
    "public",
    [
        bytes(32),  # y = 0
        bytes([1, *bytes(31)]),  # the neutral element
        bytes([1, *bytes(30), 0x80]),  # the same, with a sign that it does not have
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),  # 1, written as p + 1
        b"",
        bytes(31),
    ],
)
def test_a_key_of_small_order_or_in_another_encoding_is_none(public: bytes) -> None:
    assert not is_usable(public)
    assert not verify_message(public, "c", b"m", bytes(64))


def test_a_key_comes_back_from_its_file_which_nobody_else_can_read(tmp_path: Path) -> None:
    key = make_key()
    write_key(key, tmp_path / "keys" / "event.key")
    assert read_key(tmp_path / "keys" / "event.key").public == key.public
    assert (tmp_path / "keys" / "event.key").stat().st_mode & 0o777 == 0o600


def test_a_key_is_never_written_over_another(tmp_path: Path) -> None:
    write_key(SITE, tmp_path / "event.key")
    with pytest.raises(RequestError, match="there is a key already"):
        write_key(make_key(), tmp_path / "event.key")
    assert read_key(tmp_path / "event.key").public == SITE.public


def test_a_key_under_a_passphrase_opens_with_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "event.key"
    write_key(SITE, path, b"correct horse")
    assert read_key(path, b"correct horse").public == SITE.public
    with pytest.raises(ConfigError, match="needs a passphrase"):
        read_key(path)
    with pytest.raises(ConfigError, match="passphrase is wrong"):
        read_key(path, b"battery staple")


def test_a_key_that_others_may_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "event.key"
    write_key(SITE, path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_key(path)


@pytest.mark.parametrize("content", [b"", b"x", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_is_no_key_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "event.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="no private key in PEM"):
        read_key(path)


def test_a_fingerprint_is_said_in_eight_words_of_five_letters() -> None:
    words = say_fingerprint(SITE.public).split(" ")
    assert [len(word) for word in words] == [5] * 8
    assert say_fingerprint(COORDINATOR.public) != say_fingerprint(SITE.public)
    assert keys._say_word(0x7F00) == "lusab"  # 127.0 of 127.0.0.1, which the paper spells lusab-babad
    assert keys._say_word(0x0001) == "babad"


def test_a_note_comes_back_from_its_bytes_and_its_signature_holds_for_its_signer() -> None:
    note = Note("a head\n12\n").with_signature("coordinator", COORDINATOR).with_signature("site-a", SITE)
    again = read_note(note.encode())
    assert again == note
    assert again.is_signed_by("coordinator", COORDINATOR.public)
    assert again.is_signed_by("site-a", SITE.public)
    assert not again.is_signed_by("site-a", COORDINATOR.public)
    assert not again.is_signed_by("site-b", SITE.public)
    assert not Note("a head\n13\n", again.signatures).is_signed_by("site-a", SITE.public)


@given(data=st.binary(max_size=300))
def test_bytes_that_are_no_note_are_refused_by_a_code_alone(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_note(data)


def test_a_register_comes_back_from_its_file_where_the_operator_signed_it() -> None:
    content = registered(entry(), entry("coordinator", COORDINATOR))
    data = sign_register(content, OPERATOR)
    assert read_register(data, OPERATOR.public, "glioma") == content
    for change, operator, consortium in (
        (b"", SITE.public, "glioma"),
        (b"", OPERATOR.public, "other"),
        (b"x", OPERATOR.public, "glioma"),
    ):
        with pytest.raises(MalformedMessage):
            read_register(data.replace(b'"serial": 1', b'"serial": 2') if change else data, operator, consortium)


def test_a_key_speaks_for_its_party_from_its_first_moment_to_its_last_and_not_once_revoked() -> None:
    next_key = derive_key(bytes([3]) * 32)
    content = registered(entry(), entry(key=next_key, since=150.0, until=300.0, revoked=250.0))
    assert content.keys_of("site-a", 99.0) == ()
    assert content.keys_of("site-a", 100.0) == (SITE.public,)
    assert content.keys_of("site-a", 160.0) == (SITE.public, next_key.public)
    assert content.keys_of("site-a", 200.0) == (next_key.public,)
    assert content.keys_of("site-a", 250.0) == ()
    assert content.is_barred("site-a", 250.0)
    assert not content.is_barred("site-a", 160.0)
    assert not content.is_barred("site-b", 160.0)
    assert content.role_of("site-a") == "site"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (registered(entry(), serial=2), registered(entry(), serial=1), "older register"),
        (registered(entry()), registered(), "another register with serial"),
        (
            registered(entry(), signatures="required"),
            registered(entry(), serial=2),
            "no longer requires signatures",
        ),
        (registered(entry()), registered(serial=2), "is gone"),
        (registered(entry()), registered(entry("site-b"), serial=2), "is another's"),
        (registered(entry(revoked=120.0)), registered(entry(), serial=2), "revoked is good again"),
        (registered(entry(revoked=120.0)), registered(entry(revoked=150.0), serial=2), "revoked is good again"),
    ],
)
def test_a_register_that_does_not_follow_is_refused(old: Register, new: Register, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        check_successor(old, new)


def test_a_register_follows_where_keys_are_added_ended_or_revoked() -> None:
    old = registered(entry())
    new = register.add_keys(old, [entry("site-b", COORDINATOR)], 130.0)
    check_successor(old, new)
    check_successor(new, register.replace_keys(new, [entry(revoked=140.0), new.keys[1]], 140.0))
    assert new.serial == 2


def test_one_key_cannot_be_two_parties_nor_one_party_two_roles() -> None:
    with pytest.raises(RequestError, match="in the register already"):
        register.add_keys(registered(entry()), [entry("site-b")], 130.0)
    with pytest.raises(RequestError, match="two roles"):
        register.add_keys(registered(entry()), [entry(key=COORDINATOR, role="researcher")], 130.0)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, json.dumps({"consortium": "glioma", "more": 1})])
def test_a_signed_text_that_is_no_register_is_refused(content: str) -> None:
    data = Note(f"konsil register 1\n{content}\n").with_signature("operator", OPERATOR).encode()
    with pytest.raises(MalformedMessage, match="cannot be read"):
        read_register(data, OPERATOR.public, "glioma")


def test_a_signature_under_a_note_is_written_in_one_way_only() -> None:
    line = NoteSignature("site-a", b"\x01\x02\x03\x04", bytes(64)).write_line()
    assert line.endswith("AAA=\n")
    other = line.replace("AAA=\n", "AAB=\n")  # the same bytes: the letter's last bits are left over
    assert len(read_note(f"text\n\n{line}".encode()).signatures) == 1
    with pytest.raises(MalformedMessage):
        read_note(f"text\n\n{other}".encode())
