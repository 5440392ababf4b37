// A chat with a live model. The server keeps the conversation; this page shows it and sends what its reader says and
// judges. Each act has a key of its own, so that an act that is sent again changes nothing.

import { el, fromNodes } from "./dom.js";
import { askReason } from "./skip.js";
import { WorkClock } from "./work_clock.js";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);
const OUTCOMES = { left: "A is better", right: "B is better", tie: "As good as each other", both_bad: "Both bad" };
const KEYS = [
  ["Ctrl Enter", "send the message"], ["j / k", "answer after, answer before"], ["+ / -", "thumb up, thumb down"],
  ["← / →", "answer A, answer B is better"], ["↓", "as good as each other"], ["↑", "both bad"],
  ["b", "mark where it broke"], ["m", "make that a regression test"], ["i", "write a message"], ["1 – 5", "how far the goal was reached, once you chose to finish"],
  ["f", "finish"], ["?", "this list"],
];
const SCALE = ["not at all", "hardly", "half", "nearly", "fully"];

class Talk {
  constructor() {
    this.chat = facts.chat;
    this.at = null; // [turn, answer] in focus
    this.busy = false;
    this.ending = false;
    this.clock = new WorkClock();
    this.waiting = null; // {key, text} of a message that has no answer yet
  }

  start() {
    document.addEventListener("keydown", (event) => this.key(event));
    $("write").addEventListener("submit", (event) => { event.preventDefault(); this.say(); });
    $("help").addEventListener("click", () => this.sheet());
    const last = this.chat.turns.at(-1);
    if (last?.role === "user" && this.chat.state === "open") this.waiting = { key: last.key, text: last.text };
    this.toLast();
    this.draw();
    if (this.waiting) this.notice("Your last message has no answer yet.", true);
    else if (this.chat.state === "open") $("text").focus();
  }

  // The server.

  async send(verb, body) {
    const answer = await fetch(`${facts.base}/${verb}`, {
      method: "POST", credentials: "same-origin", redirect: "error", body: JSON.stringify(body),
      headers: { accept: "application/json", "content-type": "application/json", "x-form-mark": facts.mark },
    });
    const read = await answer.json();
    if (answer.status === 401) throw new Error("You were signed out. Sign in in another tab and try again.");
    if (answer.status !== 200) throw new Error(read.error);
    return read;
  }

  // One act at a time. The key is made once, and stays the same when the act is tried again.
  async act(verb, body, done) {
    if (this.busy) return;
    this.busy = true;
    this.notice("");
    this.status(verb === "say" ? "" : "Saving…", "");
    try {
      this.chat = await this.send(verb, { key: crypto.randomUUID(), ...body });
      this.status(verb === "say" ? "" : "Saved", "good");
      done?.();
    } catch (error) {
      this.status("", "");
      const text = error instanceof TypeError ? "The server cannot be reached. Try again." : error.message;
      this.notice(text, Boolean(this.waiting));
      this.tell(text);
      await this.reload();
    } finally {
      this.busy = false;
      this.draw();
    }
  }

  // What the server holds, after an act whose answer was lost or that came too late.
  async reload() {
    try {
      const answer = await fetch(`${facts.base}/state`, { headers: { accept: "application/json" }, credentials: "same-origin", redirect: "error" });
      if (answer.status === 200) this.chat = await answer.json();
    } catch {
      // it is away; what is on screen stays
    }
    const last = this.chat.turns.at(-1);
    if (this.waiting && last?.role === "assistant") this.waiting = this.chat.turns.some((t) => t.key === this.waiting.key) ? null : this.waiting;
  }

  async say() {
    const text = $("text").value.trim();
    if (this.busy || this.chat.state !== "open") return;
    if (this.undecided) return this.notice("Choose one of the two answers first.");
    if (!text) return this.notice("There is no message yet.");
    this.waiting = { key: crypto.randomUUID(), text };
    $("text").value = "";
    await this.ask();
  }

