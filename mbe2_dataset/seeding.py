"""Random generators that depend on what they are for, never on the order in which they are asked for."""

import hashlib

import numpy as np


def seed_for(*keys: object) -> int:
    """A 63-bit seed from any keys (their `str`), e.g. `seed_for(0, "triplet", row.id)`."""
    digest = hashlib.blake2b("\x1f".join(map(str, keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rng_for(*keys: object) -> np.random.Generator:
    """A generator of its own for these keys."""
    return np.random.default_rng(seed_for(*keys))
