// Answers on their way to the server. One is kept in the browser's database until the server says that it is
// committed, so that a lost connection, a reload or a restarted server loses nothing. The server knows each by its key.

const NAME = "tutelage-outbox";
const STORE = "answers";

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "key" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function done(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = () => reject(transaction.error);
    transaction.onabort = () => reject(transaction.error);
  });
}

export class Outbox {
  // send(item) -> {status, body}; told(event, item, body) hears "waiting", "committed" and "refused".
  constructor(labeler, send, told) {
    this.labeler = labeler;
    this.send = send;
    this.told = told;
    this.items = new Map();
    this.busy = false;
    this.pause = 500;
  }

  async start() {
    this.db = await open();
    const all = await new Promise((resolve, reject) => {
      const request = this.db.transaction(STORE).objectStore(STORE).getAll();
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
    for (const item of all) if (item.labeler === this.labeler) this.items.set(item.key, item);
    addEventListener("online", () => this.flush());
    this.flush();
  }

  get size() {
    return this.items.size;
  }

  assignments() {
    return [...this.items.values()].map((item) => item.assignment);
  }

  async put(item) {
    const kept = { ...item, labeler: this.labeler };
    this.items.set(kept.key, kept);
    const transaction = this.db.transaction(STORE, "readwrite");
    transaction.objectStore(STORE).put(kept);
    await done(transaction);
    this.told("waiting", kept);
    this.flush();
  }

  async forget(key) {
    this.items.delete(key);
    const transaction = this.db.transaction(STORE, "readwrite");
    transaction.objectStore(STORE).delete(key);
    await done(transaction);
  }

  // One after the other, in order. A refusal is final; silence, a restart (502, 503) and a limit (429) are tried again.
  async flush() {
    if (this.busy) return;
    this.busy = true;
    try {
      while (this.items.size) {
        const item = this.items.values().next().value;
        let answer;
        try {
          answer = await this.send(item);
        } catch {
          answer = { status: 0 };
        }
        if (answer.status === 200) {
          await this.forget(item.key);
          this.pause = 500;
          this.told("committed", item, answer.body);
        } else if ([0, 401, 429, 500, 502, 503, 504].includes(answer.status)) {
          this.told("waiting", item, answer);
          await new Promise((resolve) => setTimeout(resolve, this.pause));
          this.pause = Math.min(this.pause * 2, 15000);
        } else {
          await this.forget(item.key);
          this.told("refused", item, answer.body);
        }
      }
    } finally {
      this.busy = false;
    }
  }
}
