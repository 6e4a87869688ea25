// Acme's sign-up that sends JSON.
(() => {
  "use strict";
  const form = document.getElementById("json-signup");
  const problem = form.querySelector(".error");
  const show = (text) => {
    problem.textContent = text;
    problem.hidden = !text;
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    show("");
    try {
      const answer = await fetch(form.action, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify(Object.fromEntries(new FormData(form))),
      });
      if (answer.ok) {
        location.assign("/welcome");
        return;
      }
      show((await answer.json()).error);
    } catch {
      show("Acme did not answer. Please try again.");
    }
    button.disabled = false;
  });
})();
