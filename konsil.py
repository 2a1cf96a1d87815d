"""Konsil in Python: `import konsil; me = konsil.connect()`. See docs/python.md. The source is `deploy.konsil`."""

from deploy.konsil import (
    ConfigError,
    ConnectedPerson,
    ExperimentHandle,
    KonsilError,
    RequestError,
    Unreachable,
    WorkFailed,
    connect,
)

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
