// The answers of a task as cards, and what can be said of each besides its place: grades, flags, critiques, a better
// version. Cards never move while they are read; focus stays where it is.

import { el, fromNodes } from "./dom.js";
import * as diff from "./diff.js";

export const LETTERS = "ABCDEFGHI";

// A dialog that resolves to what its form gave, or null. One that only tells (`tells`) has nothing to cancel.
export function ask(title, content, { button = "Save", tells = false, value }) {
  const opener = document.activeElement;
  const cancel = el("button", { type: "button" }, "Cancel");
  const form = el(
    "form", {}, el("h2", { id: "ask-title" }, title), content,
    el("p", { class: "buttons" }, el("button", { class: "primary" }, button), ...(tells ? [] : [cancel])),
  );
  const dialog = el("dialog", { "aria-labelledby": "ask-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    // At once, not at the dialog's own close event, which comes later: a key that is pressed in between, Enter say,
    // must find what was said here.
    const end = (says) => {
      if (!dialog.isConnected) return;
      const found = says ? value() : null;
      dialog.close();
      dialog.remove();
      opener?.focus?.();
      resolve(found);
    };
    cancel.addEventListener("click", () => end(false));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      end(true);
    });
    form.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      end(true);
    });
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      end(false);
    });
    dialog.showModal();
    content.querySelector("textarea, input, button")?.focus();
  });
}

export class Cards {
  constructor(task, settings, desk) {
    this.task = task;
    this.settings = settings;
    this.desk = desk;
    this.n = task.cards.length;
    this.focused = 0;
    this.ratings = Object.fromEntries(settings.aspects.map((a) => [a.key, Array(this.n).fill(null)]));
    this.flags = [];
    this.critiques = [];
    this.corrections = {};
    this.marked = task.near.map((near) => near !== null);
    this.elements = task.cards.map((_, i) => this.card(i));
    this.root = el("div", { class: `cards n${this.n}` }, ...this.elements);
    if (settings.blur_sensitive) this.root.classList.add("blurred");
    this.about = this.reports();
  }

  // What is said of the prompt; the desk shows it below the prompt.
  reports() {
    const report = el("button", { type: "button", class: "quiet" }, "Report the prompt ", el("kbd", {}, "r"));
    report.addEventListener("click", () => this.flag(null));
    return el("div", { class: "about" }, el("ul", { class: "notes" }), report);
  }

  card(i) {
    const text = el("div", { class: "text prose" });
    const notes = el("ul", { class: "notes" });
    const tools = el("div", { class: "tools" });
    const head = el(
      "header", {}, el("h3", {}, el("span", { class: "letter" }, LETTERS[i]), el("span", { class: "hidden-text" }, " answer")),
      el("span", { class: "place" }), tools,
    );
    const card = el(
      "article", { class: "answer", tabindex: "0", "data-card": String(i), "aria-label": `Answer ${LETTERS[i]}` },
      head, text, notes,
    );
    card.addEventListener("focusin", () => this.see(i));
    card.addEventListener("pointerdown", () => this.see(i));
    return card;
  }

  // Fills in what the cards show; called once they are on the page, and again after a change.
  draw() {
    this.task.cards.forEach((_, i) => this.drawText(i));
    this.elements.forEach((_, i) => this.drawNotes(i));
    this.drawNotes(null);
  }

  drawText(i) {
    const { text, nodes } = this.task.cards[i];
    const box = this.elements[i].querySelector(".text");
    const before = this.elements.findLastIndex((e, j) => j < i && !e.hidden);
    const near = this.task.near[i] ?? before;
    if (this.marked[i] && near >= 0 && !this.elements[near].hidden) {
      const note = el("p", { class: "hint" }, `Marked: what differs from ${LETTERS[near]}.`);
      box.replaceChildren(note, diff.shown(this.task.cards[near].text, text));
    } else box.replaceChildren(...fromNodes(nodes));
  }

  // Of a card, or of the prompt (null).
  drawNotes(i) {
    const items = [];
    for (const [key, values] of Object.entries(this.ratings))
      if (i !== null && values[i] !== null) items.push(el("li", {}, `${this.label(key)}: ${values[i]} of 7`));
    for (const flag of this.flags.filter((f) => f.card === i))
      items.push(this.note(`Flag: ${this.settings.flags.find((f) => f.key === flag.category)?.label ?? flag.category}`, () => this.drop(this.flags, flag, i)));
    for (const one of this.critiques.filter((c) => c.card === i))
      items.push(this.note(`Critique: ${one.text}`, () => this.drop(this.critiques, one, i)));
    if (i in this.corrections) items.push(this.note("A better version was written.", () => { delete this.corrections[i]; this.changed(i); }));
    (i === null ? this.about : this.elements[i]).querySelector(".notes").replaceChildren(...items);
  }

  note(text, drop) {
    const button = el("button", { type: "button", class: "quiet", "aria-label": `Remove: ${text}` }, "Remove");
    button.addEventListener("click", drop);
    return el("li", {}, text, " ", button);
  }

