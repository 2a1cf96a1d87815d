"""What `import konsil` gives a researcher in Python and in a notebook: the commands as calls, with their errors.

`konsil.py` at the top hands this out, so that the installed name needs no folder and no import hook.
"""

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
