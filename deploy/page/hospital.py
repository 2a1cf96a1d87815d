"""What a site's operator sees: what runs and waits, what awaits approval, the data sets, what left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

from deploy.console import format_moment
from deploy.page.polling import Poller
from deploy.page.sheet import Section, Sheet, make_link, make_list
from deploy.report.html import NOTHING, make_definitions, make_table
from deploy.site.asked import Asked
from deploy.site.orders import outside_hours, standing_words, unconfirmed_words
from messages.ground.naming import NO_EXPERIMENT
from messages.ground.units import count_noun, human_bytes
from site_agent.config import SiteConfig
from site_agent.core.jobs import Job
from site_agent.data.inventory import take_stock_of
from site_agent.datasets.config import DatasetConfig
from site_agent.desk.control import ask_agent
from site_agent.disk.known_jobs import read_jobs
from site_agent.disk.ledger import Entry, OrderGiven, read_ledger, read_orders

ASK_EVERY, LEDGER_EVERY, STOCK_EVERY = 1.0, 5.0, 600.0
LATEST = 60
"""Entries of the ledger that the page shows."""


@dataclass(frozen=True, slots=True)
class HeldData:
    """A data set: cases used and found, what is left out by reason; `trouble`: why it cannot be looked at."""

    name: str
    used: int = 0
    found: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    channels: tuple[str, ...] = ()
    trouble: str = ""


class HospitalFace:
    """The page of one site.

    Args:
        config: its site.toml, as read when the page began.
        today: by which approvals expire.
    """

    def __init__(self, site: SiteConfig, config: Path, today: Callable[[], date] = date.today) -> None:
        self.name = f"site {site.site.name}"
        self._site, self._config, self._today = site, config, today
        state = site.site.state
        self._status: Poller[dict[str, Any]] = Poller(lambda: ask_agent(state, {"do": "status"}), ASK_EVERY)
        self._jobs: Poller[list[Job]] = Poller(lambda: read_jobs(state), ASK_EVERY)
        self._ledger: Poller[list[Entry]] = Poller(lambda: read_ledger(state), LEDGER_EVERY)
        self._ordered: Poller[list[OrderGiven]] = Poller(lambda: read_orders(state), LEDGER_EVERY)
        self._stock: Poller[list[HeldData]] = Poller(self._look_at_data, STOCK_EVERY)
        self._all = (self._status, self._jobs, self._ledger, self._ordered)

    def start(self) -> None:
        """Begin to look; data sets are counted meanwhile."""
        import threading

        for one in self._all:
            one.start()
        threading.Thread(target=self._stock.start, name="stock", daemon=True).start()

    def close(self) -> None:
        for one in (*self._all, self._stock):
            one.close()

    def ask_now(self) -> None:
        """Look again at once: something was ordered."""
        for one in self._all:
            one.look_once()

    @property
    def status(self) -> dict[str, Any] | None:
        """The agent's answer, the last that came."""
        return self._status.found

    def awaiting(self) -> list[Job]:
        """Experiments that await approval."""
        return [job for job in self._jobs.found or () if job.phase.value == "awaiting"]

    def find_sheet(self, path: str, chosen: Sequence[str], now: float) -> Sheet | None:
        """`/`, `/request/ID`."""
        if path.startswith("/request/"):
            job = next(
                (one for one in self._jobs.found or () if one.experiment == path.removeprefix("/request/")), None
            )
            return None if job is None else self._show_file(job)
        if path != "/":
            return None
        sections = [
            Section("Awaits your approval", self._requests()),
            Section("What runs and waits", self._work()),
            Section("Agent", self._agent()),
            Section("Data sets", self._data()),
            Section("Orders given", self._orders()),
            Section("What left this site", self._left()),
        ]
        return Sheet(self._site.site.name, self._lead(), tuple(sections), self._status.found_at, self._trouble())

    def find_file(self, path: str) -> tuple[str, str] | None:
        return None

    def _lead(self) -> str:
        answer = self._status.found
        if answer is None:
            return "The agent was not heard yet"
        waits = len(self.awaiting())
        hours = "" if answer["within_hours"] else outside_hours(answer)
        more = f"; {count_noun(waits, 'experiment')} awaits your approval" if waits == 1 else ""
        more = f"; {waits} experiments await your approval" if waits > 1 else more
        past = "when it was last heard: " if self._status.trouble else ""
        return f"{past}{answer['state']}{hours}, broker {answer['broker']}{more}"

    def _trouble(self) -> tuple[str, ...]:
        answer, told = self._status.found, []
        if self._status.trouble:
            told.append(f"The agent does not answer: {self._status.trouble}")
        told += [one.trouble for one in (self._jobs, self._ledger, self._ordered, self._stock) if one.trouble]
        if answer is not None:
            if line := unconfirmed_words(answer["unconfirmed"]):
                told.append(line)
            if (log := answer.get("log")) and log["forked"]:
                told.append("The coordinator's log was FORKED: this site takes no further part (konsil site heads)")
            if answer["broker"] != "connected":
                told.append(f"The connection with the broker is {answer['broker']} (konsil site preflight)")
        return tuple(told)

    def _requests(self) -> str:
        parts = []
        for job in self.awaiting():
            asked = Asked(job, self._site.policy, self._today())
            file = make_link(f"/request/{job.experiment}", "The whole file")
            command = f"<code>konsil site resume --approve {escape(job.experiment)}</code>"
            lines = make_definitions(list(asked.describe()))
            parts.append(f"<h3>{escape(job.experiment)}</h3>{lines}<p>{file}. To approve: {command}</p>")
        return "".join(parts)

    def _show_file(self, job: Job) -> Sheet:
        text = json.dumps(job.file, indent=2, ensure_ascii=False, default=str)
        lines = make_definitions(list(Asked(job, self._site.policy, self._today()).describe()))
        sections = (Section("In words", lines), Section("The whole file", f"<pre>{escape(text)}</pre>"))
        lead = f"digest {job.digest}"
        return Sheet(job.experiment, lead, sections, self._status.found_at, self._trouble(), (("/", "Overview"),))

    def _work(self) -> str:
        answer = self._status.found
        rows = []
        for one in () if answer is None else answer["experiments"]:
            progress = one["progress"] if one["phase"] != "ended" else None
            place = one["place_in_queue"]
            rows.append(
                [
                    one["experiment"],
                    standing_words(one),
                    f"{progress['phase']} {progress['done']}/{progress['total']}" if progress else NOTHING,
                    f"number {place} in the queue" if place else NOTHING,
                    one["researcher"],
                    f"{one['reason']}: {one['advice']}" if one["reason"] else NOTHING,
                ]
            )
        head = ["experiment", "stands", "progress", "waits", "by", "why"]
        return make_table("Experiments", head, rows, words={1, 2, 3, 4, 5}) if rows else "<p>No experiments.</p>"

    def _agent(self) -> str:
        answer = self._status.found
        if answer is None:
            return ""
        pairs = [
            ("State", answer["state"]),
            ("Broker", f"{answer['broker']} ({self._site.broker.way})"),
            ("Disk used", human_bytes(answer["disk_used_bytes"])),
            ("Bytes", f"{human_bytes(answer['bytes_down'])} in, {human_bytes(answer['bytes_up'])} out, since it began"),
            ("Awaits receipt", count_noun(answer["unreceipted"], "event") if answer["unreceipted"] else ""),
        ]
        return make_definitions([pair for pair in pairs if pair[1]]) + make_list(list(answer.get("privacy", ())))

    def _data(self) -> str:
        if self._stock.found is None:
            return "<p>The cases are being counted.</p>" if self._site.datasets else "<p>No data set is described.</p>"
        rows = [
            [
                one.name,
                one.trouble or f"{one.used} of {one.found}",
                ", ".join(f"{count} {why}" for why, count in sorted(one.left_out.items())) or NOTHING,
                ", ".join(one.channels) or NOTHING,
            ]
            for one in self._stock.found
        ]
        caption = f"As of {format_moment(self._stock.found_at)}; pictures: konsil site preview NAME"
        return make_table(caption, ["data set", "usable cases", "left out", "channels"], rows, words={1, 2, 3})

    def _look_at_data(self) -> list[HeldData]:
        return [self._look_at_set(name) for name in self._site.datasets]

    def _look_at_set(self, name: str) -> HeldData:
        config = self._site.datasets[name]
        if not isinstance(config, DatasetConfig):
            # To count these, the PACS is asked and cases are made: that is for the operator to begin.
            return HeldData(name, trouble="of a PACS: konsil site datasets counts them")
        try:
            stock = take_stock_of(name, config, self._site.site.state)
        except Exception as error:  # noqa: BLE001 - one that cannot be read must not hide the others
            return HeldData(name, trouble=str(error))
        return HeldData(name, stock.used, stock.found, dict(stock.left_out), tuple(stock.channels))

    def _orders(self) -> str:
        rows = [
            [format_moment(one.time), one.what, one.experiment or NOTHING, one.login]
            for one in reversed((self._ordered.found or [])[-LATEST:])
        ]
        return make_table("By whom", ["time", "order", "experiment", "login"], rows, words={1, 2, 3}) if rows else ""

    def _left(self) -> str:
        entries = self._ledger.found or []
        rows = [
            [
                format_moment(one.time),
                NOTHING if one.experiment == NO_EXPERIMENT else one.experiment,
                str(one.round or NOTHING),
                one.kind,
                f"{one.bytes:,}",
                one.digest[:16] or NOTHING,
                "" if one.settled else "awaits its receipt",
            ]
            for one in reversed(entries[-LATEST:])
        ]
        if not rows:
            return "<p>Nothing has left this site.</p>"
        total = human_bytes(sum(one.bytes for one in entries))
        caption = f"The last {len(rows)} of {len(entries)} entries, {total} in all"
        head = ["time", "experiment", "round", "what", "bytes", "digest", "receipt"]
        return make_table(caption, head, rows, words={1, 3, 5, 6})
