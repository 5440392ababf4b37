// Builds a ranking out of questions with two answers: which of these is better? Each new card finds its place by
// halving (5 questions at most for 4 cards, 21 for 9). Made for phones, long texts and screen readers.

import { el } from "./dom.js";
import { LETTERS } from "./cards.js";

export class Insertion {
  constructor(cards, desk, finished) {
    this.cards = cards;
    this.desk = desk;
    this.finished = finished;
    this.groups = [[0]]; // best first; a group is tied
    this.card = 1;
    this.asked = 0;
    this.root = el("div", { class: "insertion" });
    this.bounds();
  }

  bounds() {
    this.low = 0;
    this.high = this.groups.length;
  }

  get middle() {
    return (this.low + this.high) >> 1;
  }

  start() {
    const other = this.groups[this.middle][0];
    const button = (label, answer, key) => {
      const b = el("button", { type: "button" }, label, " ", el("kbd", {}, key));
      b.addEventListener("click", () => this.answer(answer));
      return b;
    };
    this.root.replaceChildren(
      el("p", {}, `Question ${this.asked + 1}: which is better?`),
      el("p", { class: "choices" }, button(`${LETTERS[this.card]} is better`, "new", "←"), button("As good", "tie", "↓"), button(`${LETTERS[other]} is better`, "old", "→")),
    );
    this.cards.elements.forEach((e, i) => e.classList.toggle("apart", i !== this.card && i !== other));
    this.cards.focus(this.card);
    this.desk.say(`Which is better, ${LETTERS[this.card]} or ${LETTERS[other]}? Left: ${LETTERS[this.card]}. Right: ${LETTERS[other]}. Down: as good.`);
  }

  answer(which) {
    this.asked++;
    if (which === "tie") this.settle(() => this.groups[this.middle].push(this.card));
    else {
      if (which === "new") this.high = this.middle;
      else this.low = this.middle + 1;
      if (this.low >= this.high) this.settle(() => this.groups.splice(this.low, 0, [this.card]));
      else this.start();
    }
  }

  settle(put) {
    put();
    this.card++;
    if (this.card < this.cards.n) {
      this.bounds();
      this.start();
      return;
    }
    this.cards.elements.forEach((e) => e.classList.remove("apart"));
    const places = Array(this.cards.n).fill(null);
    this.groups.forEach((group, tier) => group.forEach((i) => { places[i] = tier + 1; }));
    this.finished(places);
  }

  act(action) {
    const answer = { left: "new", right: "old", down: "tie" }[action];
    if (answer) this.answer(answer);
    else if (action === "pairs") {
      this.cards.elements.forEach((e) => e.classList.remove("apart"));
      return false;
    }
    return Boolean(answer) || action.startsWith("digit-");
  }
}
