"""Flood and near duplicates, by the time of the messages."""

from __future__ import annotations

from workers.moderation.flood import FloodLimits, FloodMemory, shape_of
from workers.moderation.verdict import Candidate

LIMITS = FloodLimits(messages=3, window_ms=1_000, duplicates=2, duplicate_window_ms=60_000, duplicate_min_characters=10)


def say(memory: FloodMemory, at_ms: int, text: str, sender: str = "s", ticket: str = "t") -> str:
    memory.begin()
    return memory.judge("flood", Candidate(ticket, sender, text, at_ms), LIMITS)


def test_more_messages_than_allowed_in_the_window_are_a_flood() -> None:
    memory = FloodMemory()
    assert [say(memory, at, f"message {'abcdef'[at // 100]}") for at in (0, 100, 200, 300)] == ["", "", "", "flood"]


def test_a_flood_ends_when_the_window_has_passed() -> None:
    memory = FloodMemory()
    for at in (0, 100, 200, 300):
        say(memory, at, f"message {at}")
    assert say(memory, 1_500, "calm again") == ""


def test_near_duplicates_differ_in_case_digits_and_signs() -> None:
    memory = FloodMemory()
    texts = ["Buy now at shop 17!!", "buy NOW at shop 18 !", "BUY now... at shop"]
    assert [say(memory, 5_000 * n, text) for n, text in enumerate(texts)] == ["", "", "duplicate"]


def test_short_messages_may_repeat() -> None:
    memory = FloodMemory()
    assert [say(memory, 5_000 * n, "ok") for n in range(6)] == [""] * 6


def test_senders_and_tickets_do_not_count_for_each_other() -> None:
    memory = FloodMemory()
    for n in range(3):
        say(memory, n, f"message {'abc'[n]}")
    assert say(memory, 4, "message d", sender="other") == ""
    assert say(memory, 4, "message d", ticket="other") == ""


def test_a_batch_that_is_judged_again_gets_the_same_answers() -> None:
    """The worker repeats a batch when the archive was away; its messages must not become duplicates."""
    memory = FloodMemory()
    batch = [(n, "the same text again") for n in (0, 0, 10, 20)]
    first, second = (
        [memory.judge("flood", Candidate("t", "s", text, at), LIMITS) for at, text in batch]
        for _ in range(2)
        if memory.begin() is None
    )
    assert first == second == ["", "", "duplicate", "flood"]


def test_memory_is_bounded_whatever_senders_do() -> None:
    memory = FloodMemory(max_senders=100, max_messages=8)
    for n in range(1_000):
        for _ in range(3):
            say(memory, n, "hello there again", sender=f"s{n}")
    assert len(memory) == 100


def test_numbers_alone_are_no_duplicates_of_each_other() -> None:
    assert shape_of("12345 67890") != shape_of("99999 11111")
