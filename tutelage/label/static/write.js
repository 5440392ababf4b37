// Writing: the ideal answer to a prompt, a better version of an answer, or a critique of it.

import { el } from "./dom.js";
import { Cards } from "./cards.js";
import * as diff from "./diff.js";

const count = (text) => (text.trim() ? text.trim().split(/\s+/).length : 0);

class Editor {
  constructor(label, desk, changed = () => {}) {
    this.area = el("textarea", { rows: "12", id: "writing", spellcheck: "true" });
    this.words = el("p", { class: "hint", "aria-live": "off" });
    this.root = el("div", { class: "editor" }, el("label", { for: "writing" }, label), this.area, this.words);
    this.area.addEventListener("input", () => {
      this.draw();
      changed();
      desk.changed();
    });
    this.draw();
  }

  draw() {
    this.words.textContent = `${count(this.area.value)} words`;
  }

  get text() {
    return this.area.value;
  }

  set text(value) {
    this.area.value = value;
    this.draw();
  }
}

export class Demonstrate {
  constructor(task, settings, desk) {
    this.cards = new Cards(task, settings, desk); // none; the prompt alone can be flagged
    this.editor = new Editor("Your answer, as it should be", desk);
    const waits = settings.review_demonstrations ? [el("p", { class: "hint" }, "A reviewer reads it before a model learns from it. My page tells what became of it.")] : [];
    this.root = el("div", {}, el("h2", { class: "step" }, "Write the ideal answer"), this.editor.root, ...waits);
  }

  get keys() {
    return [["Ctrl Enter", "submit"]];
  }

  start() {
    this.editor.area.focus();
  }

  act() {
    return false;
  }

  problem() {
    return this.editor.text.trim() ? null : "There is no text yet.";
  }

  notice() {
    return null;
  }

  value() {
    return { text: this.editor.text.trim(), flags: this.cards.flags };
  }

  draft() {
    return { text: this.editor.text, flags: this.cards.flags };
  }

  load(body) {
    this.editor.text = body.text ?? "";
    this.cards.load(body);
    this.cards.draw();
  }
}

export class Correct {
  constructor(task, settings, desk) {
    this.task = task;
    this.cards = new Cards(task, settings, desk);
    this.card = 0;
    this.change = el("div", { class: "change card" });
    this.editor = new Editor("Edit it until it is right", desk, () => this.draw());
    const choose = task.cards.length > 1 ? [el("p", { class: "choices" }, "Edit ", ...task.cards.map((_, i) => {
      const b = el("button", { type: "button" }, "ABCDEFGHI"[i]);
      b.addEventListener("click", () => { this.card = i; this.editor.text = task.cards[i].text; this.draw(); });
      return b;
    }))] : [];
    this.root = el("div", {}, el("h2", { class: "step" }, "Make this answer right"), ...choose, this.editor.root, el("h3", {}, "What changed"), this.change);
    this.editor.text = task.cards[0].text;
    this.draw();
  }

  get keys() {
    return [["Ctrl Enter", "submit"]];
  }

  start() {
    this.editor.area.focus();
    this.editor.area.setSelectionRange(0, 0);
  }

  draw() {
    this.change.replaceChildren(diff.shown(this.task.cards[this.card].text, this.editor.text, { both: true }));
  }

  act() {
    return false;
  }

  problem() {
    if (!this.editor.text.trim()) return "There is no text.";
    return this.editor.text.trim() === this.task.cards[this.card].text.trim() ? "Nothing was changed yet. Edit the text, or skip the task." : null;
  }

  notice() {
    return null;
  }

  value() {
    return { text: this.editor.text.trim(), card: this.card, flags: this.cards.flags };
  }

  draft() {
    return { text: this.editor.text, card: this.card, flags: this.cards.flags };
  }

  load(body) {
    this.card = body.card ?? 0;
    this.editor.text = body.text ?? this.task.cards[this.card].text;
    this.cards.load(body);
    this.cards.draw();
    this.draw();
  }
}

export class CritiqueTask {
  constructor(task, settings, desk) {
    this.cards = new Cards(task, settings, desk);
    const add = el("button", { type: "button" }, "Write a critique ", el("kbd", {}, "c"));
    add.addEventListener("click", () => this.cards.act("critique"));
    this.root = el(
      "div", {}, el("h2", { class: "step" }, "What is right or wrong here?"),
      el("p", { class: "hint" }, "Select words in an answer to speak of a part of it."), this.cards.root, el("p", {}, add),
    );
    this.cards.draw();
  }

  get keys() {
    return [["c", "write a critique"], ["f", "flag"], ["Enter", "submit"]];
  }

  start() {
    this.cards.focus(0);
  }

  act(action) {
    return this.cards.act(action);
  }

  problem() {
    return this.cards.critiques.length ? null : "There is no critique yet.";
  }

  notice() {
    return null;
  }

  value() {
    return this.cards.value();
  }

  draft() {
    return this.value();
  }

  load(body) {
    this.cards.load(body);
    this.cards.draw();
  }
}
