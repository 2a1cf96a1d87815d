"""What RabbitMQ can carry on this machine, and what our bus takes of it.

    python -m benchmarks.broker_ceiling [--json] [--megabytes 192] [--clients raw,bus,tls]

A private node, 1 MiB messages on streams. Laps: one writer alone ("publish"), one reader of what it wrote
("consume"), both at once ("1-1"), and a round's two halves: one writer and three readers of `global` ("down"), three
writers of three streams and one reader ("up"). Each lap runs with a bare socket ("raw": no digests, no files, no
threads) and through `RabbitBus` ("bus"; "tls": with TLS), writers and readers as processes of their own. CPU seconds
are per GiB of payload that crossed the broker's edge on that side, from /proc (broker) and os.times() (clients).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.raw_amqp import RawClient
from deploy.broker import keeper
from deploy.broker.definitions import render_definitions
from deploy.broker.node import PrivateNode
from deploy.broker.topology import Party, StreamSizes
from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Delivery, Start
from messages.ground.settings import BrokerAddress

VHOST = "ceiling"
MIB = 2**20
SITES = ("site-a", "site-b", "site-c")
TICKS = os.sysconf("SC_CLK_TCK")
LAPS = ("publish", "consume", "1-1", "down", "up")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the laps and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.broker_ceiling", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--megabytes", type=int, default=192, help="MiB that each reader of a lap gets")
    parser.add_argument("--clients", default="raw,bus", help="of raw, bus and tls")
    parser.add_argument("--laps", default=",".join(LAPS))
    parser.add_argument("--window", type=int, default=None, help="bytes unconfirmed (bus); default: the bus's own")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.part:
        _part(json.loads(given.part))
        return
    result = measure(given.megabytes, given.clients.split(","), given.laps.split(","), given.window)
    print(json.dumps(result) if given.json else table(result))


def measure(
    megabytes: int, clients: Sequence[str] = ("raw", "bus"), laps: Sequence[str] = LAPS, window: int | None = None
) -> dict[str, Any]:
    """All laps with all clients, on one fresh node."""
    found: dict[str, Any] = {
        "machine": {"cpus": os.cpu_count(), "system": platform.platform()},
        "message_bytes": MIB,
        "laps": {lap: {} for lap in laps},
    }
    parties = [Party("coordinator", "coordinator", "pw-coordinator"), *(Party(s, "site", f"pw-{s}") for s in SITES)]
    with (
        tempfile.TemporaryDirectory(prefix="konsil-ceiling-") as folder,
        PrivateNode(
            Path(folder),
            definitions=render_definitions(VHOST, parties, StreamSizes(segment=512 * MIB)),
            tls="tls" in clients,
        ) as node,
    ):
        if "consume" in laps:  # something to read, and a broker that is warm
            _run([_part_of(node, "raw", "coordinator", megabytes, key="global-chunk.coordinator.exp")])
        for client in clients:
            for lap in laps:
                found["laps"][lap][client] = _lap(node, lap, client, megabytes, window)
    return found


def _part_of(node: PrivateNode, client: str, user: str, count: int, **more: Any) -> dict[str, Any]:
    tls = {"ca": str(node.ca), "port": node.tls_port} if client == "tls" else {"port": node.port}
    return tls | {"client": client, "user": user, "count": count} | more


def _lap(node: PrivateNode, lap: str, client: str, megabytes: int, window: int | None) -> dict[str, float]:
    each = megabytes // len(SITES)
    start = "first" if lap == "consume" else "next"
    down = _part_of(node, client, "coordinator", megabytes, key="global-chunk.coordinator.exp", window=window)
    up = [_part_of(node, client, site, each, key=f"update-chunk.{site}.exp", window=window) for site in SITES]
    hear = [_part_of(node, client, site, megabytes, queues=["global"], start=start) for site in SITES]
    updates = [f"update.{site}" for site in SITES]
    collect = _part_of(node, client, "coordinator", each * len(SITES), queues=updates, start=start)
    writers, readers = {
        "publish": ([down], []),
        "consume": ([], hear[:1]),
        "1-1": ([down], hear[:1]),
        "down": ([down], hear),
        "up": (up, [collect]),
    }[lap]
    before = _cpu_of(node)
    done = _run([*readers, *writers])
    broker = _cpu_of(node) - before
    written = sum(one["count"] for one in writers) / 1024
    read = sum(one["count"] for one in readers) / 1024
    result = {"broker_cpu_s_per_GiB": broker / max(written, read)}
    for name, amount, ended in (("writer", written, done[len(readers) :]), ("reader", read, done[: len(readers)])):
        if ended:
            span = max(one["ended"] for one in ended) - min(one["began"] for one in ended)
            result[f"{name}_MiB_per_s"] = amount * 1024 / span
            result[f"{name}_cpu_s_per_GiB"] = sum(one["cpu"] for one in ended) / amount
    return {name: round(value, 3) for name, value in result.items()}


def _run(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run parts as processes: each says "ready", all are let go at once, each prints what it took."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.broker_ceiling", "--part", json.dumps(part)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for part in parts
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit("a part of the benchmark failed; see above")
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        return [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _part(part: dict[str, Any]) -> None:
    """One writer or reader, in a process of its own."""
    attach, work = (_raw_part if part["client"] == "raw" else _bus_part)(part)
    if part.get("start") == "next":
        attach()
    print("ready", flush=True)
    sys.stdin.readline()
    cpu, began = sum(os.times()[:2]), time.monotonic()
    if part.get("start") == "first":
        attach()
    work()
    ended = time.monotonic()
    print(json.dumps({"cpu": sum(os.times()[:2]) - cpu, "began": began, "ended": ended}), flush=True)
    os._exit(0)  # an orderly close is not what is measured


def _raw_part(part: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    raw = RawClient(PrivateNode.host, part["port"], VHOST, part["user"])
    if "key" in part:
        return _nothing, lambda: raw.publish(part["key"], bytes(MIB), part["count"])
    return lambda: raw.subscribe(part["queues"], part["start"]), lambda: raw.consume(part["count"] * MIB)


def _bus_part(part: dict[str, Any]) -> tuple[Callable[[], Any], Callable[[], Any]]:
    options = {} if part.get("window") is None else {"window": part["window"]}
    address = BrokerAddress.model_validate(
        {
            "port": part["port"],
            "ca": part.get("ca"),
            "vhost": VHOST,
            "user": part["user"],
            "password": f"pw-{part['user']}",
        }
    )
    bus = RabbitBus(address, part["user"], **options)
    bus.connect(20.0)
    if "key" in part:
        return _nothing, lambda: _publish(bus, part["key"], part["count"])
    left, done = part["count"], threading.Event()
    subscriptions = _Late()

    def take(delivery: Delivery) -> None:
        nonlocal left
        subscriptions[delivery.queue].ack(delivery)
        left -= 1
        if not left:
            done.set()

    def attach() -> None:
        for queue in part["queues"]:
            subscriptions[queue] = bus.subscribe(queue, take, start=Start(part["start"]))

    return attach, done.wait


def _nothing() -> None:
    pass


def _publish(bus: RabbitBus, key: str, count: int) -> None:
    body = bytes(MIB)
    for _ in range(count):
        bus.publish(key, body)
    bus.flush()


class _Late(dict[str, Any]):
    """Subscriptions by queue; the first deliveries may come before `subscribe` has returned."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()

    def __setitem__(self, key: str, value: Any) -> None:
        with self._changed:
            super().__setitem__(key, value)
            self._changed.notify_all()

    def __missing__(self, key: str) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: key in self)
            return self.get(key)


def _cpu_of(node: PrivateNode) -> float:
    """CPU seconds of the broker's processes, from /proc/PID/stat (proc(5): fields 14 and 15)."""
    total = 0
    for pid in keeper.list_descendants(node.pid or 0):
        fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def table(result: dict[str, Any]) -> str:
    """The figures as lines of text."""
    heads = (
        "writer_MiB_per_s",
        "reader_MiB_per_s",
        "broker_cpu_s_per_GiB",
        "writer_cpu_s_per_GiB",
        "reader_cpu_s_per_GiB",
    )
    short = ("write MiB/s", "read MiB/s", "broker s/GiB", "writer s/GiB", "reader s/GiB")
    lines = [f"{'lap':8} {'client':6} " + " ".join(f"{head:>12}" for head in short)]
    for lap, clients in result["laps"].items():
        for client, row in clients.items():
            cells = " ".join(f"{row[head]:12.2f}" if head in row else " " * 12 for head in heads)
            lines.append(f"{lap:8} {client:6} {cells}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
