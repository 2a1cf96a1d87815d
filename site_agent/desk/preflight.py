"""`konsil site preflight`: what would stop this site from taking part, found before an experiment finds it.

Works while the agent itself runs: its inbox is not touched then. Torch is asked in a process of its own.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil

from messages.bus.base import Bus, Delivery, Start
from messages.envelope import Author, decode_event
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.durable import is_out_of_space
from messages.ground.errors import KonsilError, MalformedMessage, NameTaken, Unreachable
from messages.ground.units import human_bytes
from messages.kinds import Echo, EchoReply
from messages.names import COORDINATOR, DOWNLINK, GLOBAL, PROGRESS, inbox_of
from site_agent.config import SiteConfig
from site_agent.data.inventory import take_stock
from site_agent.datasets.config import DatasetConfig
from site_agent.desk import control
from site_agent.dicom.config import DicomDataset
from site_agent.training.client import TrainerProcess
from site_agent.training.protocol import PROTOCOL
from site_agent.wire.connection import Connect, connect_rabbitmq

LEAST_FREE = 2 * 2**30
LEAST_MEMORY = 2 * 2**30
CLOCK_WARNING = 5.0
ECHO_WITHIN = 8.0
READY_WITHIN = 10.0
"""Seconds for a trainer of the operator's own to say its first word."""
_TYPED_WRONG = "Look at these lines: somebody who is not here, or a typing error (`konsil site datasets` shows them)"
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Grade(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `exit_status` is what a failure stands for."""

    name: str
    grade: Grade
    what: str
    advice: str = ""
    exit_status: int = 1


def exit_status(checks: list[Check]) -> int:
    """0, or the worst failure's: something wrong with the request (2) before something unreachable (3) before 1."""
    failed = {check.exit_status for check in checks if check.grade is Grade.FAIL}
    return next((status for status in (2, 3, 1) if status in failed), 0)


def run_checks(
    config: SiteConfig, connect: Connect = connect_rabbitmq, *, clock: Clock = SystemClock()
) -> Iterator[Check]:
    """Yield each check as it is done."""
    yield _check_state(config)
    yield _check_disk(config)
    yield _check_memory(config)
    yield from _check_broker(config, connect, clock)
    yield from _check_datasets(config)
    yield _check_gpus(config)
    if config.training.command is not None:
        yield _trainer(config.training.command)


def agent_runs(state: Path) -> bool:
    """Whether an agent works on this state directory now."""
    try:
        control.ask_agent(state, {"do": "status"})
    except KonsilError:
        return False
    return True


def _failed_check(name: str, error: KonsilError) -> Check:
    what = f"{error.where}: {error.what}" if error.where else error.what
    return Check(name, Grade.FAIL, what, error.advice, error.exit_status)


def _check_state(config: SiteConfig) -> Check:
    folder = config.site.state
    probe = folder / f".preflight-{os.getpid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe.write_bytes(b"konsil")
        probe.unlink()
    except OSError as error:
        full = is_out_of_space(error)
        advice = "Free disk space" if full else "Give the agent's user write access, or change site.state"
        return Check("state", Grade.FAIL, f"{folder}: cannot be written ({error.strerror})", advice, 2)
    return Check("state", Grade.OK, f"{folder} can be written")


def _check_disk(config: SiteConfig) -> Check:
    folder = config.site.state
    while not folder.exists():
        folder = folder.parent
    free, limit = shutil.disk_usage(folder).free, config.limits.disk
    what = f"{human_bytes(free)} free" + (f", limit {human_bytes(limit)}" if limit is not None else "")
    if limit is not None and free < limit:
        return Check("disk", Grade.WARN, f"{what}: less than the limit allows", "Free space, or lower limits.disk")
    if free < LEAST_FREE:
        return Check("disk", Grade.WARN, f"{what}: little for models and caches", "Free disk space")
    return Check("disk", Grade.OK, what)


def _check_memory(config: SiteConfig) -> Check:
    memory, limit = psutil.virtual_memory(), config.limits.ram
    what = f"{human_bytes(memory.available)} of {human_bytes(memory.total)} available"
    if limit is not None and limit > memory.total:
        return Check("memory", Grade.WARN, f"{what}, less than limits.ram", "Lower limits.ram to what the machine has")
    if memory.available < LEAST_MEMORY:
        return Check("memory", Grade.WARN, what, "Training wants 2 GiB and more: end other programs")
    return Check("memory", Grade.OK, what)


def _check_broker(config: SiteConfig, connect: Connect, clock: Clock) -> Iterator[Check]:
    address = f"{config.broker.host}:{config.broker.port}"
    try:
        bus = connect(config, lambda _notice: None)
    except KonsilError as error:
        yield _failed_check("broker", error)
        return
    try:
        yield _way_in(config, address)
        for name in (DOWNLINK, GLOBAL):
            yield _check_readable(bus, name)
        yield _own_inbox(config, bus)
        yield _check_echo(config, bus, clock)
    finally:
        bus.close()


def _way_in(config: SiteConfig, address: str) -> Check:
    if config.broker.ca is not None:
        return Check("broker", Grade.OK, f"{address} reachable over TLS, certificate and login right")
    if config.broker.host in LOOPBACK:
        return Check("broker", Grade.OK, f"{address} reachable, login right")
    return Check(
        "broker", Grade.WARN, f"{address} reachable, login right, and nothing is encrypted, the password included",
        "Set broker.ca and the broker's TLS port",
    )  # fmt: skip


def _check_readable(bus: Bus, name: str) -> Check:
    try:
        bus.subscribe(name, lambda _delivery: None, start=Start.NEXT, credit=1).cancel()
    except KonsilError as error:
        return _failed_check(name, error)
    return Check(name, Grade.OK, "readable")


def _own_inbox(config: SiteConfig, bus: Bus) -> Check:
    if agent_runs(config.site.state):
        return Check("inbox", Grade.OK, "held by this site's running agent")
    try:
        # Whatever is delivered is not acknowledged, and goes back.
        bus.subscribe(inbox_of(config.site.name), lambda _delivery: None, credit=1, exclusive=True).cancel()
    except NameTaken as error:
        return Check("inbox", Grade.FAIL, error.what, "Another agent runs under this site's name: end it", 2)
    except KonsilError as error:
        return _failed_check("inbox", error)
    return Check("inbox", Grade.OK, "readable, and nobody else holds it")


def _check_echo(config: SiteConfig, bus: Bus, clock: Clock) -> Check:
    """The whole way to the coordinator and back: uplink writable, progress readable, and whose clock is right."""
    nonce = secrets.token_hex(16)
    answers: Queue[tuple[float, float]] = clock.make_queue()

    def on_delivery(delivery: Delivery) -> None:
        subscription.ack(delivery)
        try:
            event = decode_event(delivery.body)
        except MalformedMessage:
            return
        if event.sender == COORDINATOR and isinstance(event.body, EchoReply) and event.body.nonce == nonce:
            answers.put((clock.wall(), event.body.time))

    try:
        subscription = bus.subscribe(PROGRESS, on_delivery, start=Start.NEXT)
        author = Author(config.site.consortium, config.site.name)
        sent = clock.wall()
        event = author.write_event("echo", Echo(nonce=nonce), time=sent, attempt=nonce)
        if not bus.publish(event.key, event.raw).wait(ECHO_WITHIN):
            raise Unreachable("the broker does not confirm what is written", where="uplink")
    except KonsilError as error:
        return _failed_check("uplink", error)
    try:
        came, theirs = answers.get(timeout=ECHO_WITHIN)
    except queue.Empty:
        return Check(
            "uplink", Grade.WARN, f"writable, but the coordinator did not answer within {ECHO_WITHIN:.0f} s",
            "Ask the consortium's operator whether the coordinator runs",
        )  # fmt: skip
    off = theirs - (sent + came) / 2
    what = f"coordinator answers in {1000 * (came - sent):.0f} ms, clocks differ by {abs(off):.1f} s"
    if abs(off) > CLOCK_WARNING:
        return Check("uplink", Grade.WARN, what, "Set this machine's clock by NTP")
    return Check("uplink", Grade.OK, what)


def _check_datasets(config: SiteConfig) -> Iterator[Check]:
    if not config.datasets:
        yield Check("datasets", Grade.WARN, "none is described", "Add [datasets.NAME] to site.toml")
    for name, dataset in config.datasets.items():
        label = f"dataset {name}"
        if not isinstance(dataset, DatasetConfig):
            yield _check_dicom(label, name, dataset, config)
            yield from _remark_on_dicom(label, name, dataset, config)
            continue
        try:
            stock = take_stock(dataset)
        except KonsilError as error:
            yield _failed_check(label, error)
            continue
        left_out = ", ".join(f"{count} {reason}" for reason, count in stock.left_out.items())
        what = f"{stock.used} of {stock.found} cases usable" + (f" (left out: {left_out})" if left_out else "")
        if stock.consent is not None:
            what += f"; {stock.consent.say_counts()}"
        least = config.policy.floors.least_cases
        if stock.used < least:
            advice = "Run `konsil site datasets` to see why, add cases, or lower policy.floors.least_cases"
            yield Check(label, Grade.FAIL, f"{what}, fewer than the policy's {least}", advice, 2)
        elif left_out:
            yield Check(label, Grade.WARN, what, "Run `konsil site datasets` to see why")
        elif stock.consent is not None and stock.consent.nobody:
            yield Check(label, Grade.WARN, what, _TYPED_WRONG)
        else:
            yield Check(label, Grade.OK, what)
        for remark in stock.remarks:
            yield Check(label, Grade.WARN, remark)


def _check_dicom(label: str, name: str, dataset: DicomDataset, config: SiteConfig) -> Check:
    """Ask the source what it has; nothing is fetched."""
    from site_agent.dicom.prepared import build
    from site_agent.dicom.prepared.withdrawals import judge_source
    from site_agent.dicom.sources import open_source

    try:
        source = open_source(dataset, config.site.state)
        try:
            studies = source.find_studies()
        finally:
            source.close()
        consent = judge_source(dataset.withdrawn, studies)
    except KonsilError as error:
        last = None
        if getattr(error, "passing", False):
            try:
                last = build.read_standing_in(name, dataset, config.site.state)
            except KonsilError as list_error:
                return _failed_check(label, list_error)
        if last is None:
            return _failed_check(label, error)
        what = f"{error.where}: {error.what}; {last.used} cases as of the last look stand in for it"
        return Check(label, Grade.WARN, what, error.advice)
    prepared = build.read_accounting(config.site.state, name)
    found = len(studies)
    if not found:
        return Check(label, Grade.FAIL, "the query finds no study", "Widen query in site.toml", 2)
    what = f"{found} studies found" + ("" if consent is None else f"; {consent.say_counts()}")
    if prepared is None:
        return Check(label, Grade.WARN, f"{what}, none prepared yet", "Run `konsil site datasets` to prepare them")
    what += f", {prepared.used} of {prepared.found} prepared as cases"
    least = config.policy.floors.least_cases
    if prepared.used < least:
        advice = "Run `konsil site datasets` to see why, or lower policy.floors.least_cases"
        return Check(label, Grade.FAIL, f"{what}, fewer than the policy's {least}", advice, 2)
    if prepared.left_out:
        return Check(label, Grade.WARN, what, "Run `konsil site datasets` to see why others are left out")
    if consent is not None and consent.nobody:
        return Check(label, Grade.WARN, what, _TYPED_WRONG)
    return Check(label, Grade.OK, what)


def _remark_on_dicom(label: str, name: str, dataset: DicomDataset, config: SiteConfig) -> Iterator[Check]:
    from site_agent.dicom.prepared.unused import remark_on_settings

    try:
        remarks = [*remark_on_settings(config.site.state, name, dataset)]
    except KonsilError as error:
        yield _failed_check(label, error)
        return
    for remark in remarks:
        yield Check(label, Grade.WARN, remark)


def _trainer(command: Sequence[str]) -> Check:
    """Start the operator's own trainer, and hear which version of the protocol it speaks."""
    exited: list[int] = []
    try:
        process = TrainerProcess(lambda _reply: None, exited.append, program=command)
    except KonsilError as error:
        return Check("trainer", Grade.FAIL, f"{command[0]} cannot be started", error.advice, 2)
    try:
        version = process.wait_version(READY_WITHIN)
    except KonsilError as error:
        return _failed_check("trainer", error)
    finally:
        process.stop()
    if version is not None:
        return Check("trainer", Grade.OK, f"{command[0]} speaks version {version} of the protocol")
    if exited and exited[0]:
        advice = "Run training.command by hand with --help: it names what is missing"
        return Check("trainer", Grade.FAIL, f"{command[0]} ended with status {exited[0]} before it said a word", advice)
    return Check(
        "trainer", Grade.WARN, f"{command[0]} says no version of the protocol: taken for Konsil 0.1's",
        f"Have it say version {PROTOCOL} first (docs/site.md): the next release refuses a trainer that says none",
    )  # fmt: skip


_ASK_TORCH = "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0)"


def _check_gpus(config: SiteConfig, run: Callable[[], str] | None = None) -> Check:
    wanted = config.limits.gpus
    if not wanted:
        return Check("gpu", Grade.OK, f"none lent: training on {config.limits.threads} CPU threads")
    try:
        answer = (run or _ask_torch)().strip()
    except (OSError, subprocess.SubprocessError):
        return Check("gpu", Grade.FAIL, "torch cannot be asked", "Install the site agent's training part again")
    seen = int(answer) if answer.isdigit() else 0
    if seen <= max(wanted):
        return Check(
            "gpu", Grade.FAIL, f"limits.gpus names GPU {max(wanted)}, and torch sees {seen}",
            "Check the driver with nvidia-smi and that torch is its CUDA build, or change limits.gpus",
        )  # fmt: skip
    return Check("gpu", Grade.OK, f"torch sees {seen}, lent: {', '.join(map(str, wanted))}")


def _ask_torch() -> str:
    done = subprocess.run([sys.executable, "-c", _ASK_TORCH], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout
