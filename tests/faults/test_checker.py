"""The checker finds each kind of violation when there is one, and nothing when there is none."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest

from schemas.message_id import MessageId
from tests.faults.checker import Accepted, ClientLog, Evidence, Letter, Row, Shown, check

KEYS = ["a", "b", "c", "d"]


def clean() -> Evidence:
    """Four messages of one ticket that all went well, seen by one reader."""
    shown = [Shown(f"{nr}-0", key) for nr, key in enumerate(KEYS, 1)]
    return Evidence(
        sent={"T": list(KEYS)},
        accepted={"T": [Accepted(s.key, s.message_id) for s in shown]},
        archive=[Row("T", s.message_id, s.key) for s in shown],
        logs={"T": list(shown)},
        dead=[],
        pending=frozenset(),
        clients=[ClientLog("reader", "T", list(shown))],
    )


def test_a_run_without_violation_is_clean() -> None:
    findings = check(clean())
    assert findings.clean, findings.describe()
    assert findings.describe() == "nothing"


def lose_one_everywhere(e: Evidence) -> None:
    e.archive = e.archive[:1] + e.archive[2:]
    e.logs = {"T": [*e.logs["T"][:1], *e.logs["T"][2:]]}
    del e.clients[0].received[1]


def leave_one_on_the_stream(e: Evidence) -> None:
    lose_one_everywhere(e)
    e.pending = frozenset({"2-0"})


def archive_one_twice(e: Evidence) -> None:
    e.archive = [*e.archive, Row("T", "9-0", "b", "held")]


def log_one_twice(e: Evidence) -> None:
    e.archive = [*e.archive, Row("T", "9-0", "b")]
    e.logs = {"T": [*e.logs["T"], Shown("9-0", "b")]}
    e.clients[0].received.append(Shown("9-0", "b"))


def show_one_twice_under_other_ids(e: Evidence) -> None:
    e.clients[0].received.append(Shown("9-0", "d"))


def swap_in_the_log(e: Evidence) -> None:
    first, second, *rest = e.logs["T"]
    e.logs = {"T": [second, first, *rest]}


def swap_on_the_socket(e: Evidence) -> None:
    received = e.clients[0].received
    received[1], received[2] = received[2], received[1]


def swap_in_the_archive(e: Evidence) -> None:
    e.archive = [replace(row, key={"b": "c", "c": "b"}.get(row.key, row.key)) for row in e.archive]


def forget_one_in_the_log(e: Evidence) -> None:
    e.logs = {"T": [*e.logs["T"][:1], *e.logs["T"][2:]]}


def forget_the_last_in_the_log(e: Evidence) -> None:
    e.logs = {"T": e.logs["T"][:-1]}


def forget_the_first_in_the_log(e: Evidence) -> None:
    e.logs = {"T": e.logs["T"][1:]}


def forget_one_on_the_socket(e: Evidence) -> None:
    del e.clients[0].received[2]


def show_before_the_archive_has_it(e: Evidence) -> None:
    e.clients[0].unarchived.append("3-0")


def show_what_the_archive_never_got(e: Evidence) -> None:
    e.archive = [row for row in e.archive if row.key != "d"]
    e.accepted = {"T": e.accepted["T"][:3]}


def archive_under_another_id(e: Evidence) -> None:
    e.archive = [replace(row, message_id="4-7") if row.key == "d" else row for row in e.archive]
    for entries in (e.logs["T"], e.clients[0].received):
        entries[3] = Shown("4-7", "d")


def bury_what_is_shown(e: Evidence) -> None:
    e.dead = [Letter("T", "3-0", "c")]


def show_what_nobody_sent(e: Evidence) -> None:
    e.archive = [*e.archive, Row("T", "5-0", "x")]
    e.logs = {"T": [*e.logs["T"], Shown("5-0", "x")]}


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (lose_one_everywhere, {"lost"}),
        (leave_one_on_the_stream, {"unsettled"}),
        (archive_one_twice, {"archive_duplicates"}),
        (log_one_twice, {"archive_duplicates", "log_duplicates", "client_duplicates", "reordered"}),
        (show_one_twice_under_other_ids, {"client_duplicates", "unarchived"}),
        (swap_in_the_log, {"reordered"}),
        (swap_on_the_socket, {"reordered"}),
        (swap_in_the_archive, {"reordered", "renamed"}),
        (forget_one_in_the_log, {"gaps"}),
        (forget_the_last_in_the_log, {"gaps"}),
        (forget_the_first_in_the_log, {"gaps"}),
        (forget_one_on_the_socket, {"gaps"}),
        (show_before_the_archive_has_it, {"unarchived"}),
        (show_what_the_archive_never_got, {"unarchived"}),
        (archive_under_another_id, {"renamed"}),
        (bury_what_is_shown, {"two_fates"}),
        (show_what_nobody_sent, {"unknown", "gaps"}),
    ],
)
def test_each_violation_is_found_and_named(spoil: Callable[[Evidence], None], kinds: set[str]) -> None:
    evidence = deepcopy(clean())
    spoil(evidence)
    findings = check(evidence)
    assert not findings.clean
    assert {kind for kind, count in findings.counts().items() if count} == kinds, findings.describe()
    assert all(kind in findings.describe() for kind in kinds)


def hold_one(e: Evidence) -> None:
    e.archive = [replace(row, status="held") if row.key == "b" else row for row in e.archive]
    e.logs = {"T": [*e.logs["T"][:1], *e.logs["T"][2:]]}
    del e.clients[0].received[1]


def bury_one(e: Evidence) -> None:
    lose_one_everywhere(e)
    e.dead = [Letter("T", "2-0", "b")]


def bury_a_second_copy(e: Evidence) -> None:
    """Redis forgot an idempotency key, so a retry was stored again; the archive recognised it."""
    e.accepted = {"T": [*e.accepted["T"][:3], Accepted("d", "5-0")]}
    e.dead = [Letter("T", "5-0", "d", "duplicate")]


def repeat_on_the_socket(e: Evidence) -> None:
    e.clients[0].received.insert(2, e.clients[0].received[0])


def begin_late(e: Evidence) -> None:
    e.clients[0].since = MessageId(2, 0)
    del e.clients[0].received[:2]


def leave_the_last_unanswered(e: Evidence) -> None:
    e.accepted = {"T": e.accepted["T"][:3]}


def trim_the_log(e: Evidence) -> None:
    e.logs = {"T": e.logs["T"][2:]}
    e.trimmed = True


@pytest.mark.parametrize(
    "happen", [hold_one, bury_one, repeat_on_the_socket, begin_late, leave_the_last_unanswered, trim_the_log]
)
def test_what_the_promises_allow_is_no_violation(happen: Callable[[Evidence], None]) -> None:
    evidence = deepcopy(clean())
    happen(evidence)
    findings = check(evidence)
    assert findings.clean, findings.describe()


def test_a_second_copy_that_was_recognised_is_not_lost_but_its_id_is_another() -> None:
    evidence = deepcopy(clean())
    bury_a_second_copy(evidence)
    assert {kind for kind, count in check(evidence).counts().items() if count} == {"renamed"}
