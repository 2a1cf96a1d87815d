"""What is written out of a kit's facts: the configuration of each kind of party. Pure.

A string of TOML is a string of JSON as far as names, hosts and references go (TOML 1.0, basic strings).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence

from deploy.provision.kit import PartyKit

SITE = """
# What may be trained on, and who may: see docs/site.md. Nothing is let in until you say so.
# [datasets.glioma]
# source = "brats"
# path = "/data/glioma"
# labels = { 1 = "NCR", 2 = "ED", 3 = "ET" }

[policy]
approval = "hand"
# [[policy.allow]]
# researchers = ["dr-a"]
# datasets = ["glioma"]
"""


def config_name(role: str) -> str:
    """The file's name: site.toml, coordinator.toml, or profile.toml of a person."""
    return f"{role}.toml" if role in ("site", "coordinator") else "profile.toml"


def write_config(kit: PartyKit, passphrase: str, members: Sequence[tuple[str, str]] = ()) -> str:
    """A party's configuration; paths are relative to it.

    Args:
        passphrase: the reference ("file:PATH", "credential:NAME") of its keys' passphrase; "": they have none.
        members: (name, role) of the consortium's, for the coordinator's lists.
    """
    if kit.role == "site":
        head = f'schema = 1\n\n[site]\nname = "{kit.name}"\nconsortium = "{kit.consortium}"\nstate = "state"\n'
        return head + _common(kit, passphrase) + SITE
    if kit.role == "coordinator":
        lists = "".join(f"{key} = {names}\n" for key, names in _lists(members).items())
        head = f'schema = 1\n\n[coordinator]\nconsortium = "{kit.consortium}"\nstate = "state"\n'
        return head + lists + _common(kit, passphrase)
    head = f'name = "{kit.name}"\nrole = "{kit.role}"\nconsortium = "{kit.consortium}"\n'
    return head + _common(kit, passphrase)


def _common(kit: PartyKit, passphrase: str) -> str:
    """[broker] and [trust]."""
    lines = ["", "[broker]", f"host = {_quote(kit.broker.hosts[0])}", f"port = {kit.broker.port}", 'ca = "ca.pem"']
    secret = [f"passphrase = {_quote(passphrase)}"] if passphrase else []
    if kit.login == "certificate":
        lines += ['login = "certificate"', 'cert = "keys/tls.pem"', 'key = "keys/tls.key"', *secret]
    else:
        lines += ['login = "password"', 'password = "file:keys/password"']
    lines += ["", "[trust]", 'key = "keys/event.key"', *secret, f'operator = "{kit.operator}"']
    return "\n".join([*lines, 'register_file = "register.note"', ""])


def _lists(members: Sequence[tuple[str, str]]) -> dict[str, str]:
    roles = {"sites": "site", "researchers": "researcher"}
    return {key: json.dumps([name for name, found in members if found == role]) for key, role in roles.items()}


def change_lists(text: str, members: Sequence[tuple[str, str]]) -> str | None:
    """A coordinator.toml that admits these, everything else as its owner left it; None where that cannot be done."""
    changed = text
    for key, names in _lists(members).items():
        # What takes its place is a list of names out of a-z, 0-9 and "-": no escape in it.
        changed = re.sub(rf"(?m)^{key}[ \t]*=[ \t]*\[[^\]]*\]", f"{key} = {names}", changed)
    try:
        before, after = tomllib.loads(text), tomllib.loads(changed)
        wanted = {key: json.loads(names) for key, names in _lists(members).items()}
        fits = after == before | {"coordinator": before["coordinator"] | wanted}
    except (ValueError, KeyError, TypeError):
        return None
    return changed if fits else None


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
