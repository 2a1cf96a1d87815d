"""The agent's connection to its consortium's broker."""

from __future__ import annotations

from typing import Protocol

from messages.bus.amqp.rabbitmq import RabbitBus
from messages.bus.base import Bus, OnNotice
from site_agent.config import SiteConfig


class Connect(Protocol):
    """Makes the agent's bus; raises BrokerUnreachable or LoginRefused."""

    def __call__(self, config: SiteConfig, on_notice: OnNotice) -> Bus: ...


def connect_rabbitmq(config: SiteConfig, on_notice: OnNotice) -> Bus:
    """The agent's connection to its consortium's broker."""
    bus = RabbitBus(config.broker, config.site.name, on_notice=on_notice)
    bus.connect()
    return bus
