// Runs tests/vectors/*.json through the page's scripts. `node tests/web/vectors.mjs`; exits with 1 at the first difference.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { compareIds, Feed } from "../../web/feed.js";
import { EVENTS, Session } from "../../web/session.js";

const vectors = (name) => JSON.parse(readFileSync(new URL(`../vectors/${name}.json`, import.meta.url), "utf8"));

for (const { name, steps } of vectors("conversations")) {
  test(name, () => {
    const session = new Session();
    for (const [number, step] of steps.entries()) {
      const where = `step ${number}: ${JSON.stringify(step)}`;
      if (step.receive) {
        const { deliver, send, reconnectWithinMs } = session.receive(step.receive, step.size ?? 50);
        assert.deepEqual(deliver, step.deliver, where);
        assert.deepEqual(send, step.send, where);
        assert.equal(reconnectWithinMs, step.reconnect ?? null, where);
      } else if (step.do === "connect") assert.deepEqual([session.connect(step.identity)], step.send, where);
      else if (step.do === "subscribe")
        assert.deepEqual(session.subscribe(step.ticket, step.since ?? null, step.history ?? 0), step.send, where);
      else if (step.do === "unsubscribe") assert.deepEqual(session.unsubscribe(step.ticket), step.send, where);
      else if (step.do === "handled") session.handled(step.ticket, step.position, step.now);
      else if (step.do === "due") assert.equal(session.ackDueMs(), step.due, where);
      else assert.deepEqual(session.acks(step.now), step.send, where);
    }
  });
}

test("golden frames of the server are taken without complaint", () => {
  for (const frame of vectors("frames").server) {
    const { deliver, send } = new Session().receive(frame, 50);
    assert.ok(Array.isArray(deliver) && Array.isArray(send), frame.type);
    if (EVENTS.has(frame.type)) assert.deepEqual(deliver, [], "an event of a ticket that was not subscribed");
  }
});

test("positions are compared as two numbers, beyond what a double holds", () => {
  assert.ok(compareIds("9-0", "10-0") < 0);
  assert.ok(compareIds("18446744073709551615-1", "18446744073709551615-2") < 0);
  assert.equal(new Feed("7-0").judge("9-0", "8-0"), "gap");
});
