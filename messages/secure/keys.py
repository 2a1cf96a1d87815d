"""A site's secrets in one try of a secure round, and what is derived from them: X25519, HKDF-SHA256, AES-256-GCM.

All secrets of a try come from one root of 32 random bytes, which the site keeps sealed in its spool and deletes with
the round: so a site that was killed says the same bytes again. X25519 is RFC 7748, HKDF RFC 5869, GCM NIST SP 800-38D.
Each key that seals is used once: for one pair and direction, under one exchange. So the nonce is zero.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from messages import codec
from messages.secure.context import Context, Exchange, Member

KEY_BYTES = 32
TAG_BYTES = 16
PrivateKey = bytes | X25519PrivateKey
"""32 bytes, or loaded: loading costs as much as an agreement."""
_PRIME = 2**255 - 19
_NONCE = bytes(12)
_PROBE = X25519PrivateKey.from_private_bytes(sha256(b"konsil secure probe 1").digest())
"""Known to all: only whether a point is of small order is asked of it."""


@dataclass(frozen=True)
class SiteSecrets:
    """All that a site keeps secret in one try. Nothing of it stands in its text.

    Attributes:
        root: 32 random bytes (`secrets.token_bytes(32)`), never used for another try.
    """

    root: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.root) != KEY_BYTES:
            raise ValueError(f"the root of a try's secrets has {KEY_BYTES} bytes")

    @cached_property
    def seal_private(self) -> bytes:
        """X25519 private key that opens shares sealed for this site."""
        return expand_key(self.root, b"konsil secure seal key 1")

    @cached_property
    def mask_private(self) -> bytes:
        """X25519 private key of the pairwise masks; dealt out in shares."""
        return expand_key(self.root, b"konsil secure mask key 1")

    @cached_property
    def seal_loaded(self) -> X25519PrivateKey:
        """`seal_private`, ready for many agreements."""
        return X25519PrivateKey.from_private_bytes(self.seal_private)

    @cached_property
    def mask_loaded(self) -> X25519PrivateKey:
        """`mask_private`, ready for many agreements."""
        return X25519PrivateKey.from_private_bytes(self.mask_private)

    @cached_property
    def self_seed(self) -> bytes:
        """Seed *b* of the site's own mask; dealt out in shares."""
        return expand_key(self.root, b"konsil secure self seed 1")

    @cached_property
    def commitment(self) -> bytes:
        """SHA-256 of the self seed: what is rebuilt is checked against it."""
        return commit_seed(self.self_seed)

    def announce(self, name: str, signer: str) -> Member:
        """The public keys, as they stand in the roster."""
        return Member(name, public_of(self.seal_private), public_of(self.mask_private), signer)


def commit_seed(seed: bytes) -> bytes:
    """SHA-256 of a self seed. 256 random bits are not guessed from it."""
    return sha256(seed).digest()


def expand_key(secret: bytes, info: bytes) -> bytes:
    """32 bytes out of a secret, for one use that `info` names (HKDF-SHA256 without salt, RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=None, info=info).derive(secret)


def public_of(private: bytes) -> bytes:
    """The X25519 public key (32 bytes) of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


@lru_cache(maxsize=4096)
def is_usable_point(public: bytes) -> bool:
    """Whether 32 bytes are a public key: encoded in the one way (below 2^255 - 19), and not of small order."""
    if len(public) != KEY_BYTES or int.from_bytes(public, "little") >= _PRIME:
        return False
    try:
        _PROBE.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def agree_on(private: PrivateKey, public: bytes) -> bytes:
    """The X25519 secret of a pair, 32 bytes.

    Raises:
        ValueError: the public key is of small order: the secret would be known to all.
    """
    loaded = X25519PrivateKey.from_private_bytes(private) if isinstance(private, bytes) else private
    return loaded.exchange(X25519PublicKey.from_public_bytes(public))


def pair_mask_key(private: PrivateKey, own: str, peer: str, context: Context) -> bytes:
    """The AES-256 key of the mask that two sites share: the same from both sides, and another under any other context.

    Args:
        private: `own`'s masking key (`SiteSecrets.mask_private`, or as it was rebuilt).

    Raises:
        ValueError: the peer's key is of small order. KeyError: a site outside the roster.
    """
    secret = agree_on(private, context.exchange.members[peer].mask_key)
    return expand_key(secret, _name_use("konsil secure pair mask 1", context.digest, *sorted((own, peer))))


def self_mask_key(seed: bytes, own: str, context: Context) -> bytes:
    """The AES-256 key of a site's own mask."""
    return expand_key(seed, _name_use("konsil secure self mask 1", context.digest, own))


def sealing_key(private: PrivateKey, exchange: Exchange, dealer: str, holder: str, *, own: str) -> bytes:
    """The one-time AES-256 key of what `dealer` seals for `holder`, from either side.

    It opens this one message and no other. So a holder can reveal it to prove that a share does not open.

    Args:
        private: `own`'s sealing key (`SiteSecrets.seal_private`).
        own: which of the two has it.

    Raises:
        ValueError: the other's key is of small order. KeyError: a site outside the roster.
    """
    other = holder if own == dealer else dealer
    secret = agree_on(private, exchange.members[other].seal_key)
    return expand_key(secret, _name_use("konsil secure sealing 1", exchange.digest, dealer, holder))


def seal_bytes(key: bytes, plain: bytes, exchange: Exchange, dealer: str, holder: str) -> bytes:
    """Encrypt for one holder (`sealing_key`); `TAG_BYTES` longer than `plain`. The same input gives the same bytes."""
    return AESGCM(key).encrypt(_NONCE, plain, _name_use("konsil secure share 1", exchange.digest, dealer, holder))


def open_sealed(key: bytes, sealed: bytes, exchange: Exchange, dealer: str, holder: str) -> bytes | None:
    """What `seal_bytes` sealed; None where it was sealed otherwise, for somebody else, or changed."""
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, _name_use("konsil secure share 1", exchange.digest, dealer, holder))
    except (InvalidTag, ValueError):
        return None


def _name_use(what: str, digest: bytes, *names: str) -> bytes:
    """Whose key for what: unambiguous, since it is canonical msgpack."""
    return what.encode() + b"\n" + codec.canonical([digest, *names])