  async ask() {
    const { key, text } = this.waiting;
    const sent = this.act("say", { key, text }, () => {
      this.waiting = null;
      this.toLast();
      this.clock.restart();
      this.tell(this.undecided ? "Two answers. Choose one." : "The model answered.");
    });
    this.draw();
    await sent;
    if (this.waiting) return;
    if (this.undecided) $("talk").querySelector(".current")?.focus();
    else $("text").focus();
  }

  // Judging.

  get turns() {
    return this.chat.turns;
  }

  get undecided() {
    const last = this.turns.at(-1);
    return last?.role === "assistant" && last.chosen === null;
  }

  toLast() {
    const last = this.turns.findLast((t) => t.role === "assistant");
    this.at = last ? [last.n, last.chosen ?? 0] : null;
  }

  turn(n) {
    return this.turns.find((t) => t.n === n);
  }

  async choose(n, outcome) {
    await this.act("choose", { turn: n, outcome, active_ms: Math.round(this.clock.ms ?? 0) }, () => {
      this.toLast();
      this.tell(OUTCOMES[outcome]);
    });
    if (!this.undecided) $("text").focus();
  }

  thumb(n, i, value) {
    const known = value === 1 ? facts.reasons.up : facts.reasons.down;
    const before = this.turn(n).answers[i].thumb;
    const boxes = Object.entries(known).map(([key, label]) => {
      const box = el("input", { type: "checkbox", value: key });
      box.checked = before?.value === value && before.reasons.includes(key);
      return [box, el("label", { class: "inline" }, box, ` ${label}`)];
    });
    this.dialog(value === 1 ? "What is good about it?" : "What is wrong with it?", [el("fieldset", { class: "first" }, el("legend", { class: "hidden-text" }, "Reasons"), ...boxes.map(([, label]) => label))], value === 1 ? "Thumb up" : "Thumb down",
      () => this.act("thumb", { turn: n, answer: i, value, reasons: boxes.filter(([box]) => box.checked).map(([box]) => box.value) }, () => this.tell("Thumb kept")));
  }

  broke(n, i) {
    if (this.turn(n).answers[i].broke) return this.notice("This answer is marked already.");
    const kind = el("select", { id: "b-kind" }, ...facts.flags.map((f) => el("option", { value: f.key }, f.label)));
    const words = el("textarea", { id: "b-text", rows: "4", maxlength: "8000", required: "" });
    this.dialog("Where it broke", [
      el("p", { class: "field" }, el("label", { for: "b-kind" }, "What is wrong"), kind),
      el("p", { class: "field" }, el("label", { for: "b-text" }, "In your words"), words),
    ], "Mark it", () => {
      if (!words.value.trim()) { words.setCustomValidity("Say what is wrong."); words.reportValidity(); words.setCustomValidity(""); return false; }
      this.act("broke", { turn: n, answer: i, category: kind.value, text: words.value }, () => this.tell("Marked. Press m to make it a regression test."));
    });
  }

  keep(n, i) {
    const { broke } = this.turn(n).answers[i];
    if (!broke) return this.notice("Mark where it broke first (b).");
    if (!broke.test) this.act("keep", { turn: n, answer: i }, () => this.tell("Kept as a regression test"));
  }

  finish(success) {
    this.act("finish", { success }, () => { this.ending = false; this.tell("Finished"); });
  }

  async giveBack() {
    const why = await askReason("Leave this goal", "Leave it");
    if (why) await this.act("give-back", { ...why, active_ms: this.clock.ms });
  }

  // Keys.

