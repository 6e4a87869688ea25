// The sandbox's page, live: the server sends the drawn part whenever something
// changed. Without this file the page is whole, only not by itself.
(() => {
  "use strict";
  const live = document.getElementById("live");
  const pulse = document.getElementById("pulse");
  const say = (state, text) => {
    pulse.dataset.state = state;
    pulse.firstElementChild.textContent = text;
  };
  const ids = () =>
    new Set([...live.querySelectorAll("[data-id]")].map((row) => row.dataset.id));

  // Times come in UTC and are shown as the reader's clock has them.
  const localise = () => {
    for (const time of live.querySelectorAll("time")) {
      const at = new Date(time.dateTime);
      time.textContent = at.toTimeString().slice(0, 8);
      time.title = at.toLocaleString();
    }
  };

  const draw = (html) => {
    const before = ids();
    const focused = document.activeElement;
    const path = live.contains(focused) ? focused.getAttribute("href") : null;
    live.innerHTML = html;
    localise();
    for (const row of live.querySelectorAll("[data-id]"))
      row.classList.toggle("new", !before.has(row.dataset.id));
    if (path) live.querySelector(`a[href="${CSS.escape(path)}"]`)?.focus();
  };

  const events = new EventSource("/sandbox/events");
  events.onopen = () => say("live", "live");
  events.onerror = () => say("lost", "not connected");
  events.onmessage = (event) => draw(event.data);
  // A page that is left must not hold one of the browser's few connections.
  addEventListener("pagehide", () => events.close());
  addEventListener("pageshow", (event) => event.persisted && location.reload());

  // Buttons work without leaving the page; the answer shows in the live part.
  document.addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.target;
    const button = form.querySelector("button");
    button.disabled = true;
    try {
      const body = new URLSearchParams(new FormData(form));
      await fetch(form.action, { method: "POST", body, redirect: "manual" });
    } catch {
      say("lost", "not connected");
    }
    button.disabled = false;
    button.focus();
  });
  localise();
})();
