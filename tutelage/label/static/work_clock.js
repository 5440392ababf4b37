// How long somebody really worked on a task: the page is visible and was touched in the last half minute.

const IDLE_MS = 30_000;

export class WorkClock {
  constructor() {
    this.touched = performance.now();
    this.last = this.touched;
    this.active = 0;
    this.session = 0;
    for (const kind of ["keydown", "pointerdown", "pointermove", "wheel", "touchstart", "input"])
      addEventListener(kind, () => this.touch(), { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => this.tick());
    setInterval(() => this.tick(), 5000);
  }

  touch() {
    this.tick();
    this.touched = performance.now();
  }

  tick() {
    const now = performance.now();
    const until = Math.min(now, this.touched + IDLE_MS);
    if (!document.hidden && until > this.last) {
      this.active += until - this.last;
      this.session += until - this.last;
    }
    this.last = now;
  }

  restart(from = 0) {
    this.tick();
    this.active = from;
  }

  get ms() {
    this.tick();
    return Math.round(this.active);
  }
}
