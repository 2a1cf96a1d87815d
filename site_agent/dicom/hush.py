"""Libraries of this package tell at length what they send and receive: patients' identifiers among it. Not in our log.

What matters of it is said by us, in counts and codes.
"""

from __future__ import annotations

import logging
import warnings

TALKERS = ("pynetdicom", "dicomweb_client", "pydicom", "urllib3", "retrying")


def silence_libraries() -> None:
    """Silence the libraries in this process: their loggers, and warnings that quote values. May be called again."""
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    for name in TALKERS:
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
    import pydicom.config

    # A value that breaks its VR's rules is taken as it is: what is made of it is checked where it is used.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def hush_pynetdicom() -> None:
    """No handlers that draw every message up for a log nobody reads."""
    from pynetdicom import _config

    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
