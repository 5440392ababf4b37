// Ranking 2 to 9 answers with ties. A digit puts the card in that place and goes to the next one without a place;
// nothing has a place until somebody gives it one.

import { el } from "./dom.js";
import { Cards, LETTERS } from "./cards.js";
import { Rating } from "./rating.js";
import { Insertion } from "./insertion.js";

export class Rank {
  constructor(task, settings, desk) {
    this.desk = desk;
    this.settings = settings;
    this.cards = new Cards(task, settings, desk);
    this.n = this.cards.n;
    this.places = Array(this.n).fill(null);
    this.none = false;
    this.steps = { rank: ["rank"], rate_then_rank: ["rate", "rank"], rank_then_rate: ["rank", "rate"] }[settings.steps];
    this.step = 0;
    this.rating = new Rating(this.cards, settings, desk);
    this.insertion = null; // the questions with two answers, also while they rest
    this.pairing = false; // they are being asked
    this.before = [];
    this.title = el("h2", { class: "step" });
    this.two = this.pairsButton("on-phones");
    this.aside = el("section", { class: "side card", "aria-label": "Your order" });
    this.root = el("div", { class: "ranking" }, el("div", { class: "step-line" }, this.title, this.two), this.cards.root);
    this.cards.elements.forEach((card, i) => card.querySelector(".tools").append(...this.buttons(i)));
    this.cards.draw();
    this.draw();
  }

  buttons(i) {
    const places = Array.from({ length: this.n }, (_, k) => {
      const button = el("button", { type: "button", class: "digit", "aria-label": `Place ${LETTERS[i]} ${k + 1}` }, String(k + 1));
      button.addEventListener("click", () => this.place(i, k + 1));
      return button;
    });
    const more = [["flag", "Flag"], ["critique", "Critique"], ["correct", "Improve"]].map(([action, label]) => {
      const button = el("button", { type: "button", class: "quiet", "aria-label": `${label} ${LETTERS[i]}` }, label);
      button.addEventListener("click", () => { this.cards.see(i); this.cards.act(action); });
      return button;
    });
    return [el("span", { class: "digits", role: "group", "aria-label": `Place of ${LETTERS[i]}` }, ...places), el("span", { class: "more" }, ...more)];
  }

  get keys() {
    const digits = this.steps[this.step] === "rate" ? "grade of the card" : "place of the card; the same place is a tie";
    return [[`1–${this.steps[this.step] === "rate" ? 7 : this.n}`, digits], ["Shift ↑ ↓", "one place up or down"], ["Enter", "submit, or next step"]];
  }

  start() {
    if (this.pairing) this.insertion.ask();
    else this.cards.focus(0);
  }

  remember() {
    this.before.push(JSON.stringify({ places: this.places, none: this.none, ratings: this.cards.ratings, at: this.cards.focused, step: this.step, pairs: this.pairsState() }));
    if (this.before.length > 200) this.before.shift();
  }

  undo() {
    const last = this.before.pop();
    if (!last) return false;
    const { places, none, ratings, at, step, pairs } = JSON.parse(last);
    Object.assign(this, { places, none, step });
    this.cards.ratings = ratings;
    this.loadPairs(pairs);
    this.draw();
    this.cards.draw();
    this.cards.focus(at);
    this.desk.say("Undone");
    if (this.pairing) this.insertion.ask();
    this.desk.changed();
    return true;
  }

  place(i, where, { stay = false } = {}) {
    this.remember();
    this.places[i] = where;
    this.draw();
    const ties = this.places.flatMap((p, j) => (j !== i && p === where ? [LETTERS[j]] : []));
    const left = this.places.filter((p) => p === null).length;
    this.desk.say(`${LETTERS[i]}: place ${where}${ties.length ? `, tied with ${ties.join(" and ")}` : ""}. ${left ? `${left} left` : "All placed, Enter submits"}`);
    const next = [...Array(this.n).keys()].map((k) => (i + 1 + k) % this.n).find((j) => this.places[j] === null);
    if (next !== undefined && !stay) this.cards.focus(next);
    else this.cards.focus(i);
    this.desk.changed();
  }

  // The places without gaps: 1, 3, 3 is 1, 2, 2.
  tiers() {
    const used = [...new Set(this.places)].sort((a, b) => a - b);
    return this.places.map((p) => used.indexOf(p) + 1);
  }

  draw() {
    const rates = this.steps[this.step] === "rate";
    this.root.classList.toggle("rating-step", rates);
    this.root.classList.toggle("pairs-step", this.pairing);
    this.aside.classList.toggle("rate", rates);
    this.title.textContent = rates ? "Rate each answer" : this.pairing ? "Which of the two is better?" : "Rank the answers, best first";
    this.two.hidden = rates || this.pairing || this.n < 2;
    this.places.forEach((p, i) => {
      const card = this.cards.elements[i];
      card.classList.toggle("placed", p !== null);
      card.querySelector(".place").textContent = p === null ? "no place yet" : `place ${p}`;
      card.querySelectorAll(".digit").forEach((b, k) => b.setAttribute("aria-pressed", String(p === k + 1)));
    });
    this.aside.replaceChildren(...(rates ? this.rating.panel() : this.panel()));
  }

