"""What a private Orthanc is told: its configuration file (JSON), and where its program and plugin lie.

Keys as in Orthanc 1.10's own default configuration (Orthanc Book, "Configuration").
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from messages.ground.errors import Unreachable

HOST = "127.0.0.1"
PLUGIN = "libOrthancDicomWeb.so"
PROGRAM_FOLDERS = "/usr/sbin:/usr/local/sbin"
"""Beside the PATH: a user's own often lacks them."""
PLUGIN_FOLDERS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
INSTALL_ADVICE = (
    "Install it: on Debian or Ubuntu 'sudo apt-get install orthanc orthanc-dicomweb' (and, so that the system's own "
    "server stays off, 'sudo systemctl disable --now orthanc'); elsewhere see https://www.orthanc-server.com"
)


class Missing(Unreachable):
    """Orthanc or its DICOMweb plugin is not installed."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Orthanc as it lies on this machine."""

    program: Path
    plugin: Path


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a node listens."""

    http: int
    dicom: int


def find_orthanc() -> Installed:
    """Orthanc and its DICOMweb plugin; ORTHANC_PLUGINS names another folder of plugins.

    Raises:
        Missing: one of them is not installed.
    """
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path=PROGRAM_FOLDERS)
    if program is None:
        raise Missing("Orthanc is not installed on this machine", advice=INSTALL_ADVICE)
    folders = list(PLUGIN_FOLDERS)
    if custom := os.environ.get("ORTHANC_PLUGINS"):
        folders.insert(0, Path(custom))
    for folder in folders:
        # the package has a link without a version, or none: then the newest of those with one
        if found := sorted(folder.glob(f"{PLUGIN}*"), key=lambda path: (path.name != PLUGIN, path.name)):
            return Installed(Path(program), found[0])
    raise Missing("Orthanc's DICOMweb plugin is not installed on this machine", advice=INSTALL_ADVICE)


def write_content(
    folder: Path,
    ports: Ports,
    plugin: Path,
    *,
    aet: str,
    aets: Mapping[str, tuple[str, int]],
    users: Mapping[str, str],
    strict_aet: bool,
) -> dict[str, Any]:
    """The configuration file of a node whose whole state lies in `folder`.

    Args:
        aet: the node's own AE title.
        aets: who may talk DICOM to it and is found as a C-MOVE destination: AE title → host, port.
        users: who may log in over HTTP, with passwords; empty: no login.
        strict_aet: refuse associations that call another title than `aet`, or come from a title (or host) not in
            `aets`. Else any caller may find, get, move and store.
    """
    return {
        "Name": folder.name,
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "TemporaryDirectory": str(folder / "tmp"),
        "Plugins": [str(plugin)],
        "HttpPort": ports.http,
        # Orthanc 1.10 cannot be told an address to listen on: what is not from loopback is answered 403
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": bool(users),
        "RegisteredUsers": dict(users),
        "HttpDescribeErrors": True,
        "DicomPort": ports.dicom,
        "DicomAet": aet,
        "DicomCheckCalledAet": strict_aet,
        "DicomCheckModalityHost": strict_aet,  # of the callers below, only from their own host: loopback
        "DicomModalities": {name_modality(title): [title, host, port] for title, (host, port) in aets.items()},
        **{
            f"DicomAlwaysAllow{verb}": not strict_aet
            for verb in ("Echo", "Store", "Find", "FindWorklist", "Get", "Move")
        },
        "DicomScpTimeout": 30,
        "DicomScuTimeout": 10,
        "SynchronousCMove": True,
        "UnknownSopClassAccepted": False,
        "SaveJobs": False,
        "JobsHistorySize": 10,
        "StorageCompression": False,
        "OverwriteInstances": False,
        "StoreDicom": True,
        "DicomWeb": {
            "Enable": True,
            "Root": "/dicom-web/",
            "EnableWado": True,
            "StudiesMetadata": "Full",
            "SeriesMetadata": "Full",
        },
    }


def name_modality(title: str) -> str:
    """The name under which a modality is kept: letters, digits and "-" alone."""
    return re.sub(r"[^A-Za-z0-9-]", lambda match: f"-{ord(match[0]):02x}-", title)
