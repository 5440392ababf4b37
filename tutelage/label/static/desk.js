// The desk: fetches tasks, shows one, keeps the next ones ready, and sends answers. What a task looks like is the
// matter of its view (rank.js, compare.js, write.js); what happens to an answer on its way, of outbox.js.

import { el, fromNodes } from "./dom.js";
import { ask } from "./cards.js";
import { Compare } from "./compare.js";
import { Keys } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Rank } from "./rank.js";
import { askReason } from "./skip.js";
import { WorkClock } from "./work_clock.js";
import { Correct, CritiqueTask, Demonstrate } from "./write.js";

const VIEWS = { rank: Rank, compare: Compare, demonstrate: Demonstrate, correct: Correct, critique: CritiqueTask };
const READY = 2; // tasks at hand, the one on screen included
const DRAFT_MS = 800;

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("facts").textContent);

class Desk {
  constructor() {
    this.keys = new Keys(facts.keys);
    this.clock = new WorkClock();
    this.queue = [];
    this.task = null;
    this.view = null;
    this.revising = false;
    this.last = null;
    this.count = 0;
    this.rested = 0;
    this.outbox = new Outbox(facts.labeler, (item) => this.send(item), (event, item, body) => this.heard(event, item, body));
  }

  async start() {
    document.addEventListener("keydown", (event) => this.key(event));
    for (const [id, action] of [["submit", "submit"], ["skip", "skip"], ["undo", "undo"], ["help", "help"], ["guide", "guideline"]])
      $(id)?.addEventListener("click", () => this.act(action));
    addEventListener("pagehide", () => this.saveDraft(true));
    document.addEventListener("visibilitychange", () => document.hidden && this.saveDraft(true));
    setInterval(() => this.renew(), (facts.lease_s * 1000) / 3);
    setInterval(() => this.rest(), 60_000);
    await this.outbox.start();
    const revise = new URLSearchParams(location.search).get("revise");
    if (revise && /^[0-9a-f]{24}$/.test(revise)) await this.reopen(revise);
    else await this.advance();
  }

  // The server.

  async fetch(path, method = "GET", body, keepalive = false) {
    const answer = await fetch(`${facts.base}/${path}`, {
      method, keepalive, credentials: "same-origin", redirect: "error",
      headers: { accept: "application/json", "x-form-mark": facts.mark, ...(body ? { "content-type": "application/json" } : {}) },
      body: body ? JSON.stringify(body) : undefined,
    });
    let read = null;
    try {
      read = await answer.json();
    } catch {
      read = { error: "The server answered with something else." };
    }
    return { status: answer.status, body: read };
  }

  send(item) {
    return this.fetch(`${item.assignment}/${item.verb}`, "POST", item.body);
  }

  heard(event, item, body) {
    const waiting = this.outbox.size;
    if (event === "committed") {
      this.status(waiting ? `Saved. ${waiting} on the way…` : "Saved", "good");
      localStorage.removeItem(`draft:${item.assignment}`);
      if (!this.view) this.advance(); // a place in her hands fell free
    } else if (event === "waiting") {
      if (body?.status === 401) this.status("You were signed out. Sign in in another tab; your answers wait here.", "bad");
      else if (body) this.status(`${waiting} answer${waiting > 1 ? "s" : ""} kept here until the server is back`, "warn");
      else this.status("Sending…", "");
    } else {
      this.status("", "");
      const again = el("button", { type: "button" }, "Open that task again");
      again.addEventListener("click", () => this.putBack(item));
      $("banner").replaceChildren(el("p", { role: "alert", class: "alert" }, `An answer was not taken: ${body?.error ?? "unknown reason"} `, again));
    }
  }

  status(text, kind) {
    $("status").textContent = text;
    $("status").className = `tag ${kind}`;
  }

  // A refused answer comes back to the screen as it was.
  putBack(item) {
    $("banner").replaceChildren();
    if (!item.task) return;
    if (this.task && !this.revising) this.queue.unshift(this.task);
    this.show({ ...item.task, draft: item.draft });
  }

  fill() {
    this.filling ??= this.fetchTasks().finally(() => { this.filling = null; });
    return this.filling;
  }

  get atHand() {
    return [...this.queue, ...(this.task && !this.revising ? [this.task] : [])].map((t) => t.id);
  }