  key(event) {
    if (event.isComposing || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      return this.say();
    }
    if (event.ctrlKey || event.metaKey) return;
    if (event.target.closest?.("textarea, input, select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const act = this.action(event.key);
    if (!act) return;
    event.preventDefault();
    act();
  }

  action(key) {
    const open = this.chat.state === "open";
    const sides = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "both_bad" };
    if (key in sides) return open && this.undecided ? () => this.choose(this.turns.at(-1).n, sides[key]) : null;
    if (/^[1-5]$/.test(key)) return open && this.ending ? () => this.finish(Number(key)) : null;
    if (key === "?") return () => this.sheet();
    if (key === "i") return () => $("text").focus();
    if (key === "f") return open ? () => this.askEnd() : null;
    if (key === "j" || key === "k") return () => this.move(key === "j" ? 1 : -1);
    if (!this.at) return null;
    return { "+": () => this.thumb(...this.at, 1), "-": () => this.thumb(...this.at, -1), b: () => this.broke(...this.at), m: () => this.keep(...this.at) }[key] ?? null;
  }

  move(by) {
    const all = this.turns.filter((t) => t.role === "assistant").flatMap((t) => t.answers.map((_, i) => [t.n, i]));
    if (!all.length) return;
    const now = this.at ? all.findIndex(([n, i]) => n === this.at[0] && i === this.at[1]) : -1;
    this.at = all[Math.min(all.length - 1, Math.max(0, now + by))];
    this.draw();
    $("talk").querySelector(".current")?.focus();
  }

  // The screen.

  draw() {
    const focused = document.activeElement?.id;
    $("talk").classList.toggle("blurred", facts.blur);
    $("talk").replaceChildren(...this.turns.map((t) => (t.role === "user" ? this.mine(t) : this.theirs(t))), ...this.pending());
    const open = this.chat.state === "open";
    $("write").hidden = !open || this.undecided;
    $("write").querySelector("button").disabled = this.busy;
    this.drawEnd(open);
    if (focused && document.activeElement?.id !== focused) $(focused)?.focus();
  }

  mine(t) {
    return el("div", { class: "mine" }, el("h2", {}, "You"), el("div", { class: "prose" }, ...fromNodes(t.nodes)));
  }

  pending() {
    if (!this.waiting) return [];
    const shown = this.turns.at(-1)?.role === "user" && this.turns.at(-1).key === this.waiting.key;
    const own = shown ? [] : [el("div", { class: "mine" }, el("h2", {}, "You"), el("div", { class: "prose" }, el("p", {}, this.waiting.text)))];
    return [...own, el("p", { class: "wait", role: "status" }, this.busy ? "The model writes…" : "No answer yet.")];
  }

  theirs(t) {
    const two = t.answers.length === 2;
    const cards = t.answers.map((a, i) => this.card(t, a, i, two));
    const parts = [el("div", { class: `answers${two ? " two" : ""}` }, ...cards)];
    if (two && t.chosen === null) {
      const keys = { left: "←", right: "→", tie: "↓", both_bad: "↑" };
      parts.push(el("div", { class: "choices", role: "group", "aria-label": "Which is better?" }, ...Object.entries(OUTCOMES).map(([outcome, label]) => this.button([label, " ", el("kbd", {}, keys[outcome])], () => this.choose(t.n, outcome)))));
    } else if (two) parts.push(el("p", { class: "verdict" }, `${OUTCOMES[t.outcome]}. The chat went on with ${t.chosen ? "B" : "A"}.`));
    return el("div", {}, ...parts);
  }

  card(t, a, i, two) {
    const current = this.at && this.at[0] === t.n && this.at[1] === i;
    const classes = ["answer", current && "current", a.broke && "broken", two && t.chosen === i && "better", two && t.chosen !== null && t.chosen !== i && "apart"];
    const name = two ? ["Answer A", "Answer B"][i] : "Model";
    const up = this.button(["Good ", el("kbd", {}, "+")], () => this.thumb(t.n, i, 1), a.thumb?.value === 1);
    const down = this.button(["Bad ", el("kbd", {}, "-")], () => this.thumb(t.n, i, -1), a.thumb?.value === -1);
    const tools = [up, down];
    if (!a.broke) tools.push(this.button(["It broke here ", el("kbd", {}, "b")], () => this.broke(t.n, i)));
    else if (!a.broke.test) tools.push(this.button(["Make a regression test ", el("kbd", {}, "m")], () => this.keep(t.n, i)));
    const reasons = a.thumb?.reasons.map((r) => facts.reasons.up[r] ?? facts.reasons.down[r]) ?? [];
    if (reasons.length) tools.push(el("span", { class: "hint" }, reasons.join(", ")));
    const made = el("article", { class: classes.filter(Boolean).join(" "), tabindex: "-1", "aria-label": name }, el("h2", {}, name), el("div", { class: "prose" }, ...fromNodes(a.nodes)), el("div", { class: "tools" }, ...tools));
    if (a.broke) {
      const flag = facts.flags.find((f) => f.key === a.broke.category)?.label ?? a.broke.category;
      made.append(el("p", { class: "verdict" }, el("span", { class: "tag bad" }, flag), ` ${a.broke.text}`, ...(a.broke.test ? [" ", el("span", { class: "tag good" }, "a regression test")] : [])));
    }
    made.addEventListener("pointerdown", () => {
      this.at = [t.n, i];
      for (const other of $("talk").querySelectorAll(".current")) other.classList.remove("current");
      made.classList.add("current");
    });
    return made;
  }

  button(label, act, pressed = null) {
    const made = el("button", { type: "button", ...(pressed === null ? {} : { "aria-pressed": String(pressed) }) }, ...label);
    made.addEventListener("click", act);
    return made;
  }

  askEnd() {
    if (this.undecided) return this.notice("Choose one of the two answers first.");
    this.ending = true;
    this.draw();
    $("ending").querySelector(".scale button")?.focus();
  }

  drawEnd(open) {
    if (!open) {
      const how = this.chat.success ? `Finished. Goal reached: ${SCALE[this.chat.success - 1]} (${this.chat.success} of 5).` : "You gave this goal back.";
      return $("ending").replaceChildren(el("p", {}, how), el("p", {}, el("a", { class: "button", href: facts.list }, "Begin another chat")));
    }
    const back = this.chat.is_task ? [this.button(["Leave this goal to somebody else"], () => this.giveBack())] : [];
    if (!this.ending) {
      const parts = !this.undecided && this.turns.some((t) => t.role === "assistant") ? [this.button(["Finish ", el("kbd", {}, "f")], () => this.askEnd())] : [];
      return $("ending").replaceChildren(el("div", { class: "buttons" }, ...parts, ...back));
    }
    $("ending").replaceChildren(
      el("p", { id: "how-far" }, "How far did you reach your goal?"),
      el("div", { class: "scale", role: "group", "aria-labelledby": "how-far" }, ...SCALE.map((label, i) => this.button([el("kbd", {}, String(i + 1)), ` ${label}`], () => this.finish(i + 1)))),
    );
  }

  notice(text, again = false) {
    const parts = text ? [text] : [];
    if (text && again) parts.push(" ", this.button(["Try again"], () => this.ask()));
    $("notice").replaceChildren(...parts);
  }

  status(text, kind) {
    $("status").textContent = text;
    $("status").className = `tag ${kind}`;
  }

  tell(text) {
    $("live").textContent = text;
  }

  // `done` may return false to keep the dialog open.
  dialog(title, content, action, done) {
    const before = document.activeElement;
    const box = el("dialog", { "aria-labelledby": "d-title" });
    const close = () => { box.close(); box.remove(); before?.focus?.(); };
    const accept = () => { if (done() !== false) close(); };
    const buttons = el("p", { class: "buttons" }, ...(action ? [this.button([action, " ", el("kbd", {}, "Enter")], accept)] : []), this.button([action ? "Cancel" : "Close"], close));
    if (action) buttons.firstChild.className = "primary";
    box.append(el("h2", { id: "d-title" }, title), ...content, buttons);
    box.addEventListener("cancel", (event) => { event.preventDefault(); close(); });
    box.addEventListener("keydown", (event) => {
      const isText = event.target.closest("textarea");
      if (!action || event.key !== "Enter" || event.isComposing || event.target.closest("button") || (isText && !event.ctrlKey && !event.metaKey)) return;
      event.preventDefault();
      event.stopPropagation();
      accept();
    });
    document.body.append(box);
    box.showModal();
  }

  sheet() {
    this.dialog("Keys", [el("table", { class: "keys" }, el("tbody", {}, ...KEYS.map(([key, what]) => el("tr", {}, el("td", {}, el("kbd", {}, key)), el("td", {}, what)))))], null, () => true);
  }
}

new Talk().start();
