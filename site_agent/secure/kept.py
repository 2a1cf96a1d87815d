"""What the spool keeps of a secure round, as bytes and back: the try's root secret, sealed, and the record of what was
done. Sealed under the site's secret (`site_agent.datasets.vault`): a copy of the database alone tells no secret."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import msgpack

from messages.ground.errors import ConfigError, WorkFailed
from messages.secure.keys import SiteSecrets
from messages.secure.site_rules import SecureRecord
from site_agent.core.secure.decisions import SecretsKept
from site_agent.datasets.vault import Damaged, Vault
from site_agent.disk.secure_rows import SecureRows

PURPOSE = "secure-rounds"
"""What the vault's keys are for."""


def seal_secrets(vault: Vault, secrets: SiteSecrets, record: SecureRecord) -> SecretsKept:
    """A round's row."""
    return SecretsKept(vault.seal(secrets.root), pack_record(record))


def pack_record(record: SecureRecord) -> bytes:
    """The record as bytes."""
    return bytes(msgpack.packb(asdict(record)))


def open_record(kept: SecretsKept) -> SecureRecord:
    """The record out of a row; WorkFailed: it is none."""
    try:
        return SecureRecord(**msgpack.unpackb(kept.record))
    except (TypeError, ValueError) as error:
        raise WorkFailed(f"the record of a secure round cannot be read ({type(error).__name__})") from None


def open_secrets(vault: Vault, kept: SecretsKept) -> SiteSecrets:
    """The try's secrets out of a row; raises Damaged: sealed under another secret, or changed."""
    return SiteSecrets(vault.open(kept.sealed))


def require_openable(state: Path, rows: SecureRows, secret: Callable[[], bytes]) -> None:
    """Refuse a spool without its secrets: those of a secure round that is open lie in it, and nothing here opens them.

    Args:
        secret: gives the site's, which is made where there is none.

    Raises:
        ConfigError: there is no secret, or another one.
    """
    kept = rows.list_rows()
    if not kept:
        return
    advice = "Put `secret` back from a backup of this folder; without one, move spool.sqlite away"
    if not (state / "secret").exists():
        raise ConfigError(
            f"the site's secret is gone, and {kept[0].experiment}, round {kept[0].round}, has secrets sealed with it",
            where=str(state / "secret"),
            advice=advice,
        )
    vault = Vault(secret(), PURPOSE)
    for row in kept:
        try:
            open_secrets(vault, row.kept)
        except (Damaged, ValueError):
            raise ConfigError(
                f"the secrets of {row.experiment}, round {row.round}, are sealed with another secret than the site's",
                where=str(state / "secret"),
                advice=advice,
            ) from None
