"""Links: found where people type them, judged by what was registered."""

from __future__ import annotations

import socket

import pytest

from workers.moderation.links import FLAGS, LinkFinder, LinkPolicy, find_links
from workers.moderation.normalise import fold

FINDER = LinkFinder(
    LinkPolicy(
        allow=frozenset({"fine.top"}),
        deny=frozenset({"evil.example.org", "bad.com"}),
        shorteners=frozenset({"bit.ly"}),
        suspicious_endings=frozenset({"top"}),
        brands=frozenset({"paypal.com", "amazon.com", "apple.com", "google.com"}),
        flag=frozenset(FLAGS) - {"any", "not_allowed", "punycode"},
    )
)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("see https://a.b.example.co.uk/x?y=1.", "example.co.uk"),
        ("example.com is down", "example.com"),
        ("hxxps://evil[.]com/x", "evil.com"),
        ("www.example.sh", "example.sh"),
        ("http://bücher.example.de:8080/", "example.de"),
        ("go to example.com/path now", "example.com"),
    ],
)
def test_links_are_found_with_what_was_registered(text: str, domain: str) -> None:
    assert [link.domain for link in find_links(fold(text))] == [domain]


@pytest.mark.parametrize(
    "text",
    [
        "report.py",
        "readme.md",
        "Thanks.It works",
        "done.So what",
        "v1.2.3",
        "e.g. this",
        "john@example.com",
        "3.14",
        "x.name(",
    ],
)
def test_what_only_looks_like_a_domain_is_no_link(text: str) -> None:
    assert list(find_links(text)) == []


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("http://sub.bad.com/x", "denied"),
        ("bit.ly/abc", "shortener"),
        ("https://раураl.com/", "mixed_script"),
        ("xn--pypal-4ve.com", "mixed_script"),
        ("http://185.1.2.3/login", "ip_address"),
        ("https://paypal.com@evil.net/", "user_info"),
        ("paypa1.com", "look_alike"),
        ("amazon-support.co", "look_alike"),
        ("http://apple.com.evil.net/", "look_alike"),
        ("win-big.top", "ending"),
        ("x.example.com " * 60, "too_many"),
    ],
)
def test_a_suspicious_link_says_why(text: str, flag: str) -> None:
    assert {found for _, found in FINDER.find(fold(text), text)} == {flag}


@pytest.mark.parametrize(
    "text",
    [
        "https://www.paypal.com/x",
        "google.github.io",
        "amazon.com.au",
        "amazon.pl",
        "fine.top/x",
        "http://192.168.1.1/",
        "window.top",
    ],
)
def test_an_ordinary_link_is_left_alone(text: str) -> None:
    assert FINDER.find(fold(text), text) == []


def test_no_network_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """tldextract fetches the list of suffixes unless it is told not to."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert next(find_links("http://never-seen-before.example.co.jp/")).domain == "example.co.jp"
