"""What tests of faults share: a rig whose parties can be told apart, calm digests, and looking into queues and logs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pika
from alarms import rabbitmqctl
from brokers import eventually
from e2e_rig import SITES, Rig, experiment

from coordinator.record.journal import open_readonly
from deploy.demo.consortium import CONSORTIUM, RESEARCHER
from deploy.story.story import ExperimentStory
from messages.chain import decode_entry
from messages.experiment import Experiment
from messages.ground.errors import MalformedMessage
from messages.tensors.transfer import decode_chunk
from site_agent.desk import control

EVERY_SITE = {"least_sites": "all"}
LONG = 600.0


class FaultRig(Rig):
    """A rig whose experiments have the same bits whenever nothing was lost."""

    calm_digest: str | None = None

    def small(self, name: str, **sections: Any) -> Experiment:
        """An experiment in which every site has to take part in each round, unless `sections` say otherwise; all that
        differ in nothing else end with the same bits."""
        return experiment(name, **({"quorum": EVERY_SITE} | sections))

    def calm(self, name: str = "calm", **sections: Any) -> str:
        """The digest that an experiment of this kind ends with."""
        self.publish(self.small(name, **sections))
        digest = self.complete(name, LONG).model_digest
        assert digest is not None
        self.calm_digest = digest
        return digest

    def in_training(self, identity: str, number: int = 1) -> None:
        """Wait until every site is in the round."""
        self.wait(
            identity,
            lambda story: any(r.number == number and len(r.accepted) == len(SITES) for r in story.round_list),
            f"all sites are in round {number}",
            LONG,
        )

    def survives(self, name: str, fault: Callable[[], object], **sections: Any) -> ExperimentStory:
        """Run an experiment, do harm while its first round trains, and see it end with the bits of the calm one.

        One site's training stands still meanwhile, so that the round cannot be over before the harm is done.
        """
        with self.gate.held("site-b"):
            self.publish(self.small(name, **sections))
            self.in_training(name)
            eventually(lambda: self.trainer("site-b", name), what="a trainer at site-b")
            fault()
        return self.same_bits(name)

    def same_bits(self, name: str) -> ExperimentStory:
        """The experiment ends as the calm one did, with every site in every round."""
        story = self.complete(name, LONG)
        assert story.model_digest == self.calm_digest
        assert all(set(one.contributors) == set(SITES) for one in story.round_list)
        return story

    def edit(self, party: str, old: str, new: str) -> None:
        """Change a party's configuration (before it starts)."""
        path = self.consortium.config_of(party)
        text = path.read_text()
        assert old in text, text
        path.write_text(text.replace(old, new))

    def lines(self, party: str) -> list[dict[str, Any]]:
        """The party's log, without what is no line of it."""
        whole = self.layout.log_of(party).read_text(errors="replace").rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    def said(self, party: str, event: str, **fields: Any) -> bool:
        """Whether the log has a line of this event with these fields."""
        return any(
            line["event"] == event and all(line.get(key) == value for key, value in fields.items())
            for line in self.lines(party)
        )

    def status(self, site: str) -> dict[str, Any]:
        """What `konsil site status` shows."""
        return control.ask_agent(self.layout.site_folder(site), {"do": "status"})

    def ctl(self, *arguments: str) -> str:
        """rabbitmqctl; `VHOST` stands for the consortium's."""
        return rabbitmqctl(self.node, *(CONSORTIUM if word == "VHOST" else word for word in arguments))

    def cut_off(self, user: str) -> None:
        """End the connections of a user: RabbitMQ looks at permissions when a channel is new, and then keeps them."""
        for line in self.ctl("list_connections", "-q", "pid", "user").splitlines():
            pid, _, name = line.partition("\t")
            if name.strip() == user:
                self.ctl("close_connection", pid, "by a test")

    def messages(self, party: str, queue: str) -> list[bytes]:
        """The bodies in a stream, read with a party's own login, until nothing more comes for a second."""
        credentials = pika.PlainCredentials(party, self.consortium.passwords[party])
        parameters = pika.ConnectionParameters("127.0.0.1", self.node.port, CONSORTIUM, credentials)
        found: list[bytes] = []
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=100)
            for method, _properties, body in channel.consume(
                queue, arguments={"x-stream-offset": "first"}, inactivity_timeout=1.5
            ):
                if method is None:
                    break
                channel.basic_ack(method.delivery_tag)
                found.append(body)
            channel.cancel()
        return found

    def chunks(self, party: str, queue: str, identity: str) -> dict[int, list[int]]:
        """Round → indices of the chunks that were sent, as often as they were sent."""
        sent: dict[int, list[int]] = {}
        for body in self.messages(party, queue):
            try:
                header, _data = decode_chunk(body)
            except MalformedMessage:  # `models` holds an event beside them
                continue
            if header.key.experiment == identity:
                sent.setdefault(header.key.round, []).append(header.index)
        return sent

    def models_again(self, identity: str, number: int, *sites: str) -> int:
        """How many chunks of a round's model these sites have asked for again: where a process stood still for seconds,
        what is on its way counts as lost."""
        return sum(
            line["missing"]
            for site in sites
            for line in self.lines(site)
            if line["event"] == "asking for chunks" and (line["experiment"], line["round"]) == (identity, number)
        )

    def updates_again(self, identity: str, number: int, site: str) -> int:
        """How often the coordinator had a site send an update, or parts of it, again."""
        about = {"event": "decided", "what": "resend", "experiment": identity, "round": number}
        return sum(about.items() <= line.items() for line in self.lines(site))

    def audited(self) -> set[int]:
        """Numbers of the entries that the `audit` stream holds."""
        return {decode_entry(body).number for body in self.messages(RESEARCHER, "audit")}

    def entries(self) -> set[int]:
        """Numbers of the journal's entries."""
        return {entry.number for entry in open_readonly(self.layout.coordinator)}

    def pid_of(self, site: str) -> int:
        """The agent's process."""
        return self.services[site].process.pid

    def heard(self, kind: str, sender: str) -> bool:
        """Whether the coordinator has journaled an event of this kind from this sender, live or not."""
        return any(
            kind.encode() in entry.body and sender.encode() in entry.body
            for entry in open_readonly(self.layout.coordinator)
        )

    def trainer(self, site: str, identity: str) -> int | None:
        """The process that trains an experiment at a site, while it does."""
        for one in self.status(site)["experiments"]:
            if one["experiment"] == identity and one["phase"] == "training":
                return one["trainer_pid"]
        return None
