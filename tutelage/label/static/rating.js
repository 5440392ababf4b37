// Grades from 1 to 7 by aspect, one card at a time.

import { el } from "./dom.js";
import { LETTERS } from "./cards.js";

export class Rating {
  constructor(cards, settings, desk) {
    this.cards = cards;
    this.aspects = settings.aspects;
    this.desk = desk;
    this.aspect = 0;
  }

  panel() {
    const i = this.cards.focused;
    const rows = this.aspects.map((aspect, a) => {
      const buttons = Array.from({ length: 7 }, (_, k) => {
        const button = el("button", { type: "button", class: "digit", "aria-pressed": String(this.cards.ratings[aspect.key][i] === k + 1) }, String(k + 1));
        button.setAttribute("aria-label", `${aspect.label} of ${LETTERS[i]}: ${k + 1} of 7`);
        button.addEventListener("click", () => this.grade(a, k + 1));
        return button;
      });
      return el("fieldset", {}, el("legend", {}, aspect.label), el("span", { class: "digits" }, ...buttons));
    });
    const dots = this.cards.elements.map((_, j) => {
      const done = this.aspects.every((a) => this.cards.ratings[a.key][j] !== null);
      const chip = el("button", { type: "button", class: `chip${done ? " done" : ""}`, "aria-label": `Answer ${LETTERS[j]}${done ? ", rated" : ""}` }, LETTERS[j]);
      chip.addEventListener("click", () => this.show(j));
      return chip;
    });
    return [el("h2", {}, `Answer ${LETTERS[i]}`), el("p", { class: "tray" }, ...dots), ...rows, el("p", { class: "hint" }, "1 is worst, 7 is best.")];
  }

  show(i) {
    this.aspect = 0;
    this.cards.focus(i);
    this.desk.redraw();
  }

  grade(aspect, value) {
    const i = this.cards.focused;
    this.desk.view.remember();
    this.cards.ratings[this.aspects[aspect].key][i] = value;
    this.cards.drawNotes(i);
    this.desk.changed();
    this.desk.say(`${LETTERS[i]}, ${this.aspects[aspect].label}: ${value} of 7`);
    if (aspect + 1 < this.aspects.length) this.aspect = aspect + 1;
    else {
      this.aspect = 0;
      const next = this.missing();
      if (next !== null) this.cards.focus(next);
    }
    this.desk.redraw();
  }

  act(action) {
    if (action.startsWith("digit-")) {
      const value = Number(action.slice(6));
      if (value >= 1 && value <= 7) this.grade(this.aspect, value);
      else this.desk.say("Grades go from 1 to 7");
      return true;
    }
    if (["next", "down", "right", "previous", "up", "left"].includes(action)) {
      this.cards.act(action);
      this.show(this.cards.focused);
      return true;
    }
    return false;
  }

  // The first card that lacks a grade, or null.
  missing() {
    const found = this.cards.elements.findIndex((_, i) => this.aspects.some((a) => this.cards.ratings[a.key][i] === null));
    return found < 0 ? null : found;
  }

  // Words for a person whose first grade and places disagree; never a refusal.
  contradiction(tiers) {
    const grades = this.cards.ratings[this.aspects[0].key];
    for (let i = 0; i < tiers.length; i++)
      for (let j = 0; j < tiers.length; j++)
        if (grades[i] !== null && grades[j] !== null && grades[i] > grades[j] + 1 && tiers[i] > tiers[j])
          return `${LETTERS[i]} was rated ${grades[i]} and ${LETTERS[j]} ${grades[j]}, but ${LETTERS[j]} is ranked higher.`;
    return null;
  }
}
