"""What the chat page gains by ticketwire.v1: who is there, who writes, what was taken back."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.conftest import Dev

pytestmark = pytest.mark.browser


async def open_chat(browser: Browser, dev: Dev, ticket: str, sender: str) -> Page:
    page = await browser.new_page()
    await page.goto(f"{dev.delivery}/?ticket={ticket}&sender={sender}")
    await expect(page.get_by_role("status")).to_have_text("Live")
    return page


async def test_people_see_each_other_and_who_writes(browser: Browser, dev: Dev) -> None:
    """Presence when a page opens and closes; typing until the message is there."""
    anna, ben = await open_chat(browser, dev, "people", "anna"), await open_chat(browser, dev, "people", "ben")
    for page in (anna, ben):
        await expect(page.locator(".people")).to_have_text("Here: anna, ben")
    await anna.get_by_role("textbox", name="Message").press_sequentially("Hello")
    await expect(ben.locator(".writing")).to_have_text("anna writing…")
    await anna.get_by_role("button", name="Send").click()
    await expect(ben.locator(".message .text")).to_have_text(["Hello"])
    await expect(ben.locator(".writing")).to_have_text("")
    await expect(anna.locator(".writing")).to_have_text("")
    await anna.evaluate("document.querySelector('ticket-chat').client.stop()")
    await expect(ben.locator(".people")).to_have_text("Here: ben")
    for page in (anna, ben):
        await page.close()
