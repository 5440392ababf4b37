// Two answers side by side: which is better, by how much, or neither. Sides are random, and the server knows them.

import { el } from "./dom.js";
import { Cards } from "./cards.js";

const OUTCOMES = [["left", "← A is better"], ["tie", "↓ As good"], ["both_bad", "↑ Both bad"], ["right", "B is better →"]];
const STRENGTH = ["hardly", "slightly", "clearly", "far"];

export class Compare {
  constructor(task, settings, desk) {
    this.desk = desk;
    this.cards = new Cards(task, settings, desk);
    this.outcome = null;
    this.strength = null;
    this.before = [];
    this.buttons = OUTCOMES.map(([value, label]) => {
      const b = el("button", { type: "button" }, label);
      b.addEventListener("click", () => this.choose(value));
      return b;
    });
    this.strengths = STRENGTH.map((label, k) => {
      const b = el("button", { type: "button", class: "quiet" }, `${k} ${label}`);
      b.addEventListener("click", () => this.weigh(k));
      return b;
    });
    this.how = el("p", { class: "choices", role: "group", "aria-label": "How much better" }, "How much? ", ...this.strengths);
    this.root = el(
      "div", { class: "comparing" }, el("h2", { class: "step" }, "Which answer is better?"), this.cards.root,
      el("p", { class: "choices", role: "group", "aria-label": "Which is better" }, ...this.buttons), this.how,
    );
    this.cards.elements.forEach((card, i) => {
      for (const [action, label] of [["flag", "Flag"], ["critique", "Critique"], ["correct", "Improve"]]) {
        const b = el("button", { type: "button", class: "quiet", "aria-label": `${label} ${"AB"[i]}` }, label);
        b.addEventListener("click", () => { this.cards.see(i); this.cards.act(action); });
        card.querySelector(".tools").append(b);
      }
    });
    this.cards.draw();
    this.draw();
  }

  get keys() {
    return [["← →", "the left or the right one is better"], ["↓", "as good"], ["↑", "both bad"], ["0–3", "how much better"], ["Enter", "submit"]];
  }

  start() {
    this.cards.focus(0);
  }

  draw() {
    this.buttons.forEach((b, k) => b.setAttribute("aria-pressed", String(OUTCOMES[k][0] === this.outcome)));
    this.strengths.forEach((b, k) => b.setAttribute("aria-pressed", String(k === this.strength)));
    this.how.hidden = !["left", "right"].includes(this.outcome);
  }

  change(values) {
    this.before.push({ outcome: this.outcome, strength: this.strength });
    Object.assign(this, values);
    this.draw();
    this.desk.changed();
  }

  choose(outcome) {
    this.change({ outcome, strength: ["left", "right"].includes(outcome) ? this.strength : null });
    this.desk.say(`${OUTCOMES.find(([value]) => value === outcome)[1].replace(/[←→↑↓]/g, "").trim()}. Enter submits.`);
  }

  weigh(strength) {
    this.change({ strength });
    this.desk.say(STRENGTH[strength]);
  }

  act(action) {
    const outcome = { left: "left", right: "right", down: "tie", up: "both_bad", none: "both_bad", tie: "tie" }[action];
    if (outcome) return this.choose(outcome), true;
    if (/^digit-[0-3]$/.test(action)) return this.weigh(Number(action.slice(6))), true;
    if (action === "undo" && this.before.length) {
      Object.assign(this, this.before.pop());
      this.draw();
      return true;
    }
    return action === "undo" ? false : this.cards.act(action);
  }

  problem() {
    return this.outcome ? null : "Choose first: left, right, as good, or both bad.";
  }

  notice() {
    return null;
  }

  value() {
    return { outcome: this.outcome, strength: this.strength, ...this.cards.value() };
  }

  draft() {
    return this.value();
  }

  load(body) {
    this.outcome = body.outcome ?? ({ "1,2": "left", "2,1": "right", "1,1": body.none_acceptable ? "both_bad" : "tie" }[String(body.tiers)] ?? null);
    this.strength = body.strength ?? null;
    this.cards.load(body);
    this.cards.draw();
    this.draw();
  }
}