  drop(list, item, i) {
    list.splice(list.indexOf(item), 1);
    this.changed(i);
  }

  changed(i) {
    this.drawNotes(i);
    this.desk.changed();
  }

  label(key) {
    return this.settings.aspects.find((a) => a.key === key)?.label ?? key;
  }

  see(i) {
    this.focused = i;
    this.elements.forEach((e, j) => e.classList.toggle("current", i === j));
  }

  focus(i) {
    this.see(Math.max(0, Math.min(this.n - 1, i)));
    this.elements[this.focused].focus({ preventScroll: true });
    this.elements[this.focused].scrollIntoView({ block: "nearest" });
  }

  // What any view with cards does for these actions. True when it was one of them.
  act(action) {
    const i = this.focused;
    const does = {
      next: () => this.focus(i + 1), down: () => this.focus(i + 1), right: () => this.focus(i + 1),
      previous: () => this.focus(i - 1), up: () => this.focus(i - 1), left: () => this.focus(i - 1),
      full: () => this.elements[i].classList.toggle("full"),
      diff: () => { this.marked[i] = !this.marked[i]; this.drawText(i); this.desk.say(this.marked[i] ? `Differences of ${LETTERS[i]} are marked` : `${LETTERS[i]} as written`); },
      flag: () => this.flag(i), critique: () => this.critique(i), correct: () => this.correct(i),
      reveal: () => this.root.classList.toggle("blurred"),
    }[action];
    does?.();
    return Boolean(does);
  }

  // A card, or the prompt (null).
  async flag(i) {
    const boxes = this.settings.flags.map((f, n) => {
      const input = el("input", { type: "checkbox", id: `flag-${n}`, value: f.key });
      input.checked = this.flags.some((have) => have.card === i && have.category === f.key);
      return [input, el("p", {}, el("label", { class: "inline" }, input, ` ${f.label}`))];
    });
    const note = el("textarea", { rows: "2", id: "flag-note" });
    note.value = this.flags.find((f) => f.card === i)?.note ?? "";
    const content = el("div", {}, ...boxes.map(([, row]) => row), el("label", { for: "flag-note" }, "Note (if you like)"), note);
    const found = await ask(`What is wrong with ${i === null ? "the prompt" : LETTERS[i]}?`, content, {
      value: () => boxes.filter(([input]) => input.checked).map(([input]) => ({ card: i, category: input.value, note: note.value.trim() })),
    });
    if (found === null) return;
    this.flags = [...this.flags.filter((f) => f.card !== i), ...found];
    this.changed(i);
  }

  // About the words that are selected in the card, or about all of it.
  async critique(i) {
    const span = this.selection(i);
    const area = el("textarea", { rows: "5", id: "critique-text" });
    const about = span ? `About: “${this.task.cards[i].text.slice(...span)}”` : "About the whole answer. Select words first to speak of a part.";
    const content = el("div", {}, el("p", { class: "hint" }, about), el("label", { for: "critique-text" }, "What is right or wrong, and why"), area);
    const text = await ask(`Critique of ${LETTERS[i]}`, content, { value: () => area.value.trim() });
    if (!text) return;
    this.critiques.push({ card: i, text, span });
    this.changed(i);
  }

  selection(i) {
    const chosen = String(getSelection() ?? "").trim();
    const inside = getSelection()?.anchorNode && this.elements[i].querySelector(".text").contains(getSelection().anchorNode);
    const start = chosen && inside ? this.task.cards[i].text.indexOf(chosen) : -1;
    return start >= 0 ? [start, start + chosen.length] : null;
  }

  async correct(i) {
    const area = el("textarea", { rows: "10", id: "better-text" });
    area.value = this.corrections[i] ?? this.task.cards[i].text;
    const change = el("div", { class: "change", "aria-live": "off" });
    const draw = () => change.replaceChildren(diff.shown(this.task.cards[i].text, area.value, { both: true }));
    area.addEventListener("input", draw);
    draw();
    const content = el("div", {}, el("label", { for: "better-text" }, "Edit the answer until it is right"), area, el("h3", {}, "What changed"), change);
    const text = await ask(`A better version of ${LETTERS[i]}`, content, { value: () => area.value.trim() });
    if (!text || text === this.task.cards[i].text.trim()) return;
    this.corrections[i] = text;
    this.changed(i);
  }

  // What goes into an answer, and comes back from a draft.
  value() {
    const ratings = Object.fromEntries(Object.entries(this.ratings).filter(([, values]) => values.some((v) => v !== null)));
    const corrections = Object.entries(this.corrections).map(([card, text]) => ({ card: Number(card), text }));
    return { ratings, flags: this.flags, critiques: this.critiques, corrections };
  }

  load(body) {
    for (const [key, values] of Object.entries(body.ratings ?? {})) if (key in this.ratings) this.ratings[key] = values;
    this.flags = body.flags ?? [];
    this.critiques = body.critiques ?? [];
    this.corrections = Object.fromEntries((body.corrections ?? []).map((c) => [c.card, c.text]));
  }
}
