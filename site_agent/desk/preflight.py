"""`konsil site preflight`: what would stop this site from taking part, found before an experiment finds it.

Works while the agent itself runs: its inbox is not touched then. Torch is asked in a process of its own.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from messages.bus.base import Bus, Delivery, Start
from messages.envelope import Author, check_origin, decode_event
from messages.experiment import Experiment
from messages.ground.clock import Clock, Queue, SystemClock
from messages.ground.errors import KonsilError, MalformedMessage, NameTaken, Unreachable
from messages.kinds import Echo, EchoReply
from messages.names import COORDINATOR, DOWNLINK, GLOBAL, PROGRESS, inbox_of
from messages.trust.register import Register
from messages.trust.settings import load_trust, make_verifier
from site_agent.config import SiteConfig
from site_agent.data.inventory import take_stock
from site_agent.data.list_memory import recall_before
from site_agent.datasets.config import DatasetConfig
from site_agent.desk import control
from site_agent.desk.allowances import check_policy
from site_agent.desk.checks import Check, Grade, failed_check
from site_agent.desk.machine import check_gpus, check_machine
from site_agent.desk.programs import check_programs
from site_agent.desk.purse import check_budgets
from site_agent.desk.read_file import outdated_words
from site_agent.desk.way_in import CLOCK_WARNING, judge_way_in
from site_agent.dicom.config import DicomDataset
from site_agent.disk.secret import find_secret
from site_agent.disk.spool import read_kept
from site_agent.wire.connection import Connect, connect_rabbitmq

ECHO_WITHIN = 8.0
_TYPED_WRONG = "Look at these lines: somebody who is not here, or a typing error (`konsil site datasets` shows them)"


def run_checks(
    config: SiteConfig,
    connect: Connect = connect_rabbitmq,
    *,
    clock: Clock = SystemClock(),
    experiment: Experiment | None = None,
    file: Path | None = None,
) -> Iterator[Check]:
    """Yield each check as it is done, the state folder's first; `trainer_trial.try_trainer` is one more, and slower.

    Args:
        experiment: whether the policy would let it in.
        file: where `config` came from: whether the running agent has the same.
    """
    yield from check_machine(config)
    yield from _check_agent(config.site.state, file)
    yield from check_policy(config, clock.local().date(), experiment, _find_register(config), clock.wall())
    yield from check_budgets(config)
    yield from _check_broker(config, connect, clock)
    yield from _check_datasets(config)
    yield check_gpus(config)
    yield from check_programs(config)


def agent_runs(state: Path) -> bool:
    """Whether an agent works on this state directory now."""
    return _ask_status(state) is not None


def _ask_status(state: Path) -> dict[str, Any] | None:
    try:
        return control.ask_agent(state, {"do": "status"})
    except KonsilError:
        return None


def _check_agent(state: Path, file: Path | None) -> Iterator[Check]:
    """A running agent that goes by another file than the one that is checked here."""
    status = _ask_status(state) if file is not None else None
    if status is not None and file is not None and (words := outdated_words(status, file)) is not None:
        yield Check("agent", Grade.WARN, words)


def _check_broker(config: SiteConfig, connect: Connect, clock: Clock) -> Iterator[Check]:
    try:
        bus = connect(config, lambda _notice: None)
    except KonsilError as error:
        yield failed_check("broker", error)
        return
    try:
        yield judge_way_in(config.broker, clock.now())
        for name in (DOWNLINK, GLOBAL):
            yield _check_readable(bus, name)
        yield _own_inbox(config, bus)
        yield _check_echo(config, bus, clock)
    finally:
        bus.close()


def _check_readable(bus: Bus, name: str) -> Check:
    try:
        bus.subscribe(name, lambda _delivery: None, start=Start.NEXT, credit=1).cancel()
    except KonsilError as error:
        return failed_check(name, error)
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
        return failed_check("inbox", error)
    return Check("inbox", Grade.OK, "readable, and nobody else holds it")


def _find_register(config: SiteConfig) -> Register | None:
    """The newest register that this site knows; None: it goes by none, or one that another check finds fault with."""
    site = config.site
    if config.trust is None:
        return None
    with contextlib.suppress(KonsilError):
        trust = load_trust(config.trust, site.consortium, site.name)
        verifier = make_verifier(site.consortium, trust)
        with contextlib.suppress(KonsilError):
            if (kept := read_kept(site.state, "register")) is not None:
                verifier.go_on_from(kept)
        return verifier.register
    return None


def _check_echo(config: SiteConfig, bus: Bus, clock: Clock) -> Check:
    """The whole way to the coordinator and back: uplink writable, progress readable, and whose clock is right."""
    nonce, site = secrets.token_hex(16), config.site
    try:
        trust = None if config.trust is None else load_trust(config.trust, site.consortium, site.name)
    except KonsilError as error:
        return failed_check("trust", error)
    verifier = make_verifier(site.consortium, trust)
    answers: Queue[tuple[float, float]] = clock.make_queue()

    def on_delivery(delivery: Delivery) -> None:
        subscription.ack(delivery)
        try:
            event = decode_event(delivery.body)
            check_origin(event, delivery.key, delivery.user, site.consortium)
            verifier.check_event(event, delivery.queue, clock.wall())
        except MalformedMessage:
            return
        if event.sender == COORDINATOR and isinstance(event.body, EchoReply) and event.body.nonce == nonce:
            answers.put((clock.wall(), event.body.time))

    try:
        subscription = bus.subscribe(PROGRESS, on_delivery, start=Start.NEXT)
        author = Author(site.consortium, site.name, key=None if trust is None else trust.key)
        sent = clock.wall()
        event = author.write_event("echo", Echo(nonce=nonce), time=sent, attempt=nonce)
        if not bus.publish(event.key, event.raw).wait(ECHO_WITHIN):
            raise Unreachable("the broker does not confirm what is written", where="uplink")
    except KonsilError as error:
        return failed_check("uplink", error)
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
            yield failed_check(label, error)
            continue
        left_out = ", ".join(f"{count} {reason}" for reason, count in stock.left_out.items())
        what = f"{stock.used} of {stock.found} cases usable" + (f" (left out: {left_out})" if left_out else "")
        consent = recall_before(config.site.state, name, stock.consent, keeps=False)
        if consent is not None:
            what += f"; {consent.say_counts()}"
        least = config.policy.floors.least_cases
        if stock.used < least:
            advice = "Run `konsil site datasets` to see why, add cases, or lower policy.floors.least_cases"
            yield Check(label, Grade.FAIL, f"{what}, fewer than the policy's {least}", advice, 2)
        elif left_out:
            yield Check(label, Grade.WARN, what, "Run `konsil site datasets` to see why")
        elif consent is not None and consent.needs_a_look:
            yield Check(label, Grade.WARN, what, _TYPED_WRONG)
        else:
            yield Check(label, Grade.OK, what)
        for remark in stock.remarks:
            yield Check(label, Grade.WARN, remark)


def _check_dicom(label: str, name: str, dataset: DicomDataset, config: SiteConfig) -> Check:
    """Ask the source what it has; nothing is fetched."""
    from site_agent.dicom.prepared import accounts
    from site_agent.dicom.prepared.withdrawals import judge_source
    from site_agent.dicom.sources import open_source

    try:
        source = open_source(dataset, config.site.state)
        try:
            studies = source.find_studies()
        finally:
            source.close()
        state = config.site.state
        consent = judge_source(name, dataset, studies, state, find_secret(state))
        consent = recall_before(state, name, consent, keeps=False)
    except KonsilError as error:
        last = None
        if getattr(error, "passing", False):
            try:
                last = accounts.read_standing_in(name, dataset, config.site.state)
            except KonsilError as list_error:
                return failed_check(label, list_error)
        if last is None:
            return failed_check(label, error)
        what = f"{error.where}: {error.what}; {last.used} cases as of the last look stand in for it"
        return Check(label, Grade.WARN, what, error.advice)
    prepared = accounts.read_accounting(config.site.state, name)
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
    if consent is not None and consent.needs_a_look:
        return Check(label, Grade.WARN, what, _TYPED_WRONG)
    return Check(label, Grade.OK, what)


def _remark_on_dicom(label: str, name: str, dataset: DicomDataset, config: SiteConfig) -> Iterator[Check]:
    from site_agent.dicom.prepared.unused import remark_on_settings

    try:
        remarks = [*remark_on_settings(config.site.state, name, dataset)]
    except KonsilError as error:
        yield failed_check(label, error)
        return
    for remark in remarks:
        yield Check(label, Grade.WARN, remark)
