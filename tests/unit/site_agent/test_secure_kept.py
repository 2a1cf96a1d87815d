"""What a spool keeps of secure rounds: sealed, and gone for good with the round; a spool without its secret is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from messages.ground.errors import ConfigError
from messages.secure.keys import SiteSecrets
from messages.secure.site_rules import SecureRecord
from site_agent.core.secure.decisions import SecretsKept
from site_agent.datasets.vault import Vault
from site_agent.disk.spool import Spool
from site_agent.secure.kept import PURPOSE, open_record, open_secrets, require_openable, seal_secrets

ROOT = bytes(range(32))
RECORD = SecureRecord(round=3, attempt=2, seal_key=b"s" * 32, mask_key=b"m" * 32, exchange="a" * 64)


def kept_by(spool: Spool, root: bytes = ROOT) -> SecretsKept:
    return seal_secrets(Vault(spool.site_secret(), PURPOSE), SiteSecrets(root), RECORD)


def test_a_row_comes_back_as_it_was_and_holds_no_secret_in_clear(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = kept_by(spool)
    spool.secure.keep_row("e", 3, kept)
    spool.close()
    again = Spool(tmp_path)
    found = again.secure.read_row("e", 3)
    assert found == kept
    assert found is not None
    assert (open_secrets(Vault(again.site_secret(), PURPOSE), found).root, open_record(found)) == (ROOT, RECORD)
    assert ROOT not in b"".join(path.read_bytes() for path in tmp_path.glob("spool.sqlite*"))
    again.close()


def test_what_is_dropped_is_overwritten_on_the_disk(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = kept_by(spool)
    spool.secure.keep_row("e", 3, kept)
    assert any(kept.sealed in path.read_bytes() for path in tmp_path.glob("spool.sqlite*"))
    spool.secure.drop_rows("e", 3)
    spool.secure.clear_traces()
    assert not any(kept.sealed in path.read_bytes() for path in tmp_path.glob("spool.sqlite*"))
    spool.close()


def test_rows_go_up_to_a_round_and_a_record_is_noted_only_where_its_row_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    for number in (1, 2):
        spool.secure.keep_row("e", number, kept_by(spool))
    spool.secure.drop_rows("e", 1)
    assert spool.secure.read_row("e", 1) is None
    before = kept_by(spool).record
    assert not spool.secure.note_record("e", 1, before, b"record")
    assert spool.secure.note_record("e", 2, before, b"record")
    assert spool.secure.note_record("e", 2, before, b"record"), "the same once more"
    assert not spool.secure.note_record("e", 2, before, b"other"), "two threads cannot both be the first"
    found = spool.secure.read_row("e", 2)
    assert found is not None
    assert found.record == b"record"
    spool.close()


def test_a_spool_without_its_secret_is_told_in_one_line_before_anything_is_done(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    require_openable(tmp_path, spool.secure, spool.site_secret)
    spool.secure.keep_row("exp-1", 3, kept_by(spool))
    require_openable(tmp_path, spool.secure, spool.site_secret)
    (tmp_path / "secret").unlink()
    with pytest.raises(ConfigError, match="the site's secret is gone, and exp-1, round 3, has secrets sealed with it"):
        require_openable(tmp_path, spool.secure, spool.site_secret)
    assert not (tmp_path / "secret").exists()
    spool.site_secret()
    with pytest.raises(ConfigError, match="exp-1, round 3, are sealed with another secret than the site's"):
        require_openable(tmp_path, spool.secure, spool.site_secret)
    spool.close()


def test_a_record_of_a_newer_agent_is_refused_and_not_taken_for_none() -> None:
    with pytest.raises(Exception, match="the record of a secure round cannot be read"):
        open_record(replace(SecretsKept(b"", b""), record=b"\x81\xa3new\x01"))
