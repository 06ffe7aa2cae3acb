import { PAGE_SIZE } from "../../base/addr.ts";
import { BANK_RUN_WORDS } from "./bank-runs.ts";
import type { BankRuns } from "./bank-runs.ts";
import type { CopyWay, Stager, WayContext } from "./way.ts";

/** Host to device, each run to its place. */
export class UploadRuns implements CopyWay {
  readonly #c: WayContext;
  readonly #stager: Stager;

  constructor(context: WayContext, stager: Stager) {
    this.#c = context;
    this.#stager = stager;
  }

  record({ words, count }: BankRuns): void {
    const { banks, hostMemory } = this.#c;
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const bytes = words[at + 4]! * PAGE_SIZE;
      this.#stager.put(
        hostMemory,
        words[at + 1]! * PAGE_SIZE,
        bytes,
        banks[words[at + 2]!]!,
        words[at + 3]! * PAGE_SIZE,
      );
    }
    this.#stager.flush();
  }
}
