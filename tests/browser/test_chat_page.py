"""The chat page, and a page of the tutorial that knows nothing of us."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Dev

pytestmark = pytest.mark.browser

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "feed.json").read_text(encoding="utf-8"))


async def open_chat(browser: Browser, dev: Dev, ticket: str, sender: str) -> Page:
    page = await browser.new_page()
    await page.goto(f"{dev.delivery}/?ticket={ticket}&sender={sender}")
    await expect(page.get_by_role("status")).to_have_text("Live")
    return page


async def write(page: Page, text: str) -> None:
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.get_by_role("button", name="Send").click()


async def texts(page: Page) -> list[str]:
    return await page.locator(".message:not(.pending) .text").all_text_contents()


async def test_two_tabs_see_each_others_messages_live(browser: Browser, dev: Dev) -> None:
    """A typed message appears in both tabs, once, with its sender; a late tab has the history."""
    anna, ben = [await open_chat(browser, dev, "12345", name) for name in ("anna", "ben")]
    await write(anna, "Hello, I need assistance with room 101.")
    await expect(ben.locator(".message .text")).to_have_text(["Hello, I need assistance with room 101."])
    await write(ben, "On my way!")
    for page in (anna, ben):
        await expect(page.locator(".message:not(.pending) .text")).to_have_text(
            ["Hello, I need assistance with room 101.", "On my way!"]
        )
        await expect(page.locator(".pending")).to_have_count(0)
        assert await page.locator(".sender").all_text_contents() == ["anna", "ben"]
    assert await anna.locator(".own .text").all_text_contents() == ["Hello, I need assistance with room 101."]
    late = await open_chat(browser, dev, "12345", "carla")
    await expect(late.locator(".message .text")).to_have_count(2)
    folder = os.environ.get("SCREENSHOTS")
    if folder:
        await anna.screenshot(path=f"{folder}/chat.png")


async def test_what_people_write_is_text(browser: Browser, dev: Dev) -> None:
    """Markup and scripts are shown, not run."""
    reader = await open_chat(browser, dev, "markup", "reader")
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>\nsecond line'
    writer = await open_chat(browser, dev, "markup", "writer")
    await write(writer, evil)
    await expect(reader.locator(".message .text")).to_have_text(evil)
    assert await reader.locator(".messages img, .messages script").count() == 0
    assert await reader.title() == "Ticket markup · Ticketwire"


async def test_the_page_resumes_where_it_was(browser: Browser, dev: Dev) -> None:
    """The delivery tier is killed; what is sent meanwhile is there afterwards, nothing twice."""
    page = await open_chat(browser, dev, "resume", "anna")
    await write(page, "before")
    await expect(page.locator(".message:not(.pending) .text")).to_have_text(["before"])
    os.kill(dev.delivery_pid, signal.SIGKILL)
    await expect(page.get_by_role("status")).not_to_have_text("Live")
    async with httpx.AsyncClient() as client:
        for number in range(3):
            form = {"ticket_id": "resume", "sender_id": "ben", "message": f"away {number}"}
            assert (await client.post(f"{dev.ingest}/chat/send", data=form)).status_code == 200
    await expect(page.get_by_role("status")).to_have_text("Live", timeout=30_000)
    await write(page, "after")
    wanted = ["before", "away 0", "away 1", "away 2", "after"]
    await expect(page.locator(".message:not(.pending) .text")).to_have_text(wanted)


async def test_older_messages_are_paged_in(browser: Browser, dev: Dev) -> None:
    """Fifty at first, the rest by button, in order. (Several senders: one alone would be flooding.)"""
    async with httpx.AsyncClient() as client:
        for number in range(70):
            form = {"ticket_id": "long", "sender_id": f"ben-{number // 10}", "message": f"m{number}"}
            assert (await client.post(f"{dev.ingest}/chat/send", data=form)).status_code == 200
    page = await open_chat(browser, dev, "long", "anna")
    await expect(page.locator(".message .text").last).to_have_text("m69")
    await page.reload()
    await expect(page.locator(".message")).to_have_count(50)
    await page.get_by_role("button", name="Earlier messages").click()
    await expect(page.locator(".message")).to_have_count(70)
    assert await texts(page) == [f"m{number}" for number in range(70)]


async def test_a_message_that_is_not_accepted_says_so_and_can_be_sent_again(browser: Browser, dev: Dev) -> None:
    """The ingest tier does not answer; the second try is the same message."""
    page = await open_chat(browser, dev, "again", "anna")
    await page.route("**/chat/send", lambda route: route.abort())
    await write(page, "once")
    await expect(page.locator(".pending .note")).to_contain_text("Not sent")
    await page.unroute("**/chat/send")
    await page.get_by_role("button", name="Try again").click()
    await expect(page.locator(".message:not(.pending) .text")).to_have_text(["once"])
    await expect(page.locator(".pending")).to_have_count(0)


async def test_the_page_keeps_its_security_policy(browser: Browser, dev: Dev) -> None:
    """No error in the console: nothing of the page is inline, and nothing it needs is blocked."""
    errors: list[str] = []
    page = await browser.new_page()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    await page.goto(f"{dev.delivery}/?ticket=policy&sender=anna")
    await expect(page.get_by_role("status")).to_have_text("Live")
    await write(page, "fine")
    await expect(page.locator(".message:not(.pending) .text")).to_have_text(["fine"])
    assert errors == []


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
async def test_the_browsers_feed_judges_as_ours(browser: Browser, dev: Dev, case: dict[str, object]) -> None:
    """The same vectors as delivery/feed.py."""
    page = await browser.new_page()
    await page.goto(f"{dev.delivery}/config.json")
    found = await page.evaluate(
        """async ({ at, events }) => {
            const { Feed } = await import("/web/feed.js");
            const feed = new Feed(at);
            return [events.map(([event, prev]) => feed.judge(event, prev)), feed.at];
        }""",
        case,
    )
    events = case["events"]
    assert isinstance(events, list)
    assert found == [[verdict for _, _, verdict in events], case["ends"]]


# The tutorial's ChatBox, reduced to what it does: one socket without a ticket, a filter of its own.
CHAT_BOX = """<!doctype html><ul id="messages"></ul><script>
  const ticketId = "12345";
  const socket = new WebSocket("WS_URL");
  socket.onopen = () => document.body.dataset.open = "yes";
  socket.onmessage = (event) => {
    const data = JSON.parse(event.data);
    if (data.ticket_id === ticketId) {
      const item = document.createElement("li");
      item.textContent = `${data.sender_id}: ${data.message}`;
      document.querySelector("#messages").append(item);
    }
  };
</script>"""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A page server of somebody else's, as `next dev` is on localhost:3000."""
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


async def test_the_tutorials_chat_box_works_unchanged(browser: Browser, dev: Dev, tmp_path: Path) -> None:
    """Another origin, no ticket named, two tickets busy: it shows its own."""
    (tmp_path / "index.html").write_text(CHAT_BOX.replace("WS_URL", dev.delivery.replace("http", "ws") + "/"))
    with served(tmp_path) as url:
        page = await browser.new_page()
        await page.goto(url)
        await expect(page.locator("body")).to_have_attribute("data-open", "yes")
        async with httpx.AsyncClient() as client:
            for ticket in ("12345", "777", "12345"):
                form = {"ticket_id": ticket, "sender_id": "1", "message": f"for {ticket}"}
                answer = await client.post(f"{dev.ingest}/chat/send", data=form)
                assert answer.json()["status"] == "success"
                await asyncio.sleep(0)
        await expect(page.locator("li")).to_have_text(["1: for 12345", "1: for 12345"])
