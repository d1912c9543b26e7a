// What the pages do beyond plain forms. They all work without it.
"use strict";

// The lamp beside a live page's title: on while the stream is open.
function lamp(on) {
  for (const el of document.querySelectorAll(".live")) el.classList.toggle("on", on);
}
document.addEventListener("htmx:sseOpen", () => lamp(true));
document.addEventListener("htmx:sseError", () => lamp(false));
document.addEventListener("htmx:sseClose", () => lamp(false));

// Menus close when the eye has moved on.
document.addEventListener("click", (e) => {
  for (const m of document.querySelectorAll("details.menu[open]")) if (!m.contains(e.target)) m.open = false;
});
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape") return;
  for (const m of document.querySelectorAll("details.menu[open]")) { m.open = false; m.querySelector("summary").focus(); }
});

// A form is sent once, however often its button is pressed.
document.addEventListener("submit", (e) => {
  if (e.target.dataset.sent) e.preventDefault();
  e.target.dataset.sent = "1";
});
window.addEventListener("pageshow", () => {
  for (const f of document.forms) delete f.dataset.sent;
});

// What somebody has unfolded stays so when its piece of a live page is replaced.
const unfolded = new Set();
document.addEventListener("toggle", (e) => {
  if (e.target.id) unfolded[e.target.open ? "add" : "delete"](e.target.id);
}, true);
document.addEventListener("htmx:oobAfterSwap", () => {
  for (const id of unfolded) { const el = document.getElementById(id); if (el) el.open = true; }
});

for (const b of document.querySelectorAll("[data-print]")) b.addEventListener("click", () => window.print());
