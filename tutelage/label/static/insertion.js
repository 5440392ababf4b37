// Builds a ranking out of questions with two answers: which of these is better? Each new card finds its place by
// halving (5 questions at most for 4 cards, 21 for 9). Made for phones, long texts and screen readers.

import { el } from "./dom.js";
import { LETTERS } from "./cards.js";

export class Insertion {
  // `finished` gets the place of each card; `leave` is called by who would rather give the places herself.
  constructor(cards, desk, { finished, leave, kept = null }) {
    Object.assign(this, { cards, desk, finished, leave });
    // groups: best first, a group is tied; card: the one that looks for its place, which lies in low..high of groups.
    Object.assign(this, kept?.at ?? { groups: [[0]], card: 1, low: 0, high: 1, asked: 0 });
    this.before = kept?.before ?? []; // where it stood before each answer
    this.root = el("div", { class: "insertion" });
  }

  get at() {
    const { groups, card, low, high, asked } = this;
    return structuredClone({ groups, card, low, high, asked });
  }

  // What a draft keeps, and a new Insertion takes.
  state() {
    return { at: this.at, before: this.before };
  }

  get middle() {
    return (this.low + this.high) >> 1;
  }

  // The two cards of the question, as they stand on the page: the new one has the later letter.
  get pair() {
    return [this.groups[this.middle][0], this.card];
  }

  draw() {
    const [old, fresh] = this.pair.map((i) => LETTERS[i]);
    const button = (label, act, key) => {
      const b = el("button", { type: "button" }, label, " ", el("kbd", {}, key));
      b.addEventListener("click", act);
      return b;
    };
    const leave = el("button", { type: "button", class: "quiet" }, "Place them myself ", el("kbd", {}, "i"));
    leave.addEventListener("click", () => this.leave());
    this.root.replaceChildren(
      el("p", {}, `Question ${this.asked + 1}: which is better?`),
      el("p", { class: "choices" }, button(`${old} is better`, () => this.answer("old"), "←"), button("As good", () => this.answer("tie"), "↓"), button(`${fresh} is better`, () => this.answer("new"), "→")),
      el("p", { class: "leave" }, leave),
    );
    this.cards.elements.forEach((e, i) => { e.hidden = !this.pair.includes(i); });
    this.pair.forEach((i) => this.cards.drawText(i)); // a difference is marked only from a card that is seen
  }

  ask() {
    this.draw();
    const [old, fresh] = this.pair;
    this.cards.focus(old);
    // Where the question stays above the cards, the first card begins below it, not behind it.
    if (matchMedia("(max-width: 60rem)").matches) this.cards.elements[old].scrollIntoView({ block: "start" });
    this.desk.say(`Which is better, ${LETTERS[old]} or ${LETTERS[fresh]}? Left: ${LETTERS[old]}. Right: ${LETTERS[fresh]}. Down: as good.`);
  }

  show() {
    this.cards.elements.forEach((e) => { e.hidden = false; });
    this.cards.draw();
  }

  answer(which) {
    this.before.push(this.at);
    this.asked++;
    if (which === "new") this.high = this.middle;
    else if (which === "old") this.low = this.middle + 1;
    if (which === "tie") this.groups[this.middle].push(this.card);
    else if (this.low >= this.high) this.groups.splice(this.low, 0, [this.card]);
    else return this.next();
    this.card++;
    this.low = 0;
    this.high = this.groups.length;
    return this.next();
  }

  next() {
    if (this.card < this.cards.n) {
      this.ask();
      this.desk.changed();
      return;
    }
    const places = Array(this.cards.n).fill(null);
    this.groups.forEach((group, tier) => group.forEach((i) => { places[i] = tier + 1; }));
    this.back(); // kept as it was at the last question, so that an undo asks it again
    this.show();
    this.finished(places);
  }

  // One answer back; false where there is none.
  back() {
    const last = this.before.pop();
    Object.assign(this, last);
    return Boolean(last);
  }

  act(action) {
    const answer = { left: "old", right: "new", down: "tie", tie: "tie" }[action];
    if (answer) this.answer(answer);
    else if (["up", "next", "previous"].includes(action)) this.cards.focus(this.pair.find((i) => i !== this.cards.focused));
    else if (action === "undo" && this.back()) {
      this.ask();
      this.desk.changed();
    } else if (action === "undo" || action === "pairs") this.leave();
    else return action.startsWith("digit-") || action.startsWith("shift-");
    return true;
  }
}
