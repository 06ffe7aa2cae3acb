import type { Scenario } from "../verbs.ts";

/** Counts what holds and what does not, so that a case of thousands of comparisons is a few lines. */
export class Findings {
  readonly #counts = new Map<string, { kind: "must" | "cfg"; right: number; all: number }>();

  /** One instance of something that must hold every time. */
  check(what: string, holds: boolean): void {
    this.#count("must", what, holds);
  }
  /** One instance of something that holds every time in the machine as it is configured. */
  expect(what: string, holds: boolean): void {
    this.#count("cfg", what, holds);
  }

  report(s: Scenario): void {
    for (const [what, { kind, right, all }] of this.#counts) s[kind](right === all, `${what} (${right} of ${all})`);
  }

  #count(kind: "must" | "cfg", what: string, holds: boolean): void {
    let count = this.#counts.get(what);
    if (count === undefined) this.#counts.set(what, (count = { kind, right: 0, all: 0 }));
    count.all += 1;
    if (holds) count.right += 1;
  }
}
