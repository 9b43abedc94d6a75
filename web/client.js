// A client of one ticket by ticketwire.v1: history, then live, resumed after every interruption. No DOM.
//
//   const client = new TicketClient("12345", { user: "anna", onMessage, onState });
//   client.start();
//
// `onHistory(messages, hasMore)`: the newest messages; again after `reset`, when everything shown is to be dropped.
// `onMessage(message)` gets each later message once, in order. `onChange(frame)`: message_updated or message_deleted.
// `onTyping(users)`, `onPeople(members)`: who writes, who is there; `onReceipt(frame)`.
// `onState(state, detail)`: "connecting", "open", "waiting" (detail.seconds until the next try), "stopped" (detail.reason).

import { Session, SUBPROTOCOL, EVENTS, positionOf } from "./session.js";

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
const PAGE = 50;
const TYPING_EVERY_MS = 2_500;
const utf8 = new TextEncoder();
export const TICKET_PATTERN = "[A-Za-z0-9._@\\-]{1,128}";

/** Full jitter: clients that lost the same node do not come back in one wave. */
export function backoffMs(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
}

/** Close codes 4500 to 4999 mean "stop", all others "come back with your position". */
export const isFinal = (code) => code >= 4500 && code <= 4999;

export class TicketClient {
  constructor(ticket, { base = location.origin, user = "guest", role = "customer", ...handlers } = {}) {
    const nothing = () => {};
    this.ticket = ticket;
    this.base = base;
    this.identity = { user, role, client: "web/1" };
    for (const name of ["onHistory", "onMessage", "onChange", "onTyping", "onPeople", "onReceipt", "onState"]) {
      this[name] = handlers[name] ?? nothing;
    }
    this.session = new Session();
    this.began = false; // whether history was read
    this.attempt = 0;
    this.socket = null;
    this.timer = 0;
    this.ackTimer = 0;
    this.silence = 0;
    this.silentMs = 45_000;
    this.stopped = true;
    this.people = new Map();
    this.version = -1; // of presence
    this.typists = new Map();
    this.typedMs = -Infinity;
    this.wake = () => this.timer && this.retryNow();
  }

  start() {
    this.stopped = false;
    addEventListener("online", this.wake);
    this.connect();
  }

  stop() {
    this.stopped = true;
    removeEventListener("online", this.wake);
    for (const timer of [this.timer, this.ackTimer, this.silence, ...this.typists.values()]) clearTimeout(timer);
    this.timer = 0;
    this.acknowledge();
    const { socket } = this;
    this.socket = null;
    socket?.close(1000);
  }