  async fetchTasks() {
    try {
      while (this.atHand.length < READY) {
        const have = [...new Set([...this.atHand, ...this.outbox.assignments()])].slice(0, 8);
        const { status, body } = await this.fetch(`next?have=${have.join(",")}`);
        if (status === 401) return location.assign("/sign-in");
        if (status !== 200) {
          if (status !== 409) this.status(body.error, "bad");
          return;
        }
        if (!body.task) return;
        this.queue.push(body.task);
      }
    } catch {
      this.status("The server cannot be reached; trying again…", "warn");
      setTimeout(() => this.task || this.advance(), 3000);
    }
  }

  async advance() {
    this.task = null;
    this.revising = false;
    if (!this.queue.length) await this.fill();
    const next = this.queue.shift();
    if (next) this.show(next);
    else this.empty();
    this.fill();
  }

  async reopen(id) {
    const { status, body } = await this.fetch(id);
    if (status !== 200) {
      this.status(body.error, "bad");
      return this.advance();
    }
    if (this.task && !this.revising) this.queue.unshift(this.task);
    this.show({ ...body.task, draft: body.task.answer ?? body.task.draft }, { revising: body.task.state === "answered" });
  }

  // The screen.

  empty() {
    this.view = null;
    $("task").replaceChildren(el("p", { class: "empty" }, "There is nothing for you to do right now. This page looks again by itself."));
    $("prompt").replaceChildren();
    $("about-prompt").replaceChildren();
    $("beside").replaceChildren();
    $("actions").hidden = true;
    clearTimeout(this.again);
    this.again = setTimeout(() => !this.task && this.advance(), 5000);
  }

  show(task, { revising = false } = {}) {
    if (!(task.kind in VIEWS)) return this.advance();
    this.task = task;
    this.revising = revising;
    this.key_of_answer = crypto.randomUUID();
    this.clock.restart();
    $("prompt").replaceChildren(...task.prompt.map((m) => el("div", { class: `turn ${m.role}` }, el("h3", {}, { user: "Person", assistant: "Model", system: "Instruction" }[m.role]), el("div", { class: "prose" }, ...fromNodes(m.nodes)))));
    this.view = new VIEWS[task.kind](task, facts.settings, this);
    $("about-prompt").replaceChildren(this.view.cards.about);
    const local = this.localDraft(task.id);
    const draft = local ?? task.draft;
    if (draft) this.view.load(draft);
    const about = [];
    if (task.practice) about.push(el("p", { class: "card note" }, "A practice task: after you submit, you see how the project's lead would answer."));
    if (revising) about.push(el("p", { class: "card note" }, "You are revising an answer of yours. The old one is kept in the log."));
    $("task").replaceChildren(...about, this.view.root);
    $("beside").replaceChildren(...(this.view.aside ? [this.view.aside] : []));
    $("actions").hidden = false;
    $("submit").firstChild.textContent = revising ? "Save the revision " : "Submit ";
    $("notice").textContent = "";
    if (draft && !revising) this.say("Your unfinished work is back");
    scrollTo(0, 0);
    this.view.start();
    this.shown = performance.now();
    document.dispatchEvent(new CustomEvent("desk:shown", { detail: { id: task.id } }));
  }

  redraw() {
    this.view?.draw?.();
  }

  say(text) {
    $("live").textContent = text;
  }

