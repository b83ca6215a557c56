"""Randomness that depends on what it is for, never on what ran before.

Every random draw of an item (timestep, noise, starting picture) comes from a generator keyed by (seed, step, item),
so a batch's composition, the number of ranks and the order of execution change nothing.
"""

import hashlib

import torch


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator that is a pure function of `key`, the same on every platform."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes a signed 64-bit integer.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
