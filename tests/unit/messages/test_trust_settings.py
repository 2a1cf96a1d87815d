"""`[trust]`: what a party begins with, and what is told where its files do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from messages.ground.errors import ConfigError
from messages.trust.keys import derive_key, write_key
from messages.trust.register import KeyEntry, Register, sign_register
from messages.trust.settings import TrustSettings, load_trust

OPERATOR, SITE = derive_key(bytes(32)), derive_key(bytes([2]) * 32)


@pytest.fixture
def settings(tmp_path: Path) -> TrustSettings:
    """The section and the files that it names, relative to a folder."""
    mine = KeyEntry(name="site-a", role="site", key=SITE.public.hex(), since=1.0, until=2e9)
    register = Register(consortium="glioma", serial=1, made=1.0, keys=(mine,))
    (tmp_path / "register.note").write_bytes(sign_register(register, OPERATOR))
    write_key(SITE, tmp_path / "event.key")
    written = TrustSettings(key="event.key", operator=OPERATOR.public.hex(), register_file=Path("register.note"))
    return written.relative_to(tmp_path)


def test_a_party_begins_with_its_key_and_the_register_of_its_kit(settings: TrustSettings) -> None:
    trust = load_trust(settings, "glioma", "site-a")
    assert trust.key.public == SITE.public
    assert trust.operator == OPERATOR.public
    assert trust.register.keys_of("site-a", 5.0) == (SITE.public,)


def test_a_key_that_the_register_gives_to_nobody_or_to_another_is_told(settings: TrustSettings) -> None:
    with pytest.raises(ConfigError, match="does not have this key for site-b"):
        load_trust(settings, "glioma", "site-b")


def test_a_register_of_another_operator_or_consortium_and_a_missing_one_are_told(settings: TrustSettings) -> None:
    stranger = settings.model_copy(update={"operator": SITE.public.hex()})
    with pytest.raises(ConfigError, match="operator did not sign"):
        load_trust(stranger, "glioma", "site-a")
    with pytest.raises(ConfigError, match="another consortium"):
        load_trust(settings, "other", "site-a")
    settings.register_file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        load_trust(settings, "glioma", "site-a")