  retryNow() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.attempt = 0;
    this.connect();
  }

  /** Messages before `before`, oldest first. */
  async history(before = null) {
    const query = new URLSearchParams({ limit: String(PAGE), ...(before && { before }) });
    const answer = await fetch(`${this.base}/tickets/${encodeURIComponent(this.ticket)}/messages?${query}`);
    const body = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(body.error), { final: answer.status === 422 });
    return body;
  }

  async begin() {
    const { messages, has_more } = await this.history();
    if (this.stopped) return;
    this.began = true;
    this.session.subscribe(this.ticket, messages.at(-1)?.message_id ?? "0-0");
    this.onHistory(messages, has_more);
  }

  async connect() {
    this.onState("connecting", {});
    if (!this.began) {
      try {
        await this.begin();
      } catch (error) {
        if (!this.stopped) error.final ? this.giveUp(error.message) : this.later();
        return;
      }
      if (this.stopped) return;
    }
    const socket = (this.socket = new WebSocket(`${this.base.replace(/^http/, "ws")}/`, SUBPROTOCOL));
    socket.onopen = () => this.say([this.session.connect(this.identity)]);
    socket.onmessage = ({ data }) => this.socket === socket && this.take(data);
    socket.onclose = ({ code, reason }) => {
      if (this.socket !== socket || this.stopped) return;
      this.lost();
      isFinal(code) ? this.giveUp(reason || `closed with ${code}`) : this.later();
    };
    this.heard();
  }

  /** The connection is gone, or given up. */
  lost() {
    clearTimeout(this.silence);
    clearTimeout(this.ackTimer);
    this.ackTimer = 0;
    this.version = -1;
    const { socket } = this;
    this.socket = null;
    socket?.close();
  }

  /** Browsers do not show WebSocket pings: a server that says nothing for too long is not there. */
  heard() {
    clearTimeout(this.silence);
    this.silence = setTimeout(() => {
      this.lost();
      this.later();
    }, this.silentMs);
  }

  say(frames) {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    for (const frame of frames) this.socket.send(JSON.stringify(frame));
  }

  take(text) {
    this.heard();
    const { deliver, send, reconnectWithinMs } = this.session.receive(JSON.parse(text), utf8.encode(text).length);
    for (const one of deliver) this.deliver(one);
    this.say(send);
    this.timeAcks();
    if (reconnectWithinMs !== null) this.moveWithin(reconnectWithinMs);
  }

  /** This node stops: come back, to another one, at a random moment within the time it gives. */
  moveWithin(ms) {
    const { socket } = this;
    setTimeout(() => {
      if (this.socket !== socket || this.stopped) return;
      this.acknowledge();
      this.lost();
      this.connect();
    }, Math.random() * ms);
  }

  deliver(frame) {
    if (EVENTS.has(frame.type)) {
      if (frame.type === "message") {
        this.endTyping(frame.sender_id);
        this.onMessage(frame);
      } else {
        this.onChange(frame);
      }
      this.session.handled(this.ticket, positionOf(frame), performance.now());
      return;
    }
    switch (frame.type) {
      case "connected":
        this.silentMs = frame.ping_ms + frame.pong_ms;
        break;
      case "subscribed":
        this.attempt = 0;
        if (frame.resume === "reset") this.restart();
        this.appear();
        this.onState("open", {});
        break;
      case "receipt":
        this.onReceipt(frame);
        break;
      case "typing":
        this.endTyping(frame.user_id);
        if (frame.on) {
          this.typists.set(frame.user_id, setTimeout(() => this.endTyping(frame.user_id), frame.expires_in_ms));
          this.onTyping([...this.typists.keys()]);
        }
        break;
      case "presence_state":
        this.version = frame.version;
        this.people = new Map(frame.members.map((member) => [member.user_id, member]));
        this.onPeople([...this.people.values()]);
        break;
      case "presence_diff":
        this.presenceChanged(frame);
        break;
      case "error":
        if (frame.temporary && frame.ticket_id === this.ticket) {
          this.lost();
          this.later();
        }
        break;
    }
  }

  /** Nobody knows any more what we have: what is shown is dropped, and history is read anew. */
  restart() {
    this.began = false;
    this.session = new Session();
    this.lost();
    this.connect();
  }

  /** Be seen by the others, and be told who they are. */
  appear() {
    this.say([{ type: "presence", ticket_id: this.ticket, activity: "viewing" }]);
  }

  presenceChanged(diff) {
    if (this.version < 0 || diff.version <= this.version) return;
    if (diff.version !== this.version + 1) {
      this.appear();
      return;
    }
    this.version = diff.version;
    for (const member of diff.members) this.people.set(member.user_id, member);
    for (const user of diff.left) this.people.delete(user);
    this.onPeople([...this.people.values()]);
  }

  endTyping(user) {
    clearTimeout(this.typists.get(user));
    if (this.typists.delete(user)) this.onTyping([...this.typists.keys()]);
  }

  /** The user writes: call it at every key. */
  typing() {
    const now = performance.now();
    if (now - this.typedMs < TYPING_EVERY_MS) return;
    this.typedMs = now;
    this.say([{ type: "typing", ticket_id: this.ticket }]);
  }

  /** The user has read everything shown. */
  read() {
    const position = this.session.position(this.ticket);
    if (position !== null) this.say([{ type: "read", ticket_id: this.ticket, position }]);
  }

  acknowledge() {
    clearTimeout(this.ackTimer);
    this.ackTimer = 0;
    this.say(this.session.acks(performance.now()));
  }

  timeAcks() {
    const due = this.session.ackDueMs();
    if (due === null) return;
    const wait = due - performance.now();
    if (wait <= 0) this.acknowledge();
    else this.ackTimer ||= setTimeout(() => this.acknowledge(), wait);
  }

  later() {
    if (this.stopped) return;
    const wait = backoffMs(this.attempt++);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.timer = 0;
      this.connect();
    }, wait);
    this.onState("waiting", { seconds: wait / 1000 });
  }

  giveUp(reason) {
    this.stop();
    this.onState("stopped", { reason });
  }
}

/** Post to the ingest tier. Retried with the same `clientMessageId` it is still one message. */
export class Sender {
  constructor(ingest) {
    this.ingest = ingest;
  }

  async send(ticket, sender, text, clientMessageId) {
    const answer = await fetch(`${this.ingest}/chat/send`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ ticket_id: ticket, sender_id: sender, message: text, client_message_id: clientMessageId }),
    });
    const body = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(body.error ?? `the server answered ${answer.status}`);
    return body.message_id;
  }

  /** What became of an accepted message: "pending", "confirmed", "masked", "held", "rejected", "dead". */
  async fate(ticket, messageId) {
    const answer = await fetch(`${this.ingest}/messages/${encodeURIComponent(ticket)}/${messageId}`);
    return answer.ok ? await answer.json() : {};
  }
}

/** Where to post, as the delivery tier knows it; by default port 8000 of this host. */
export async function findIngest() {
  const { ingest_url: url } = await (await fetch("/config.json")).json();
  return (url || `${location.protocol}//${location.hostname}:8000`).replace(/\/$/, "");
}

/** A random id; crypto.randomUUID exists only on https and localhost. */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
