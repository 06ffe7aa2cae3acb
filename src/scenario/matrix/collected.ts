import { KernelError } from "../../base/errors.ts";
import type { Scenario } from "../verbs.ts";

/** Tries, between which the collector may run. */
const TRIES = 300;

/**
 * Does what wants an address space without ranges, dead ones included: tries again when the collector has run. False when
 * they do not go; other errors than EBUSY are thrown on.
 */
export async function onceCollected(s: Scenario, f: () => Promise<unknown>): Promise<boolean> {
  for (let n = 0; n < TRIES; n++) {
    try {
      await f();
      return true;
    } catch (error) {
      if (!(error instanceof KernelError) || error.code !== "EBUSY") throw error;
      await s.settle();
    }
  }
  return false;
}
