// The page around <ticket-chat>: which ticket, and who is writing. Both are in the address, so a tab can be shared.

import { newId } from "./client.js";

const form = document.querySelector("#who");
const chat = document.querySelector("ticket-chat");
const given = new URLSearchParams(location.search);

form.ticket.value = given.get("ticket") || "12345";
// Each tab is somebody else until one says so: that is what one wants to see in a demonstration.
form.sender.value = given.get("sender") || sessionStorage.sender || `guest-${newId().slice(0, 4)}`;

function apply() {
  const [ticket, sender] = [form.ticket.value.trim(), form.sender.value.trim()];
  sessionStorage.sender = sender;
  history.replaceState(null, "", `?${new URLSearchParams({ ticket, sender })}`);
  chat.setAttribute("sender", sender);
  chat.setAttribute("ticket", ticket);
  document.title = `Ticket ${ticket} · Ticketwire`;
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("change", () => form.reportValidity() && apply());
apply();
await import("./ticket-chat.js");
