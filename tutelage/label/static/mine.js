// Taking back one's own answer, after asking once more.

import { el } from "./dom.js";
import { ask } from "./cards.js";

const table = document.getElementById("answers");
table?.addEventListener("click", async (event) => {
  const button = event.target.closest(".withdraw");
  if (!button) return;
  const sure = await ask("Take this answer back?", el("p", {}, "It counts no more. The log keeps that it was given and taken back."), { button: "Take back", value: () => true });
  if (!sure) return;
  const answer = await fetch(`${table.dataset.base}/${button.dataset.assignment}/withdraw`, {
    method: "POST", credentials: "same-origin",
    headers: { accept: "application/json", "content-type": "application/json", "x-form-mark": table.dataset.mark },
    body: JSON.stringify({ key: crypto.randomUUID() }),
  });
  const body = await answer.json();
  document.getElementById("told").textContent = answer.ok ? "Taken back." : body.error;
  if (answer.ok) button.closest("tr").querySelector(".actions").replaceChildren("taken back");
});