  panel() {
    if (this.pairing) return [el("h2", {}, "Two at a time"), this.insertion.root];
    const chip = (i) => {
      const c = el("button", { type: "button", class: "chip", draggable: "true", "aria-label": `Answer ${LETTERS[i]}, go to it` }, LETTERS[i]);
      c.addEventListener("click", () => this.cards.focus(i));
      c.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/plain", String(i)));
      return c;
    };
    const drop = (row, where) => {
      row.addEventListener("dragover", (event) => event.preventDefault());
      row.addEventListener("drop", (event) => {
        event.preventDefault();
        const i = Number(event.dataTransfer.getData("text/plain"));
        if (Number.isInteger(i) && i >= 0 && i < this.n) this.place(i, where, { stay: true });
      });
      return row;
    };
    const tray = this.places.flatMap((p, i) => (p === null ? [chip(i)] : []));
    const rows = Array.from({ length: this.n }, (_, k) =>
      drop(el("li", {}, el("span", { class: "rank" }, String(k + 1)), ...this.places.flatMap((p, i) => (p === k + 1 ? [chip(i)] : []))), k + 1));
    const none = el("input", { type: "checkbox", id: "none" });
    none.checked = this.none;
    none.addEventListener("change", () => this.setNone(none.checked));
    return [
      el("h2", {}, "Your order"),
      el("p", { class: "tray" }, tray.length ? "Without a place: " : "All have a place.", ...tray),
      el("ol", { class: "tiers", "aria-label": "Places, best first" }, ...rows),
      el("p", {}, el("label", { class: "inline" }, none, " None is acceptable")),
      ...(this.n > 1 ? [el("p", {}, this.pairsButton("quiet"))] : []),
    ];
  }

  setNone(value) {
    this.remember();
    this.none = value;
    this.draw();
    this.desk.say(value ? "None is acceptable" : "At least one is acceptable");
    this.desk.changed();
  }

  // Two at a time.

  pairsButton(name) {
    const button = el("button", { type: "button", class: name }, "Compare two at a time");
    button.addEventListener("click", () => this.pairs());
    return button;
  }

  // Begins the questions, lets them rest, or goes on with them: what was answered stays.
  pairs() {
    if (this.steps[this.step] === "rate" || this.n < 2) return;
    this.insertion ??= this.questions();
    this.pairing = !this.pairing;
    this.insertion.show();
    this.draw();
    if (this.pairing) this.insertion.ask();
    else {
      this.cards.focus(0);
      this.desk.say(this.insertion.before.length ? "Your answers are kept. Press i to go on with the questions." : "Give each answer its place.");
    }
    this.desk.changed();
  }

  questions(kept = null) {
    return new Insertion(this.cards, this.desk, { kept, leave: () => this.pairs(), finished: (places) => this.order(places) });
  }

  // The order that the questions gave.
  order(places) {
    this.remember();
    this.places = places;
    this.insertion = null;
    this.pairing = false;
    this.draw();
    this.cards.focus(places.indexOf(1));
    this.desk.say("The order is complete. Look at it, then submit.");
    this.desk.changed();
  }

  pairsState() {
    return this.insertion && { ...this.insertion.state(), asks: this.pairing };
  }

  loadPairs(kept) {
    this.insertion?.show();
    this.insertion = kept ? this.questions(kept) : null;
    this.pairing = kept?.asks ?? false;
    if (this.pairing) this.insertion.draw();
  }

  act(action) {
    if (this.pairing && this.insertion.act(action)) return true;
    if (this.steps[this.step] === "rate" && this.rating.act(action)) return true;
    const i = this.cards.focused;
    const digit = action.startsWith("digit-") ? Number(action.slice(6)) : null;
    if (digit !== null) {
      if (digit >= 1 && digit <= this.n) this.place(i, digit);
      else this.desk.say(`Places go from 1 to ${this.n}`);
      return true;
    }
    if (action === "tie") {
      const above = [...Array(i).keys()].reverse().find((j) => this.places[j] !== null) ?? this.places.findIndex((p, j) => p !== null && j !== i);
      if (above >= 0) this.place(i, this.places[above]);
      return true;
    }
    if (action === "shift-up" || action === "shift-down") {
      const step = action === "shift-up" ? -1 : 1;
      this.place(i, Math.max(1, Math.min(this.n, (this.places[i] ?? (step < 0 ? this.n + 1 : 0)) + step)), { stay: true });
      return true;
    }
    if (action === "none") return this.setNone(!this.none), true;
    if (action === "pairs") return this.pairs(), true;
    if (action === "undo") return this.undo();
    return this.cards.act(action);
  }

  // Where the answer falls short, or null. A step before the last one leads to the next instead of a submission.
  problem() {
    if (this.pairing) return "Answer the question first, or place them yourself.";
    if (this.steps[this.step] === "rate") {
      const missing = this.rating.missing();
      if (missing !== null) return this.cards.focus(missing), `${LETTERS[missing]} has no grade yet.`;
    } else {
      const open = this.places.indexOf(null);
      if (open >= 0) return this.cards.focus(open), `${LETTERS[open]} has no place yet.`;
    }
    if (this.step < this.steps.length - 1) {
      this.step++;
      this.draw();
      this.cards.focus(0);
      return this.title.textContent;
    }
    return null;
  }

  notice() {
    return this.rating.contradiction(this.tiers());
  }

  value() {
    return { tiers: this.places.includes(null) ? null : this.tiers(), none_acceptable: this.none, ...this.cards.value() };
  }

  draft() {
    return { ...this.value(), places: this.places, step: this.step, pairs: this.pairsState() };
  }

  load(body) {
    this.places = body.places ?? body.tiers ?? this.places;
    this.none = body.none_acceptable ?? false;
    this.step = Math.min(body.step ?? 0, this.steps.length - 1);
    this.cards.load(body);
    this.loadPairs(body.pairs);
    this.cards.draw();
    this.draw();
  }
}
