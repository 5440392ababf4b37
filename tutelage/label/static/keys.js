// Single keys for actions. They are silent while somebody writes, can be bound anew, and are listed by "?".

import { el } from "./dom.js";

export const DEFAULTS = {
  next: "j", previous: "k", tie: "t", full: " ", diff: "d", flag: "f", critique: "c", correct: "e", none: "n",
  skip: "s", undo: "u", help: "?", guideline: "g", reveal: "v", pairs: "i", report: "r",
};
export const LABELS = {
  next: "next answer (also ↓)", previous: "answer before (also ↑)", tie: "same place as the card before",
  full: "whole text, or folded", diff: "show differences", flag: "flag a problem", critique: "write a critique",
  correct: "write a better version", none: "none of them is acceptable", skip: "skip this task", undo: "undo",
  help: "this list", guideline: "show or hide the guideline", reveal: "reveal blurred answers",
  pairs: "compare two at a time", report: "report the prompt",
};

export class Keys {
  constructor(own) {
    this.bound = { ...DEFAULTS, ...own };
  }

  // The action of a key press, or null. Digits, arrows and Enter have fixed meanings and are named as they are.
  action(event) {
    if (event.isComposing || event.altKey) return null;
    const field = event.target.closest?.("textarea, input, select, [contenteditable]");
    const sends = event.key === "Enter" && (event.ctrlKey || event.metaKey);
    if (sends) return "submit";
    if (field || event.ctrlKey || event.metaKey) return null;
    if (/^[0-9]$/.test(event.key)) return `digit-${event.key}`;
    if (event.key.startsWith("Arrow")) return (event.shiftKey ? "shift-" : "") + event.key.slice(5).toLowerCase();
    if (event.key === "Enter") return event.target.closest?.("button, a, summary") ? null : "submit";
    if (event.key === " " && event.target.closest?.("button, a, summary")) return null;
    for (const [action, key] of Object.entries(this.bound)) if (key === event.key) return action;
    return null;
  }

  // A sheet with every key of the task at hand; each single key can be bound anew there.
  sheet(extra, save) {
    const rows = extra.map(([key, label]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, label)));
    const own = Object.entries(LABELS).map(([action, label]) => {
      const name = `key-${action}`;
      const input = el("input", {
        id: name, maxlength: "1", size: "2", value: this.bound[action] === " " ? "␣" : this.bound[action],
        "aria-label": `Key for: ${label}`,
      });
      input.addEventListener("keydown", (event) => {
        if (event.key.length !== 1 || /^[0-9]$/.test(event.key)) return;
        event.preventDefault();
        if (Object.entries(this.bound).some(([other, key]) => other !== action && key === event.key)) {
          input.setCustomValidity("This key is taken.");
          input.reportValidity();
          return;
        }
        input.setCustomValidity("");
        this.bound[action] = event.key;
        input.value = event.key === " " ? "␣" : event.key;
        save(this.bound);
      });
      return el("tr", {}, el("td", {}, input), el("td", {}, el("label", { for: name }, label)));
    });
    return el("table", { class: "keys" }, el("tbody", {}, ...rows, ...own));
  }
}
