// What differs between two texts, word by word: the longest common subsequence.

import { el } from "./dom.js";

const MOST = 4_000_000; // cells of the table; beyond, the texts are shown as they are

export function words(text) {
  return text.match(/\s+|[^\s]+/g) ?? [];
}

// [{same: bool, text}] of `next` against `old`: what is not in `old` is not the same.
export function compare(old, next) {
  const a = words(old), b = words(next);
  if (a.length * b.length > MOST) return null;
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] =
        a[i] === b[j] ? best[(i + 1) * width + j + 1] + 1 : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  const parts = [];
  const add = (kind, text) => {
    if (parts.length && parts.at(-1).kind === kind) parts.at(-1).text += text;
    else parts.push({ kind, text });
  };
  let i = 0, j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add("same", b[j]);
      i++;
      j++;
    } else if (j < b.length && (i === a.length || best[i * width + j + 1] >= best[(i + 1) * width + j])) add("new", b[j++]);
    else add("gone", a[i++]);
  }
  return parts;
}

// The text of `next` with its new words marked; `both` also shows what is gone.
export function shown(old, next, { both = false } = {}) {
  const parts = compare(old, next);
  if (parts === null) return el("div", { class: "plain" }, next);
  const nodes = [];
  for (const part of parts) {
    if (part.kind === "same") nodes.push(part.text);
    else if (part.kind === "new") nodes.push(el(both ? "ins" : "mark", {}, part.text));
    else if (both) nodes.push(el("del", {}, part.text));
  }
  return el("div", { class: "plain" }, ...nodes);
}
