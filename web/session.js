// What a client must do with each frame of ticketwire.v1 (docs/protocol.md). No I/O, no clock, no DOM.
// ticketwire/client/tracker.py is the same; tests/vectors/conversations.json is run by both sides' tests.

import { compareIds, Feed } from "./feed.js";

export const SUBPROTOCOL = "ticketwire.v1";
export const EVENTS = new Set(["message", "message_updated", "message_deleted"]);
export const QUIET_ACK_MS = 200; // after a pause the first event is acknowledged this soon
export const HEAD_BYTES = 4; // of an event's WebSocket frame, which the server counts too

/** A message's own id; for a change its place in the log. */
export const positionOf = (event) => (event.type === "message" ? event.message_id : event.event_id);

const outcome = (deliver = [], send = [], reconnectWithinMs = null) => ({ deliver, send, reconnectWithinMs });

/** One client's position in all its tickets. */
export class Session {
  constructor() {
    this.tickets = new Map();
    this.left = []; // connect named them, and they were left before it was answered
    this.window = 512;
    this.windowBytes = 524_288;
    this.intervalMs = 5_000;
    this.pending = 0; // events handled and not acknowledged
    this.pendingBytes = 0;
    this.pendingSinceMs = 0;
    this.ackedMs = -Infinity;
    this.connected = false;
  }

  position(ticket) {
    return this.tickets.get(ticket)?.at ?? null;
  }

  /** The first frame of a new socket, which resumes every ticket. */
  connect(identity) {
    this.connected = false;
    this.pending = this.pendingBytes = 0;
    this.left = [];
    const resume = {};
    for (const [name, ticket] of this.tickets) {
      Object.assign(ticket, { asked: true, said: true, handled: null, delivered: [] });
      resume[name] = ticket.at;
    }
    return { type: "connect", ...identity, ...(this.tickets.size && { resume }) };
  }

  /** Add a ticket; returns what to send now: nothing before `connected`, which connect or its answer sees to. */
  subscribe(ticket, since = null, history = 0) {
    const known = { at: since, handled: null, delivered: [], asked: true, history, said: false };
    this.tickets.set(ticket, known);
    return this.connected ? [this.subscribeFrame(ticket, known)] : [];
  }

  subscribeFrame(name, ticket) {
    ticket.said = true;
    const { at, history } = ticket;
    return { type: "subscribe", ticket_id: name, ...(at !== null && { since: at }), ...(history && { history }) };
  }

  unsubscribe(ticket) {
    const known = this.tickets.get(ticket);
    this.tickets.delete(ticket);
    if (!known?.said) return [];
    if (this.connected) return [{ type: "unsubscribe", ticket_id: ticket }];
    this.left.push(ticket);
    return [];
  }

  /** What has changed since connect was sent. */
  meanwhile() {
    const frames = this.left.map((ticket) => ({ type: "unsubscribe", ticket_id: ticket }));
    this.left = [];
    for (const [name, ticket] of this.tickets) if (!ticket.said) frames.push(this.subscribeFrame(name, ticket));
    return frames;
  }

  /**
   * Take a frame, whose text has `size` bytes: { deliver, send, reconnectWithinMs }.
   * Unknown types are delivered: a newer server may send them.
   */
  receive(frame, size) {
    const ticket = this.tickets.get(frame.ticket_id);
    if (EVENTS.has(frame.type)) return this.event(frame, ticket, size + HEAD_BYTES);
    switch (frame.type) {
      case "connected":
        this.connected = true;
        [this.window, this.windowBytes] = [frame.ack_window, frame.ack_bytes];
        this.intervalMs = frame.ack_ms;
        return outcome([frame], this.meanwhile());
      case "subscribed":
        if (ticket) Object.assign(ticket, { asked: false, at: frame.position, handled: null, delivered: [] });
        break;
      case "caught_up":
        if (ticket && !ticket.asked) ticket.at = frame.position;
        break;
      case "ping":
        return outcome([], [{ type: "pong" }]);
      case "reconnect":
        return outcome([], [], frame.within_ms);
    }
    return outcome([frame]);
  }

  event(frame, ticket, size) {
    if (!ticket || ticket.asked || ticket.at === null) return outcome();
    const at = positionOf(frame);
    const verdict = new Feed(ticket.at).judge(at, frame.prev_id);
    if (verdict === "duplicate") return outcome(); // at-least-once makes repeats normal
    if (verdict === "gap") {
      ticket.asked = true;
      return outcome([], [{ type: "subscribe", ticket_id: frame.ticket_id, since: ticket.at }]);
    }
    ticket.at = at;
    ticket.delivered.push({ at, size });
    return outcome([frame]);
  }

  /** The application has done with everything up to `position`. */
  handled(ticket, position, nowMs) {
    const known = this.tickets.get(ticket);
    if (!known || known.asked) return;
    while (known.delivered.length && compareIds(known.delivered[0].at, position) <= 0) {
      const { at, size } = known.delivered.shift();
      known.handled = at;
      if (this.pending++ === 0) this.pendingSinceMs = nowMs;
      this.pendingBytes += size;
    }
  }

  /** When `acks` should be called; null while there is nothing to acknowledge. */
  ackDueMs() {
    if (this.pending === 0) return null;
    if (this.pending * 2 >= this.window || this.pendingBytes * 2 >= this.windowBytes) return this.pendingSinceMs;
    // The server waits for us, or soon will, while the application is busy with the rest.
    let [open, bytes] = [this.pending, this.pendingBytes];
    for (const ticket of this.tickets.values())
      for (const { size } of ticket.delivered) [open, bytes] = [open + 1, bytes + size];
    if (open >= this.window || bytes >= this.windowBytes) return this.pendingSinceMs;
    return Math.max(this.pendingSinceMs + QUIET_ACK_MS, this.ackedMs + this.intervalMs);
  }

  /** An `ack` for each ticket in which something was handled since its last one. */
  acks(nowMs) {
    const frames = [];
    for (const [name, ticket] of this.tickets) {
      if (ticket.handled === null) continue;
      frames.push({ type: "ack", ticket_id: name, position: ticket.handled });
      ticket.handled = null;
    }
    this.pending = this.pendingBytes = 0;
    if (frames.length) this.ackedMs = nowMs;
    return frames;
  }
}
