/** Thrown out of a round when the user has stopped the run. */
export class StoppedError extends Error {
  override readonly name = "StoppedError";
  readonly code = "STOPPED";

  constructor() {
    super("stopped");
  }
}

/** The longest that rounds may follow each other without a turn of the event loop, ms: frames and clicks wait for it. */
const TURN_MS = 12;

/**
 * The gate that the driver passes before every round: pause, single step, slow motion and stop hang here.
 *
 * `onRound` is called before the gate may close, so that what a paused user sees is the state between two rounds.
 */
export class RoundGate {
  readonly #onRound: () => void;
  readonly #turn: () => Promise<void>;
  readonly #now: () => number;
  #paused: boolean;
  #stopped = false;
  /** Rounds that may pass although paused. */
  #credit = 0;
  #waiting: (() => void) | null = null;
  #lastTurn = 0;
  /** Least time from round to round, ms; 0: as fast as they come. */
  #pace: number;
  #lastPass = -Infinity;

  constructor(options: {
    paused: boolean;
    pace: number;
    onRound: () => void;
    turn: () => Promise<void>;
    now: () => number;
  }) {
    this.#pace = options.pace;
    this.#paused = options.paused;
    this.#onRound = options.onRound;
    this.#turn = options.turn;
    this.#now = options.now;
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** For `Scheduler.gate`. */
  readonly pass = (name: string): Promise<void> | undefined => {
    if (name !== "round") return undefined;
    return this.#pass();
  };

  async #pass(): Promise<void> {
    this.#onRound();
    if (this.#now() - this.#lastTurn > TURN_MS) {
      await this.#turn();
      this.#lastTurn = this.#now();
    }
    while (!this.#stopped && this.#credit === 0) {
      const wait = this.#paused ? Infinity : this.#lastPass + this.#pace - this.#now();
      if (wait <= 0) break;
      await this.#sleep(wait);
    }
    if (this.#stopped) throw new StoppedError();
    if (this.#credit > 0) this.#credit -= 1;
    this.#lastPass = this.#now();
  }

  /** Until the time is over or something was asked for. */
  async #sleep(ms: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resume) => {
      this.#waiting = resume;
      if (Number.isFinite(ms)) timer = setTimeout(resume, ms);
    });
    clearTimeout(timer);
  }

  setPace(ms: number): void {
    this.#pace = ms;
    this.#wake();
  }

  pause(): void {
    this.#paused = true;
    this.#credit = 0;
    this.#wake();
  }

  resume(): void {
    this.#paused = false;
    this.#wake();
  }

  step(): void {
    this.#paused = true;
    this.#credit += 1;
    this.#wake();
  }

  stop(): void {
    this.#stopped = true;
    this.#wake();
  }

  #wake(): void {
    const wake = this.#waiting;
    this.#waiting = null;
    wake?.();
  }
}
