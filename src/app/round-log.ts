import { ROUND_STRIDE } from "../worker/protocol.ts";

/** What every round added to the counters, in order. */
export class RoundLog {
  #words = new Float64Array(256 * ROUND_STRIDE);
  #count = 0;

  get count(): number {
    return this.#count;
  }

  clear(): void {
    this.#count = 0;
  }

  append(rounds: Float64Array): void {
    const needed = this.#count * ROUND_STRIDE + rounds.length;
    if (needed > this.#words.length) {
      const grown = new Float64Array(Math.max(needed, this.#words.length * 2));
      grown.set(this.#words);
      this.#words = grown;
    }
    this.#words.set(rounds, this.#count * ROUND_STRIDE);
    this.#count += rounds.length / ROUND_STRIDE;
  }

  /** Increase of counter `counter` in round `i`. */
  value(i: number, counter: number): number {
    return this.#words[i * ROUND_STRIDE + 1 + counter]!;
  }

  /** When round `i` ended, ms since the run began. */
  time(i: number): number {
    return this.#words[i * ROUND_STRIDE]!;
  }
}
