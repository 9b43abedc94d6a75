"""Find links in folded text and say what is suspicious about them. Pure.

A link is judged by its registrable domain (`paypal.com.evil.top` belongs to `evil.top`), so that allow
and deny lists need no patterns. Public suffixes come from the snapshot that `tldextract` ships.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from workers.moderation.batch import Joined
from workers.moderation.domains import registrable, top_level_domains
from workers.moderation.linear import Linear
from workers.moderation.normalise import fold
from workers.moderation.skeleton import skeleton
from workers.moderation.wordsets import words

# More links than this in one message are not looked at one by one; the message is suspicious for it.
MAX_LINKS = 50
# Nor are more pieces with a dot in them than this, links or not: the rest counts as links.
MAX_LOOKED_AT = 150
MAX_HOST = 253

# Bare top-level domains that file names end in far oftener than links do.
_FILE_ENDINGS = words(
    """
    ai app bat bin cab cc cfg cgi com1 cs css csv db dev doc docs docx do exe gz h htm html id im in ini ink
    io ipa is it iso java jar jpg js json la log lua md mk ml mm mov my name no odt page pdf php pl pm png
    pro ps psd py rar rb rs run sc sh so sql st tar tex tf to ts txt tv us vb vi wav web word work xls xlsx
    xml xyz yaml yml zip
    """
)

# Of those, the ones of which a domain without `www`, path or scheme is believed nevertheless.
_BELIEVED = words("ai app cc dev do id im in io is it la ml my no page pro sc st to tv us work xyz")
# Beside a brand's name in a domain that is not the brand's, these are there to be believed.
_BAIT = words(
    """
    account accounts alert auth billing bonus check claim confirm customer delivery gift help helpdesk id info log login
    mail notice online parcel pay payment prize protect recover recovery refund reset resolution secure security service
    services signin support team track tracking unlock update updates validate verification verify wallet web winner
    """
)
_SCHEME = r"(?i:h(?:tt|xx)ps?|ftp)\s?(?::|\[:\])\s?//"
_DOT = r"(?:\.|\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\))"
_LETTER = "A-Za-z\u0080-\U0010ffff"
# Matches `-a` too, so that one label is one loop; a label is not checked further, its ending is.
_HOST = rf"[{_LETTER}0-9][{_LETTER}0-9_\-]*"
_NAME = rf"{_HOST}(?:{_DOT}{_HOST})*{_DOT}(?:[{_LETTER}][{_LETTER}]+|xn--[A-Za-z0-9\-]+)"
_FOUND = Linear(rf"{_SCHEME}[^\s<>\"]+|{_NAME}(?::[0-9]+\b)?(?:/[^\s<>\"]*)?")
# What was found is taken apart by `re`, whose groups are cheap; it never sees more than this of it.
_MAX_PIECE = 400
_URL = re.compile(
    rf"{_SCHEME}(?:(?P<user>[^\s/@]+)@)?(?P<host>[^\s/?#:@\[\]()]+(?:{_DOT}[^\s/?#:@\[\]()]+)*|\[[0-9a-fA-F:.]+\])"
)
_DOTS = re.compile(r"\[\.\]|\(\.\)|\{\.\}|\[dot\]|\(dot\)", re.I)
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}|0x[0-9a-f]{6,8}|[0-9]{8,10}", re.I)
# Routers and local servers, which support talks about all day (RFC 1918, RFC 1122, RFC 4291).
_PRIVATE = re.compile(r"10\.|192\.168\.|172\.(?:1[6-9]|2[0-9]|3[01])\.|127\.|0\.0\.0\.0|169\.254\.|\[::1\]|\[f[cde]")


@dataclass(slots=True)
class Link:
    """A link in a folded text. `domain` is what was registered, or the address of an IP link."""

    start: int
    end: int
    host: str
    domain: str
    user: str = ""  # what stands before an @: people take it for the host
    bare: bool = False  # without a scheme


def find_links(folded: str) -> Iterator[Link]:
    """Yield the links of a text, at most one more than `MAX_LINKS`."""
    count = 0
    for looked_at, (start, end) in enumerate(_FOUND.places(folded)):
        piece = folded[start : min(end, start + _MAX_PIECE)]
        url = _URL.match(piece)
        link = _with_scheme(url, start, end) if url else _bare(piece, folded, start, end)
        if link is None and looked_at < MAX_LOOKED_AT:
            continue
        yield link or Link(start, end, "", "")
        count += 1
        if count > MAX_LINKS:
            return


def _with_scheme(url: re.Match[str], start: int, end: int) -> Link:
    host = _DOTS.sub(".", url["host"]).lower().strip(".")[:MAX_HOST]
    return Link(start, end, host, registrable(host) or host, url["user"] or "")


def _bare(piece: str, folded: str, start: int, end: int) -> Link | None:
    """Return a link without scheme: only where the last label is a top-level domain and no file ending."""
    if start and folded[start - 1] in "@/\\._-":
        return None  # an e-mail address, or a piece of a path
    typed = _DOTS.sub(".", piece.partition("/")[0].partition(":")[0])
    host = typed.lower()[:MAX_HOST]
    top = host.rpartition(".")[2]
    if top not in top_level_domains() and not top.startswith("xn--"):
        return None
    plain = "/" not in piece and not host.startswith("www.")
    if plain and folded[end : end + 1] in ("(", "@", "_"):
        return None  # `session.name(`: code
    if plain and _no_domain(typed, top):
        return None
    domain = registrable(host)
    return Link(start, end, host, domain, bare=True) if domain else None


def _no_domain(typed: str, top: str) -> bool:
    """Say whether `name.top` is rather a file, a decimal, or two sentences without a space between."""
    label, _, typed_top = typed.rpartition(".")
    if top in _FILE_ENDINGS and top not in _BELIEVED:
        return True
    if not any(char.isalpha() for char in label):
        return True
    if "." in label:
        return False
    # `Thanks.It works`, `done.So`: a sentence ends here.
    return typed_top[:1].isupper() and not typed_top.isupper() and not label.isupper()


@dataclass(frozen=True, slots=True)
class LinkPolicy:
    """What is suspicious. Domains are registrable ones, in lower case."""

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    shorteners: frozenset[str] = frozenset()
    suspicious_endings: frozenset[str] = frozenset()  # top-level domains
    brands: frozenset[str] = frozenset()  # their own domains; others that look like one are suspicious
    flag: frozenset[str] = frozenset()  # of FLAGS
    max_links: int = 0  # 0: any number


FLAGS = (
    "denied",
    "shortener",
    "mixed_script",
    "punycode",
    "ip_address",
    "user_info",
    "look_alike",
    "ending",
    "any",
    "not_allowed",
)


class LinkFinder:
    """Applies one `LinkPolicy`."""

    def __init__(self, policy: LinkPolicy) -> None:
        self._policy = policy
        # The same hosts come again and again; what a host deserves does not depend on the message.
        self._host_flag = lru_cache(maxsize=4_096)(self._judge_host)
        self._harmless = lru_cache(maxsize=4_096)(self._judge_piece)
        self._limit = min(policy.max_links or MAX_LINKS, MAX_LINKS)
        registrable("example.com")  # the first one reads the snapshot: not in the middle of a batch
        self._brands = {skeleton(domain.partition(".")[0]).replace(" ", ""): domain for domain in policy.brands}

    def suspects(self, joined: Joined, texts: Sequence[str]) -> list[int]:
        """Return the messages, of which *texts* are as they were typed, that may hold a suspicious link."""
        harmless, limit = self._harmless, self._limit

        def wanted(message: int, count: int, piece: bytes) -> bool:
            return count >= limit or not texts[message].isascii() or not harmless(piece)

        return joined.messages_where(_FOUND, wanted)

    def _judge_piece(self, piece: bytes) -> bool:
        """Say whether something like a link is none, or none that is suspicious, wherever it stands in ASCII text."""
        text = piece.decode()
        shown = text[:_MAX_PIECE]
        url = _URL.match(shown)
        link = _with_scheme(url, 0, len(text)) if url else _bare(shown, text, 0, len(text))
        return link is None or not self._flag(link, {})

    def find(self, folded: str, original: str) -> list[tuple[Link, str]]:
        """Return the suspicious links of a message, each with its flag."""
        links = list(find_links(folded))
        disguised = {} if original.isascii() or not links else _disguised_hosts(original)
        found = [(link, flag) for link in links if (flag := self._flag(link, disguised))]
        if len(links) > self._limit:
            found += [(link, "too_many") for link in links[self._limit :]]
        return found

    def _flag(self, link: Link, disguised: dict[str, str]) -> str:
        policy = self._policy
        if "user_info" in policy.flag and link.user and "." in link.user:
            return "user_info"
        if link.host in disguised and {"mixed_script", "look_alike"} & policy.flag:
            return disguised[link.host] if disguised[link.host] in policy.flag else "look_alike"
        return self._host_flag(link.host, link.domain, _attribute(link))

    def _judge_host(self, host: str, domain: str, attribute: bool) -> str:
        policy = self._policy
        if domain in policy.allow or domain in policy.brands:
            return ""
        for flag in FLAGS:
            if flag in policy.flag and self._is(flag, host, domain, attribute):
                return flag
        return ""

    def _is(self, flag: str, host: str, domain: str, attribute: bool) -> bool:
        policy = self._policy
        if flag == "denied":
            return domain in policy.deny
        if flag == "shortener":
            return domain in policy.shorteners or host in policy.shorteners
        if flag == "mixed_script":
            return _mixed(_decoded(host))
        if flag == "punycode":
            return "xn--" in host
        if flag == "ip_address":
            return (_IPV4.fullmatch(host) is not None or host.startswith("[")) and not _PRIVATE.match(host)
        if flag == "look_alike":
            return self._looks_like_a_brand(host, domain)
        if flag == "ending":
            return host.rpartition(".")[2] in policy.suspicious_endings and not attribute
        return flag == "any" or (flag == "not_allowed" and bool(policy.allow))

    def _looks_like_a_brand(self, host: str, domain: str) -> bool:
        """Say whether *host* imitates a brand: misspelt, with bait beside it, or as a false domain.

        `google.github.io` and `amazon.pl` do not; `g00gle.com`, `amazon-support.co` and
        `apple.com.example.net` do.
        """
        labels = [_decoded(label) for label in host.split(".")]
        parts = {word for label in labels for word in label.split("-")}
        own = domain.partition(".")[0]
        for place, label in enumerate(labels[:-1]):
            for word in {label, *label.split("-")}:
                brand = self._brands.get(skeleton(word).replace(" ", ""))
                if brand is None:
                    continue
                false_domain = label != own and labels[place + 1] == brand.partition(".")[2]
                if word != brand.partition(".")[0] or false_domain or parts & _BAIT:
                    return True
        return False


def _attribute(link: Link) -> bool:
    """Say whether a link is rather code, as in `window.top`: nothing but a plain word before the ending."""
    return link.bare and link.end - link.start == len(link.host) and link.host.partition(".")[0].isalpha()


def _decoded(host: str) -> str:
    """Return *host* with its punycode labels decoded, where that is possible."""
    if "xn--" not in host:
        return host
    labels: list[str] = []
    for label in host.split("."):
        try:
            labels.append(label[4:].encode().decode("punycode") if label.startswith("xn--") else label)
        except (UnicodeError, OverflowError, ValueError):
            labels.append(label)
    return ".".join(labels)


def _script(char: str) -> str:
    if char.isascii():
        return "LATIN" if char.isalpha() else ""
    return unicodedata.name(char, "").partition(" ")[0] if char.isalpha() else ""


def _mixed(host: str) -> bool:
    """Say whether one label mixes Latin with Cyrillic, Greek, Armenian or Cherokee letters."""
    for label in host.split("."):
        scripts = {_script(char) for char in label}
        if "LATIN" in scripts and scripts & {"CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}:
            return True
    return False


# Looked for where a run of word characters begins and nowhere inside: a run that no dot ends is read once.
_ORIGINAL_HOST = re.compile(r"(?<![\w\-])[_\-]*([^\W_](?:[\w\-]*[^\W_])?(?:[.。][^\W_](?:[\w\-]*[^\W_])?)+)")


def _disguised_hosts(original: str) -> dict[str, str]:
    """Return the hosts that are ASCII only once folded, and how they were written: in which letters."""
    hosts: dict[str, str] = {}
    for count, match in enumerate(_ORIGINAL_HOST.finditer(original)):
        if count > MAX_LOOKED_AT:
            break
        typed = match[1].lower()
        if not typed.isascii() and {_script(char) for char in typed} - {"", "LATIN"}:
            shown = fold(typed).lower()
            if shown.isascii():
                hosts[shown] = "mixed_script" if _mixed(typed) else "look_alike"
    return hosts
