import { PAGE_SIZE } from "../../base/addr.ts";
import { BANK_RUN_WORDS } from "./bank-runs.ts";
import type { BankRuns } from "./bank-runs.ts";
import { STAGING_PAGES } from "./copy-staging.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { CopyWay, PageKernel, Stager, WayContext } from "./way.ts";

/** Host to device: packed into the staging buffer, from which a kernel spreads the pages. Few commands for many runs. */
export class Scatter implements CopyWay {
  readonly #c: WayContext;
  readonly #stager: Stager;
  readonly #staging: CopyStaging;
  readonly #kernel: PageKernel;

  constructor(context: WayContext, stager: Stager, staging: CopyStaging, kernel: PageKernel) {
    this.#c = context;
    this.#stager = stager;
    this.#staging = staging;
    this.#kernel = kernel;
  }

  record({ words, count }: BankRuns): void {
    const { hostMemory } = this.#c;
    const kernel = this.#kernel;
    const { uploadBank } = kernel;
    let used = 0;
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const bank = words[at + 2]!;
      for (let done = 0; done < words[at + 4]!;) {
        const n = Math.min(words[at + 4]! - done, STAGING_PAGES - used);
        const from = (words[at + 1]! + done) * PAGE_SIZE;
        this.#stager.put(hostMemory, from, n * PAGE_SIZE, this.#staging.upload, used * PAGE_SIZE);
        for (let i = 0; i < n; i++) kernel.copy(uploadBank, used + i, bank, words[at + 3]! + done + i);
        used += n;
        done += n;
        if (used === STAGING_PAGES) used = this.#land();
      }
    }
    if (used > 0) this.#land();
  }

  /** Returns 0: the staging buffer may be filled again, behind what is recorded. */
  #land(): number {
    this.#stager.flush();
    this.#kernel.flush();
    return 0;
  }
}
