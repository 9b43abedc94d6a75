"""Which worker should own which partition: rendezvous hashing with an equal share for each. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b


def assign(workers: Iterable[str], partitions: int) -> dict[int, str]:
    """Give each partition one of *workers*, the same on every worker that knows the same names.

    Each pair of partition and worker has a weight, a hash of both (rendezvous hashing: Thaler and Ravishankar, 1998);
    the lightest pairs win, so few partitions move when a worker comes or goes. Every worker gets
    `partitions / workers`, rounded down or up. Empty when there are no workers.
    """
    names = sorted(set(workers))
    if not names:
        return {}
    share, extra = divmod(partitions, len(names))  # *extra* workers have one more than their *share*
    owners: dict[int, str] = {}
    owned: Counter[str] = Counter()
    for _, partition, name in sorted((_weight(n, p), p, n) for p in range(partitions) for n in names):
        if partition in owners or owned[name] > share:
            continue
        if owned[name] == share:
            if not extra:
                continue
            extra -= 1
        owners[partition] = name
        owned[name] += 1
    return owners


def _weight(name: str, partition: int) -> bytes:
    return blake2b(f"{partition}:{name}".encode(), digest_size=8).digest()


def targets(me: str, workers: Iterable[str], partitions: int) -> frozenset[int]:
    """The partitions that *me* should own."""
    return frozenset(p for p, owner in assign(workers, partitions).items() if owner == me)
