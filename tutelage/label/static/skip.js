// Why somebody leaves a task undone: the dialog of the desk, and of a chat whose goal is a task.

import { ask } from "./cards.js";
import { el } from "./dom.js";

const REASONS = { unclear: "I cannot tell what is asked", "too-long": "Too long", "not-my-language": "Not my language", distressing: "Distressing", broken: "The task is broken", other: "Another reason" };

// Resolves to {reason, note}, or null.
export function askReason(title, button) {
  const options = Object.entries(REASONS).map(([value, label], i) => {
    const input = el("input", { type: "radio", name: "reason", value, id: `reason-${value}` });
    input.checked = i === 0;
    return el("p", {}, el("label", { class: "inline" }, input, ` ${label}`));
  });
  const note = el("textarea", { rows: "2", id: "skip-note", maxlength: "500" });
  const content = el("div", {}, el("fieldset", {}, el("legend", {}, "Why?"), ...options), el("label", { for: "skip-note" }, "Note (if you like)"), note);
  return ask(title, content, { button, value: () => ({ reason: content.querySelector("input:checked").value, note: note.value.trim() }) });
}
