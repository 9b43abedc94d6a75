// A plain-mode client of one ticket: history, then live, resumed after every interruption. No DOM.
//
//   const client = new TicketClient("12345", { onMessage, onState });
//   client.start();
//
// `onMessage(message)` gets each message once, in order: ticket_id, message_id, sender_id, message, timestamp.
// `onState(state, detail)`: "connecting", "open", "waiting" (detail.seconds until the next try), "stopped" (detail.reason).

import { compareIds } from "./feed.js";

const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 20_000;
const PAGE = 50;
export const TICKET_PATTERN = "[A-Za-z0-9._@\\-]{1,128}";

/** Full jitter: clients that lost the same node do not come back in one wave. */
export function backoffMs(attempt, random = Math.random) {
  return random() * Math.min(BACKOFF_CAP_MS, BACKOFF_BASE_MS * 2 ** Math.min(attempt, 16));
}

/** Close codes 4500 to 4999 mean "stop", all others "come back with your position". */
export const isFinal = (code) => code >= 4500 && code <= 4999;

export class TicketClient {
  constructor(ticket, { base = location.origin, onMessage = () => {}, onState = () => {}, onHistory = () => {} } = {}) {
    this.ticket = ticket;
    this.base = base;
    this.onMessage = onMessage;
    this.onState = onState;
    this.onHistory = onHistory; // (messages, hasMore): once, before the first onMessage
    this.at = null; // newest message_id seen; null until history was read
    this.attempt = 0;
    this.socket = null;
    this.timer = 0;
    this.stopped = true;
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
    clearTimeout(this.timer);
    this.timer = 0;
    this.socket?.close();
    this.socket = null;
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

  async connect() {
    this.onState("connecting", {});
    if (this.at === null) {
      try {
        const { messages, has_more } = await this.history();
        if (this.stopped) return;
        this.at = messages.at(-1)?.message_id ?? "0-0";
        this.onHistory(messages, has_more);
      } catch (error) {
        if (!this.stopped) error.final ? this.giveUp(error.message) : this.later();
        return;
      }
    }
    const query = new URLSearchParams({ ticket_id: this.ticket, since: this.at });
    const socket = (this.socket = new WebSocket(`${this.base.replace(/^http/, "ws")}/?${query}`));
    socket.onopen = () => {
      this.attempt = 0;
      this.onState("open", {});
    };
    socket.onmessage = ({ data }) => this.take(JSON.parse(data));
    socket.onclose = ({ code, reason }) => {
      if (this.socket !== socket || this.stopped) return;
      this.socket = null;
      isFinal(code) ? this.giveUp(reason || `closed with ${code}`) : this.later();
    };
  }

  take(message) {
    if (compareIds(message.message_id, this.at) <= 0) return; // at-least-once makes repeats normal
    this.at = message.message_id;
    this.onMessage(message);
  }

  later() {
    const wait = backoffMs(this.attempt++);
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
