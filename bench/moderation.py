"""What moderation costs, and what it catches.

    python -m bench.moderation             messages/s of the chain, relative to plain Aho-Corasick search
    python -m bench.moderation --corpus    recall and false positives of each rule of the default policy
    python -m bench.moderation --slow      the slowest texts of 8,000 characters that a search finds

All figures of one run come from the same messages in the same process; ratios are of medians of rounds
that take turns, in CPU time.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import string
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import ahocorasick_rs

from ticketwire.lifecycle import settle_gc
from workers.moderation import account_numbers, domains, phone_numbers
from workers.moderation.chain import verdicts
from workers.moderation.flood import FloodMemory
from workers.moderation.policy_files import default_policy_path, load_policy
from workers.moderation.rules import RuleSet
from workers.moderation.verdict import Action, Candidate

CORPUS = Path(__file__).parents[1] / "tests" / "moderation" / "corpus"
BATCH = 500  # what a worker judges at once under load (WORKER_BATCH); --batch tries another size
ROUNDS = 7

SENTENCES = """Hi, my order 48213 has not arrived yet and the tracking page shows nothing since Monday.
Thanks, that worked!
Could you please check whether the refund for invoice INV-2291 went through?
I can't log in on my phone, it says the session expired.
Sure, please restart the router and wait two minutes until the light is green.
The package arrived damaged; the box was open and one cup is broken :(
We're on version 2.14.3, running on Ubuntu 22.04, and the error started after the update.
See https://docs.example.com/setup for the steps, section three is the one you need.
I'd like to change the delivery address to 14 Baker Street before it ships.
It's been 3 weeks and nobody answers, this is really frustrating!!
You can reach me at anna.k@example.com or on the number in my profile.
Is there a way to export all tickets as CSV (about 1,200 rows)?
Der Link funktioniert leider nicht, können Sie mir bitte helfen?
Perfect, thank you so much for the quick reply and have a nice weekend
Please find attached report.pdf and the screenshot-2.png from this morning
What are the opening hours on Saturday, and do I need an appointment?
The app crashes when I tap on "Save" - iPhone 13, iOS 17.2.1, latest version
I was charged twice for the same item, could somebody look into it today?
My colleague will pick it up tomorrow between 9 and 11, is that all right?
The colour looks different from the picture, I would rather return it.""".splitlines()


def messages(count: int) -> list[Candidate]:
    """Support chat of 20 to 180 characters; one in 20 has an e-mail address, one in 20 a link."""
    rng = random.Random(11)
    made = []
    for number in range(count):
        text = " ".join(rng.sample(SENTENCES, 2 if rng.random() < 0.35 else 1))
        made.append(Candidate(f"t{rng.randrange(200)}", f"s{rng.randrange(400)}", text, number * 40))
    return made


def random_terms(count: int) -> list[str]:
    rng = random.Random(5)
    found: set[str] = set()
    while len(found) < count:
        found.add("".join(rng.choices(string.ascii_lowercase, k=rng.randint(6, 12))))
    return sorted(found)


def with_terms(terms: list[str], only_terms: bool) -> RuleSet:
    """Return the default policy with *terms* as one more rule, or a policy of that rule alone."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "terms.txt").write_text("\n".join(terms), encoding="utf-8")
        rule = "  - {id: bench-terms, kind: terms, action: hold, lists: [terms.txt]}\n"
        head = "rules:\n" if only_terms else default_policy_path().read_text(encoding="utf-8")
        path = Path(folder) / "policy.yaml"
        path.write_text(head + rule, encoding="utf-8")
        return RuleSet(load_policy(path))


def chain(rules: RuleSet, candidates: list[Candidate], size: int = BATCH) -> Callable[[], None]:
    batches = [candidates[at : at + size] for at in range(0, len(candidates), size)]

    def run() -> None:
        memory = FloodMemory()
        for batch in batches:
            rules.judge(batch, memory)

    return run


def plain_search(terms: list[str], candidates: list[Candidate]) -> Callable[[], None]:
    """One automaton over the lower-cased text of each message: what a word filter does."""
    automaton = ahocorasick_rs.AhoCorasick(terms, matchkind=ahocorasick_rs.MATCHKIND_LEFTMOST_LONGEST)
    texts = [candidate.text for candidate in candidates]

    def run() -> None:
        for text in texts:
            automaton.find_matches_as_indexes(text.lower())

    return run


def nothing(candidates: list[Candidate]) -> Callable[[], None]:
    """Verdicts that allow everything: what a worker without a policy makes."""
    from workers.moderation.verdict import Verdict

    def run() -> None:
        for candidate in candidates:
            Verdict(Action.ALLOW, candidate.text)

    return run


def medians(runs: dict[str, Callable[[], None]], count: int) -> dict[str, float]:
    """Return the median CPU microseconds per message of each run; the runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    settle_gc()  # as a worker does once its policy is loaded
    for _ in range(ROUNDS):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append((time.process_time() - started) / count * 1e6)
    return {name: statistics.median(values) for name, values in times.items()}


def throughput(count: int, batch: int) -> None:
    candidates = messages(count)
    sizes = [len(candidate.text) for candidate in candidates]
    mean = f"{statistics.mean(sizes):.0f} on average"
    print(f"{count} messages of {min(sizes)} to {max(sizes)} characters, {mean}, {batch} at a time")
    runs = {
        "no policy": nothing(candidates),
        "default policy": chain(RuleSet(load_policy(default_policy_path())), candidates, batch),
    }
    for size in (10_000, 100_000):
        terms = random_terms(size)
        runs[f"plain search, {size} terms"] = plain_search(terms, candidates)
        runs[f"terms rule alone, {size} terms"] = chain(with_terms(terms, only_terms=True), candidates, batch)
        runs[f"default policy and {size} terms"] = chain(with_terms(terms, only_terms=False), candidates, batch)
    spent = medians(runs, count)
    for name, micros in spent.items():
        plain = next((spent[other] for other in spent if other.startswith("plain") and other[13:] in name), None)
        ratio = f"{plain / micros:6.2f} of plain search" if plain and not name.startswith("plain") else ""
        print(f"{name:36} {micros:7.2f} us/message {1e6 / micros:10.0f} messages/s {ratio}")


def corpus() -> None:
    """Print recall and false positives of each rule, and what went wrong."""
    rules = RuleSet(load_policy(default_policy_path()))
    wanted: Counter[str] = Counter()
    caught: Counter[str] = Counter()
    false: Counter[str] = Counter()
    innocent, wrong = 0, []
    for name in ("evasions", "innocent", "personal_data"):
        lines = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        candidates = [Candidate("t", f"{name}{n}", line["text"], n * 60_000) for n, line in enumerate(lines)]
        for line, (_, verdict) in zip(lines, verdicts(rules, candidates), strict=True):
            hits = {hit.rule for hit in verdict.hits}
            if line["expect"] == "allow":
                innocent += 1
                false.update(hits)
            else:
                wanted[line["rule"]] += 1
                caught[line["rule"]] += line["rule"] in hits
            if verdict.action.value != line["expect"]:
                wrong.append((name, line["pattern"], line["expect"], verdict.action.value))
    print(f"{'rule':20} {'texts':>6} {'caught':>7} {'recall':>7} {'false':>6} of {innocent} innocent")
    for rule in rules.rules:
        if wanted[rule.id] or false[rule.id]:
            recall = f"{caught[rule.id] / wanted[rule.id]:.3f}" if wanted[rule.id] else "-"
            print(f"{rule.id:20} {wanted[rule.id]:6} {caught[rule.id]:7} {recall:>7} {false[rule.id]:6}")
    for name, pattern, expect, got in wrong:
        print(f"wrong: {name}: {pattern}: expected {expect}, got {got}")


# What triggers some rule or almost does, and characters that fold to nothing, to several, or that are rare.
_PIECES = (
    "4111 1111 1111 1112 |4111 |4111111111111111 |411111 1111 |1|1 |12-|1/|1.|(1)|1:11 |+1 |+44 20 7946 0958 |0|"
    "415-555-2671 |ref 415 555 2671 |order 4155552671 |phone 555 867 5309 |07911 123456 |123-45-678 |"
    "123-45-6789 |111.222.333-44 |12345678Z |AB123456C |RSSMRA85T10A562S |1 85 05 78 006 084 36 |"
    "aadhaar 2345 6789 0123 |cvv 123 |GB11 |DE89 3704 0044 0532 0130 01 |a@b.co |a@|@|a at b dot |"
    "a at b dot com |(at)|a (at) b.c |[dot]|token: a1b2c3d4 |password is |-----BEGIN PRIVATE KEY-----|eyJ|sk-|"
    "AKIA|key-|x://a:b@|http://|http://bit.ly/a |a.co |a.|www.|xn--|é.com |report.pdf |shit |fuuuck |sh1t |"
    "f u c k |f  u c  k |f.u.c.k |f*ck |fu_ck-|fu ck |fuck|asshole|ass|Dick |puta |scheisse |kurwa |сука |fuсk |"
    "kill yourself |k i l l |x*|'a|a'|s!|$|@ss |-0|a-0|aa|aabbcc|a b |verify your account |buy gift card send |"
    "hot girls |free spins |click |https |you won |send btc get back |the |und der |\n|\t| |  |    |\u200d|"
    "\u0301\u0316|\u202e|\u202ekcuf\u202c |ﷺ|\ud800|сим |и|가|中|\U0001f600|\U0001f1e6|ｆｕｃｋ |é|ß|…|¼|½ |"
    "⒈|⑴|㏂|㎏|㍿|ﬃ|१|²|\U0001f110|\U00020000|\ue000"
)
PIECES = _PIECES.split("|")
SIZE = 8_000


@dataclass(frozen=True)
class Recipe:
    """How a text is put together: *head*, *body* over and over or as a random mixture, *tail*."""

    head: tuple[str, ...]
    body: tuple[str, ...]
    tail: tuple[str, ...]
    mixed: int  # seed of the mixture; 0: in their order

    def text(self) -> str:
        head, tail = "".join(self.head), "".join(self.tail)[: SIZE // 2]
        if self.mixed:
            rng = random.Random(self.mixed)
            middle = "".join(rng.choices(self.body, k=SIZE))
        else:
            middle = "".join(self.body) * SIZE
        return (head + middle)[: SIZE - len(tail)] + tail


def any_piece(rng: random.Random) -> str:
    """Return a piece that is known to trigger a rule, one of the corpus, or any character at all."""
    kind = rng.random()
    if kind < 0.7:
        return rng.choice(PIECES)
    if kind < 0.85:
        return rng.choice(corpus_words()) + rng.choice(("", " ", "\n"))
    return chr(
        rng.choice((rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x1FFFF), rng.randrange(0x110000)))
    )


@cache
def corpus_words() -> list[str]:
    lines = [line for path in sorted(CORPUS.glob("*.jsonl")) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [json.loads(line)["text"] for line in lines]
    return [*texts, *(word for text in texts for word in text.split())]


def changed(recipe: Recipe, rng: random.Random) -> Recipe:
    """Return *recipe* with a change or two."""
    parts = {"head": list(recipe.head), "body": list(recipe.body), "tail": list(recipe.tail)}
    mixed = recipe.mixed
    for _ in range(rng.randint(1, 2)):
        pieces = parts[rng.choice(("head", "body", "body", "body", "tail"))]
        match rng.randrange(6):
            case 0 | 1 if pieces:
                pieces[rng.randrange(len(pieces))] = any_piece(rng)
            case 2 if len(pieces) > 1:
                del pieces[rng.randrange(len(pieces))]
            case 3 if pieces:
                pieces.append(rng.choice(pieces))
            case 4:
                mixed = rng.choice((0, rng.getrandbits(30) + 1))
            case _:
                pieces.insert(rng.randint(0, len(pieces)), any_piece(rng))
    body = tuple(parts["body"][:8]) or (any_piece(rng),)
    return Recipe(tuple(parts["head"][:4]), body, tuple(parts["tail"][:4]), mixed)


def verdict_seconds(rules: RuleSet, text: str, enough: float, tries: int = 5) -> float:
    """Return the least CPU time of a verdict, nothing about the text being remembered from the last one.

    Stops when it is less than *enough*, which a search does not want to know better.
    """
    best = float("inf")
    for _ in range(tries):
        for known in (
            phone_numbers._valid,
            domains.registrable,
            phone_numbers._nanp_groups,
            account_numbers._card_groups,
        ):
            known.cache_clear()
        started = time.thread_time()
        rules.judge([Candidate("t", "s", text, 0)], FloodMemory())
        best = min(best, time.thread_time() - started)
        if best < enough:
            break
    return best


def slow(seconds: float) -> None:
    """Climb from random texts to slower ones for *seconds*, and print the slowest of each climb."""
    rules = RuleSet(load_policy(default_policy_path()))
    settle_gc()
    rng = random.Random()
    found: list[tuple[float, Recipe]] = []
    tries, until = 0, time.monotonic() + seconds
    while time.monotonic() < until:
        at, best, failures = Recipe((), tuple(any_piece(rng) for _ in range(rng.randint(1, 4))), (), 0), 0.0, 0
        while failures < 60 and time.monotonic() < until:
            other = changed(at, rng)
            took = verdict_seconds(rules, other.text(), best * 1.01)
            tries += 1
            failures = 0 if took > best * 1.01 else failures + 1
            if not failures:
                at, best = other, took
        found.append((verdict_seconds(rules, at.text(), 0, 20), at))
    print(f"{tries} texts of {SIZE} characters; the slowest:")
    for best, recipe in sorted(found, key=lambda item: -item[0])[:8]:
        print(f"{best * 1e3:6.2f} ms CPU  {recipe!a}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="store_true")
    parser.add_argument("--slow", type=float, nargs="?", const=40.0, metavar="SECONDS")
    parser.add_argument("--messages", type=int, default=8_000)
    parser.add_argument("--batch", type=int, default=BATCH)
    args = parser.parse_args()
    if args.corpus:
        corpus()
    elif args.slow:
        slow(args.slow)
    else:
        throughput(args.messages, args.batch)


if __name__ == "__main__":
    main()
