// <ticket-chat ticket="12345" sender="anna"></ticket-chat>: one ticket's messages, live, and a field to write.
// Whatever people wrote is set as textContent, never as HTML.

import { findIngest, newId, Sender, TicketClient } from "./client.js";

const STATES = {
  connecting: () => "Connecting…",
  open: () => "Live",
  waiting: ({ seconds }) => `Offline. Next try in ${Math.max(1, Math.round(seconds))} s`,
  stopped: ({ reason }) => `Stopped: ${reason}`,
};
const FATES = { held: "Waiting for review", rejected: "Not delivered: refused by moderation", dead: "Could not be delivered" };
const FATE_AFTER_MS = 4_000; // an accepted message not seen by then may be held or rejected
const NEAR_END = 80; // pixels: whoever reads older messages is not pulled down

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The same sender has the same colour everywhere. */
function hue(sender) {
  let sum = 0;
  for (const character of sender) sum = (sum * 31 + character.codePointAt(0)) % 360;
  return sum;
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat([], { weekday: "long", day: "numeric", month: "long" });

class TicketChat extends HTMLElement {
  static observedAttributes = ["ticket", "sender"];

  connectedCallback() {
    this.build();
    this.join();
  }

  disconnectedCallback() {
    this.client?.stop();
  }

  attributeChangedCallback(_name, before, after) {
    if (this.client && before !== after) this.join();
  }

  get sender() {
    return this.getAttribute("sender") ?? "";
  }

  build() {
    if (this.list) return;
    this.bar = element("div", "bar");
    this.heading = element("h2", "ticket");
    this.status = element("p", "state");
    this.status.setAttribute("role", "status");
    this.people = element("p", "people");
    this.bar.append(this.heading, this.people, this.status);

    this.scroller = element("div", "scroller");
    this.scroller.tabIndex = 0;
    this.scroller.setAttribute("role", "log");
    this.scroller.setAttribute("aria-label", "Messages");
    this.older = element("button", "older", "Earlier messages");
    this.older.type = "button";
    this.older.onclick = () => this.loadOlder();
    this.empty = element("p", "empty", "No messages yet. Say hello.");
    this.list = element("ol", "messages");
    this.waiting = element("ol", "messages");
    this.scroller.append(this.older, this.empty, this.list, this.waiting);

    this.writing = element("p", "writing");
    this.writing.setAttribute("aria-live", "polite");
    this.form = element("form", "composer");
    this.field = element("textarea", "");
    Object.assign(this.field, { rows: 1, maxLength: 8000, placeholder: "Write a message", required: true });
    this.field.setAttribute("aria-label", "Message");
    this.button = element("button", "send", "Send");
    this.form.append(this.field, this.button);
    this.form.onsubmit = (event) => this.submit(event);
    this.field.onkeydown = (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) this.submit(event);
    };
    this.field.oninput = () => this.client.typing();
    this.append(this.bar, this.scroller, this.writing, this.form);
  }

  join() {
    this.client?.stop();
    this.ticket = this.getAttribute("ticket") ?? "";
    this.heading.textContent = `Ticket ${this.ticket}`;
    this.rows = new Map(); // message_id -> row, so that nothing is shown twice
    this.list.replaceChildren();
    this.waiting.replaceChildren();
    this.older.hidden = true;
    this.empty.hidden = true;
    this.writing.textContent = "";
    this.people.textContent = "";
    this.client = new TicketClient(this.ticket, {
      user: this.sender || "guest",
      onHistory: (messages, hasMore) => this.began(messages, hasMore),
      onMessage: (message) => this.arrived(message),
      onChange: (change) => this.changed(change),
      onTyping: (users) => (this.writing.textContent = users.length ? `${users.join(", ")} writing…` : ""),
      onPeople: (members) => (this.people.textContent = `Here: ${members.map((one) => one.user_id).sort().join(", ")}`),
      onState: (state, detail) => this.show(state, detail),
    });
    this.client.start();
  }

  show(state, detail) {
    this.status.textContent = STATES[state](detail);
    this.status.dataset.state = state;
  }

  began(messages, hasMore) {
    this.rows = new Map();
    this.list.replaceChildren();
    for (const message of messages) this.add(message);
    this.older.hidden = !hasMore;
    this.empty.hidden = messages.length > 0;
    this.toEnd();
  }

  arrived(message) {
    const atEnd = this.isAtEnd() || message.sender_id === this.sender;
    this.add(message);
    this.empty.hidden = true;
    if (atEnd) this.toEnd();
  }

  /** Edited or taken back by its sender or a moderator. */
  changed({ type, message_id, message }) {
    const row = this.rows.get(message_id);
    if (!row) return; // not shown: it is among the earlier messages, which come as they are now
    row.classList.toggle("deleted", type === "message_deleted");
    row.querySelector(".text").textContent = type === "message_deleted" ? "Message deleted" : message;
  }

  async loadOlder() {
    this.older.disabled = true;
    try {
      const { messages, has_more } = await this.client.history(this.rows.keys().next().value);
      const height = this.scroller.scrollHeight;
      const known = [...this.rows];
      this.rows = new Map();
      const first = this.list.firstChild;
      for (const message of messages) this.list.insertBefore(this.row(message), first);
      this.rows = new Map([...this.rows, ...known]);
      this.scroller.scrollTop += this.scroller.scrollHeight - height;
      this.older.hidden = !has_more;
    } catch (error) {
      this.older.textContent = `Earlier messages: ${error.message}. Try again`;
    }
    this.older.disabled = false;
    this.days();
  }

  add(message) {
    if (this.rows.has(message.message_id)) return;
    for (const pending of this.waiting.children) {
      if (pending.messageId === message.message_id) pending.remove();
    }
    this.list.append(this.row(message));
    this.days();
  }

  row(message) {
    const row = element("li", message.sender_id === this.sender ? "message own" : "message");
    row.dataset.messageId = message.message_id;
    const sent = new Date(message.timestamp * 1000);
    row.dataset.day = day.format(sent);
    row.style.setProperty("--hue", hue(message.sender_id));
    const time = element("time", "", clock.format(sent));
    time.dateTime = sent.toISOString();
    const head = element("p", "head");
    head.append(element("span", "sender", message.sender_id), time);
    row.append(head, element("p", "text", message.message));
    this.rows.set(message.message_id, row);
    return row;
  }

  /** Mark the first message of each day. */
  days() {
    let last = "";
    for (const row of this.list.children) {
      row.classList.toggle("first", row.dataset.day !== last);
      last = row.dataset.day;
    }
  }

  isAtEnd() {
    return this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < NEAR_END;
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  submit(event) {
    event.preventDefault();
    const text = this.field.value.trim();
    if (!text) return;
    this.field.value = "";
    this.field.focus();
    const row = element("li", "message own pending");
    row.style.setProperty("--hue", hue(this.sender));
    row.append(element("p", "text", text), element("p", "note", "Sending…"));
    this.waiting.append(row);
    this.empty.hidden = true;
    this.toEnd();
    this.post(row, text, newId());
  }

  async post(row, text, id) {
    const { ticket, sender } = this;
    const note = row.querySelector(".note");
    try {
      this.ingest ??= new Sender(await findIngest());
      row.messageId = await this.ingest.send(ticket, sender, text, id);
      if (this.rows.has(row.messageId)) return row.remove(); // it was here before its answer
      note.textContent = "Accepted";
      setTimeout(() => this.inquire(row, ticket), FATE_AFTER_MS);
    } catch (error) {
      note.textContent = `Not sent: ${error.message}. `;
      const again = element("button", "again", "Try again");
      again.type = "button";
      again.onclick = () => {
        note.textContent = "Sending…";
        this.post(row, text, id); // the same id: if the first try did arrive, it stays one message
      };
      note.append(again);
    }
  }

  async inquire(row, ticket) {
    if (!row.isConnected) return;
    try {
      const { status, shown_as, sent_again_as } = await this.ingest.fate(ticket, row.messageId);
      row.messageId = shown_as ?? sent_again_as ?? row.messageId; // it took its place in the log under another id
      if (this.rows.has(row.messageId)) row.remove();
      else if (FATES[status]) row.querySelector(".note").textContent = FATES[status];
    } catch {
      // The note still says "Accepted", which is true.
    }
  }
}

customElements.define("ticket-chat", TicketChat);
