"""Konsil in Python: `import konsil; me = konsil.connect()`. See docs/python.md. The source is `deploy.konsil`."""

from deploy.konsil.handle import ExperimentHandle
from deploy.konsil.person import ConnectedPerson, connect
from messages.ground.errors import ConfigError, KonsilError, RequestError, Unreachable, WorkFailed

__all__ = [
    "ConfigError",
    "ConnectedPerson",
    "ExperimentHandle",
    "KonsilError",
    "RequestError",
    "Unreachable",
    "WorkFailed",
    "connect",
]
