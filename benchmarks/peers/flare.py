"""NVIDIA FLARE: a provisioned server and clients as processes of their own, gRPC with mutual TLS.

What TUNED sets, and why (FLARE's defaults, which STOCK keeps, stand beside it):

- task_check_period 0.02 s (0.5) and task_request_interval 0.05 s (2): how often the server looks whether a round is
  done, and how long a client waits before it asks for work again.
  FLARE 2.9.0 hands the first on to its task monitor under a name that this one does not read
  (`communicator.task_check_period`), so the monitor keeps its 0.2 s: a round takes 0.2 to 0.4 s at the least.
- np_download_chunk_size 8 MiB (2): arrays are fetched in requests of that size; larger ones gain no time and cost
  memory.

In both the model is not saved after a round, which FLARE's FedAvg does by default, and an Executor does the work
instead of a script behind the Client API: neither a copy nor a file more than FLARE itself needs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import environment
from benchmarks.peers.deployment import Deployment, free_ports, outcome, watch
from benchmarks.peers.deployment import environment as surroundings
from benchmarks.peers.work import TENSORS, Outcome, Work, completed, seconds_per_round

SIDE = environment.HERE / "sides" / "flare"
ADMINISTRATOR = "admin@bench.example"
START_WITHIN = 90.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What a job sets; see the module's text. `chunk` and `check_every` of None leave FLARE's defaults."""

    ask_every: float | None
    check_every: float | None
    chunk: int | None


TUNED = Settings(ask_every=0.05, check_every=0.02, chunk=8 * 2**20)
STOCK = Settings(ask_every=None, check_every=None, chunk=None)


def measure(work: Work, folder: Path, say: Callable[[str], None], settings: Settings = TUNED) -> Outcome:
    """Deploy, run one job, end everything.

    Raises:
        KonsilError: what did not work, with the last words of the process concerned.
    """
    programs = environment.prepare("flare", say)
    deployment = Deployment(folder, surroundings(programs, MALLOC_ARENA_MAX="4"))
    stamps = folder / "stamps"
    clients = [f"site-{number}" for number in range(1, work.clients + 1)]
    kits = _provision(deployment, programs, clients, free_ports(1)[0])
    job = _job(folder / "job", work, stamps, settings)
    python = str(programs / "python")

    def administer(what: str, argument: str, within: float) -> None:
        command = [python, str(SIDE / "administer.py"), str(kits / ADMINISTRATOR), what, argument, str(within)]
        deployment.once(f"administrator-{what}", command, within + 30)

    try:
        say("FLARE: starting a server and its clients")
        deployment.start("server", _process(python, "server", kits / "localhost"))
        for client in clients:
            deployment.start(client, _process(python, "client", kits / client, client))
        administer("wait", str(work.clients), START_WITHIN)
        idle = deployment.sizes()
        say(f"FLARE: {work.rounds} rounds of {work.megabytes:g} MB")
        with watch(deployment, lambda: completed(stamps)) as watched:
            administer("run", str(job), work.within)
        spread = seconds_per_round(stamps, work)
    finally:
        deployment.end()
    return outcome(
        work,
        spread,
        idle,
        watched,
        system="flare" if settings == TUNED else "flare-stock",
        version=environment.version("flare"),
        transport="gRPC, mutual TLS",
    )


def _process(python: str, kind: str, kit: Path, name: str = "") -> list[str]:
    """What a startup kit's start.sh runs, without the loop that starts it again."""
    module = f"nvflare.private.fed.app.{kind}.{kind}_train"
    settings = ["secure_train=true", "org=bench", "config_folder=config"] + ([f"uid={name}"] if name else [])
    return [python, "-u", "-m", module, "-m", str(kit), "-s", f"fed_{kind}.json", "--set", *settings]


def _provision(deployment: Deployment, programs: Path, clients: list[str], port: int) -> Path:
    """Startup kits with keys and certificates; the folder that holds one folder a participant."""
    lighter = "nvflare.lighter.impl"
    participants = [
        # a server whose name is a loopback name listens on loopback alone
        {"name": "localhost", "type": "server", "org": "bench", "fed_learn_port": port},
        *({"name": name, "type": "client", "org": "bench"} for name in clients),
        {"name": ADMINISTRATOR, "type": "admin", "org": "bench", "role": "project_admin"},
    ]
    project = {
        "api_version": 3,
        "name": "peers",
        "description": "null training",
        "participants": participants,
        "builders": [
            {"path": f"{lighter}.workspace.WorkspaceBuilder", "args": {"template_file": ["master_template.yml"]}},
            {"path": f"{lighter}.static_file.StaticFileBuilder", "args": {"config_folder": "config", "scheme": "grpc"}},
            {"path": f"{lighter}.cert.CertBuilder"},
            {"path": f"{lighter}.signature.SignatureBuilder"},
        ],
    }
    (deployment.folder / "project.yml").write_text(json.dumps(project))  # JSON is YAML
    deployment.once("provision", [str(programs / "nvflare"), "provision", "-p", "project.yml", "-w", "kits"], 60)
    kits = deployment.folder / "kits" / "peers" / "prod_00"
    local = kits / "localhost" / "local"
    # FLARE keeps jobs and snapshots in one place under /tmp for the whole machine, unless the site says otherwise
    resources = (local / "resources.json.default").read_text().replace("/tmp/nvflare", str(deployment.folder / "store"))
    (local / "resources.json").write_text(resources)
    return kits


def _job(folder: Path, work: Work, stamps: Path, settings: Settings) -> Path:
    app = folder / "app"
    shutil.copytree(SIDE, app / "custom", ignore=shutil.ignore_patterns("administer.py", "__pycache__"))
    (app / "config").mkdir()
    both: dict[str, Any] = {"format_version": 2, "components": []}
    asking: dict[str, Any] = {"heart_beat_timeout": 600}
    checking: dict[str, Any] = {}
    if settings.chunk is not None:
        both["np_download_chunk_size"] = settings.chunk
    if settings.ask_every is not None:
        asking["task_request_interval"] = settings.ask_every
    if settings.check_every is not None:
        checking["task_check_period"] = settings.check_every
    server = {
        **both,
        "server": asking,
        "workflows": [
            {
                "id": "controller",
                "path": "null_work.NullFedAvg",
                "args": {
                    "num_clients": work.clients,
                    "num_rounds": work.rounds,
                    "tensors": TENSORS,
                    "numbers": work.numbers,
                    "stamps": str(stamps),
                    **checking,
                },
            }
        ],
    }
    client = {
        **both,
        "executors": [{"tasks": ["train"], "executor": {"path": "null_work.AddConstant", "args": {}}}],
    }
    (app / "config" / "config_fed_server.json").write_text(json.dumps(server))
    (app / "config" / "config_fed_client.json").write_text(json.dumps(client))
    meta = {"name": "null", "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}, "min_clients": work.clients}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder
