"""What an event may carry beside its body: bounds on the signature and on `ext`, so that no free text travels there.

Both are for later versions: within the bounds a reader accepts and ignores what it does not know. Pure.
"""

from __future__ import annotations

import math
import re
from typing import Any

from messages import codec
from messages.ground.errors import UnboundedMessage
from messages.reasons import Reason

SIGNATURE_BYTES = 256
"""Room for an RSA-2048 signature; an Ed25519 one has 64 bytes."""
EXT_BYTES = 1024
"""Of the encoded map."""
WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
HASH = re.compile(r"[0-9a-f]{1,128}")


def check_signature(signature: bytes) -> None:
    """Refuse a signature that is too long; UnboundedMessage."""
    if len(signature) > SIGNATURE_BYTES:
        raise UnboundedMessage(Reason.TOO_LARGE, f"a signature of more than {SIGNATURE_BYTES} bytes")


def check_ext(ext: Any) -> None:
    """Refuse an `ext` that is too large, not flat, or holds more than numbers, hashes and code words.

    Raises:
        UnboundedMessage: too-large or wrong-type.
    """
    if len(codec.pack(ext)) > EXT_BYTES:
        raise UnboundedMessage(Reason.TOO_LARGE, f"an ext of more than {EXT_BYTES} bytes")
    if not isinstance(ext, dict) or not all(WORD.fullmatch(key) and is_coded(value) for key, value in ext.items()):
        raise UnboundedMessage(Reason.WRONG_TYPE, "an ext that holds more than numbers, hashes and code words")


def is_coded(value: Any) -> bool:
    """Whether a value is a finite number, a hash in hex, or a code word: nothing that could be a sentence."""
    if isinstance(value, str):
        return WORD.fullmatch(value) is not None or HASH.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