  changed() {
    if (!this.task || this.revising) return;
    localStorage.setItem(`draft:${this.task.id}`, JSON.stringify(this.view.draft()));
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.saveDraft(), DRAFT_MS);
    $("notice").textContent = "";
  }

  localDraft(id) {
    try {
      return JSON.parse(localStorage.getItem(`draft:${id}`));
    } catch {
      return null;
    }
  }

  saveDraft(leaving = false) {
    clearTimeout(this.saving);
    if (!this.task || this.revising || !localStorage.getItem(`draft:${this.task.id}`)) return;
    this.fetch(`${this.task.id}/draft`, "PUT", { body: this.view.draft() }, leaving).catch(() => {});
  }

  renew() {
    if (document.hidden) return;
    for (const task of [...(this.task && !this.revising ? [this.task] : []), ...this.queue]) this.fetch(`${task.id}/renew`, "POST", {}).catch(() => {});
  }

  rest() {
    const every = facts.settings.break_minutes * 60_000;
    if (every && this.clock.session - this.rested >= every) {
      this.rested = this.clock.session;
      $("banner").replaceChildren(el("p", { class: "card note", role: "status" }, `You have worked for ${facts.settings.break_minutes} minutes. A short break is good for you and for the labels.`));
    }
  }

  // Keys and actions.

  key(event) {
    if (document.querySelector("dialog[open]")) return;
    const action = this.keys.action(event);
    if (!action) return;
    if (this.act(action)) event.preventDefault();
  }

  act(action) {
    if (action === "help") return this.help(), true;
    if (action === "guideline") return $("guideline")?.toggleAttribute("hidden"), true;
    if (!this.view) return action === "undo" ? this.undo() : false;
    if (!this.task) return true; // answered, and the next is on its way
    if (action === "submit") return this.submit(), true;
    if (action === "skip") return this.skip(), true;
    if (action === "report") return this.view.cards.flag(null), true;
    if (this.view.act(action)) return true;
    if (action === "undo") return this.undo();
    return false;
  }

  async submit() {
    const problem = this.view.problem();
    if (problem) {
      $("notice").textContent = problem;
      return this.say(problem);
    }
    const notice = this.view.notice();
    if (notice && this.noticed !== this.task.id) {
      this.noticed = this.task.id;
      $("notice").textContent = `${notice} Submit again if that is what you mean.`;
      return this.say($("notice").textContent);
    }
    const body = { key: this.key_of_answer, ...this.view.value(), active_ms: this.clock.ms, client_at: new Date().toISOString() };
    const item = { key: body.key, assignment: this.task.id, verb: this.revising ? "revise" : "answer", body, draft: this.view.draft(), task: this.task };
    if (this.task.practice || this.revising) return this.submitAndWait(item);
    this.last = { id: this.task.id, at: Date.now() };
    this.count++;
    $("count").textContent = `${this.count} done in this sitting`;
    const put = this.outbox.put(item);
    await this.advance();
    await put;
  }

  async submitAndWait(item) {
    let answer;
    try {
      answer = await this.send(item);
    } catch {
      return this.status("The server cannot be reached. Try again in a moment.", "warn");
    }
    if (answer.status !== 200) {
      $("notice").textContent = answer.body.error;
      return;
    }
    localStorage.removeItem(`draft:${item.assignment}`);
    this.status("Saved", "good");
    if (answer.body.practice) await this.teach(answer.body.practice);
    if (this.revising) history.replaceState(null, "", location.pathname);
    await this.advance();
  }

  teach(practice) {
    const order = practice.tiers.map((tier, i) => [tier, "ABCDEFGHI"[i]]).sort((a, b) => a[0] - b[0]);
    const lines = order.map(([tier, letter]) => el("li", {}, `Place ${tier}: ${letter}`));
    const content = el("div", {}, el("p", {}, practice.score === 1 ? "You agree with the lead on every place." : "The lead's order:"), el("ul", {}, ...lines), el("p", {}, practice.explanation));
    return ask("Practice", content, { button: "Next task", tells: true, value: () => true });
  }

  async skip() {
    const found = await askReason("Skip this task", "Skip");
    if (!found || this.revising) return this.revising && found ? this.advance() : undefined;
    const body = { key: crypto.randomUUID(), ...found, active_ms: this.clock.ms };
    const put = this.outbox.put({ key: body.key, assignment: this.task.id, verb: "skip", body, task: this.task, draft: this.view.draft() });
    await this.advance();
    await put;
  }

  // With nothing left to undo in this task, the one before comes back to be revised.
  undo() {
    if (!this.last || this.outbox.assignments().includes(this.last.id)) return false;
    const { id } = this.last;
    this.last = null;
    this.reopen(id);
    return true;
  }

  help() {
    const save = (keys) => this.fetch("keys/own", "PUT", { keys }).catch(() => {});
    const sheet = this.keys.sheet(this.view?.keys ?? [], save);
    ask("Keys", el("div", {}, el("p", { class: "hint" }, "Single keys rest while you write. Click into a field and press a key to change it."), sheet), { button: "Close", tells: true, value: () => true });
  }
}

const desk = new Desk();
desk.start();
