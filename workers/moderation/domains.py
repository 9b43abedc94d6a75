"""Which part of a host name somebody registered, from the snapshot that `tldextract` ships. No network."""

from __future__ import annotations

from functools import lru_cache

import tldextract

# Without sources and cache directory the extractor reads the snapshot in its wheel and nothing else.
_EXTRACT = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None, fallback_to_snapshot=True)


@lru_cache(maxsize=1)
def top_level_domains() -> frozenset[str]:
    """Return every top-level domain, in lower case."""
    return frozenset(suffix.rpartition(".")[2].lower() for suffix in _EXTRACT.tlds)


@lru_cache(maxsize=4_096)
def registrable(host: str) -> str:
    """Return the registrable domain of *host* (`a.b.example.co.uk` -> `example.co.uk`), or "" if it has none."""
    return _EXTRACT(host).top_domain_under_public_suffix.lower()
