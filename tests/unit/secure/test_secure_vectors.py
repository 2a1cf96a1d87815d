"""The primitives as we use them, against the vectors of their standards."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, ECB

from messages.secure.keys import agree_on, expand_key, is_usable_point, public_of
from messages.secure.masks import MASK_BLOCK, Mask, WordLayout, add_masks

ALICE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
SP_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
SP_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
SP_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
SP_CIPHER = (
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)
SMALL_ORDER = (
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
)
"""Points of small order on Curve25519 and its twist, as Bernstein lists them (cr.yp.to/ecdh.html#validate)."""


def test_x25519_agrees_with_rfc_7748() -> None:
    assert (public_of(ALICE).hex(), public_of(BOB).hex()) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert agree_on(ALICE, bytes.fromhex(BOB_PUBLIC)).hex() == SHARED == agree_on(BOB, public_of(ALICE)).hex()
    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert agree_on(scalar, point).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_refused(point: str) -> None:
    assert not is_usable_point(bytes.fromhex(point))
    with pytest.raises(ValueError, match="shared key"):
        agree_on(ALICE, bytes.fromhex(point))


def test_a_second_encoding_of_a_point_is_refused() -> None:
    nine = (9).to_bytes(32, "little")
    assert is_usable_point(nine)
    assert is_usable_point(public_of(ALICE))
    for other in (9 + 2**255 - 19, 9 + 2**255):
        assert not is_usable_point(other.to_bytes(32, "little"))
    assert not is_usable_point(nine[:31])


def test_hkdf_agrees_with_rfc_5869_without_salt() -> None:
    case_3 = "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
    assert expand_key(b"\x0b" * 22, b"").hex() == case_3


def test_ctr_agrees_with_sp_800_38a_and_masks_are_that_stream_from_counter_zero() -> None:
    assert Cipher(AES(SP_KEY), CTR(SP_COUNTER)).encryptor().update(SP_PLAIN).hex() == SP_CIPHER
    layout = WordLayout(MASK_BLOCK // 4 + 3, 3)
    counters = b"".join(number.to_bytes(16, "big") for number in range(layout.nbytes // 16 + 1))
    stream = Cipher(AES(SP_KEY), ECB()).encryptor().update(counters)[: layout.nbytes]
    added, removed = (np.zeros(layout.nbytes, np.uint8) for _ in range(2))
    add_masks(added, layout, [Mask(SP_KEY, 1)])
    add_masks(removed, layout, [Mask(SP_KEY, -1)])
    assert added.tobytes() == stream
    middle = 4 * layout.words32
    assert np.array_equal(removed[:middle].view("<u4"), -np.frombuffer(stream[:middle], "<u4"))
    assert np.array_equal(removed[middle:].view("<u8"), -np.frombuffer(stream[middle:], "<u8"))
