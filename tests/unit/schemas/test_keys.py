"""Names of keys and channels: fixed by the contract, and no id can reach another's."""

from __future__ import annotations

import re
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from schemas.events import ID_PATTERN
from schemas.keys import Keys

ticket_ids = st.from_regex(re.compile(ID_PATTERN.replace("$", r"\Z")), fullmatch=True)


def test_names_on_one_server_are_those_of_the_tutorial() -> None:
    keys = Keys(16)
    assert keys.log("12345") == "chat:12345"
    assert keys.channel("12345") == "channel:chat:12345"
    assert keys.events("12345") == "channel:chat:12345:events"
    assert keys.ingest(7) == "ingest:{07}"
    assert (keys.lease(7), keys.dead(7)) == ("ingest:{07}:lease", "ingest:{07}:dead")
    assert keys.presence("1") == "chat:1:presence"


@given(ticket_ids, st.integers(1, 4_096))
def test_on_cluster_all_that_a_message_touches_lies_in_one_slot(ticket: str, partitions: int) -> None:
    keys = Keys(partitions, cluster=True)
    p = keys.partition_of(ticket)
    touched = [
        keys.ingest(p), keys.lease(p), keys.dead(p), keys.log(ticket), keys.events(ticket), keys.cursors(ticket),
        keys.reads(ticket), keys.batch(p, "t"), keys.idempotency(p, ticket, "s", "k"), keys.rate(p, "s"),
    ]  # fmt: skip
    assert len({key_slot(key.encode()) for key in touched}) == 1


@given(ticket_ids, st.booleans())
def test_a_channel_leads_back_to_its_ticket(ticket: str, cluster: bool) -> None:
    keys = Keys(16, cluster)
    assert keys.ticket_of_events(keys.events(ticket)) == ticket


@given(st.lists(ticket_ids, min_size=2, max_size=2, unique=True))
def test_two_tickets_share_no_name(tickets: list[str]) -> None:
    keys = Keys(16)

    def names(ticket: str) -> set[str]:
        return {keys.log(ticket), keys.presence(ticket), keys.cursors(ticket), keys.reads(ticket)}

    assert not names(tickets[0]) & names(tickets[1])


@pytest.mark.parametrize("ticket", ["12345", "a@b", "x" * 128])
def test_the_partition_is_crc32_so_that_any_producer_can_compute_it(ticket: str) -> None:
    assert Keys(16).partition_of(ticket) == crc32(ticket.encode()) % 16


@given(
    st.tuples(ticket_ids, ticket_ids, st.text("!:{}~a", min_size=1)), st.tuples(ticket_ids, ticket_ids, st.just(":"))
)
def test_idempotency_keys_of_different_callers_never_meet(a: tuple[str, str, str], b: tuple[str, str, str]) -> None:
    keys = Keys(16)
    assert (keys.idempotency(0, *a) == keys.idempotency(0, *b)) == (a == b)
