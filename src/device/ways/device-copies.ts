import { PAGE_SIZE } from "../../base/addr.ts";
import { BANK_RUN_WORDS } from "./bank-runs.ts";
import type { BankRuns } from "./bank-runs.ts";
import { STAGING_PAGES } from "./copy-staging.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { CopyWay, PageKernel, WayContext } from "./way.ts";

/** A buffer copy per run; two, by way of the bounce buffer, where both sides are one buffer. */
export class CopyPerRun implements CopyWay {
  readonly #c: WayContext;
  readonly #staging: CopyStaging;

  constructor(context: WayContext, staging: CopyStaging) {
    this.#c = context;
    this.#staging = staging;
  }

  record({ words, count }: BankRuns): void {
    const { banks, commands } = this.#c;
    /** Triples: bank, page and pages that wait in the bounce buffer. */
    const bounced: number[] = [];
    let used = 0;
    const land = () => {
      let at = 0;
      for (let i = 0; i < bounced.length; i += 3) {
        const bytes = bounced[i + 2]! * PAGE_SIZE;
        const to = bounced[i + 1]! * PAGE_SIZE;
        commands.encoder().copyBufferToBuffer(this.#staging.bounce, at, banks[bounced[i]!]!, to, bytes);
        at += bytes;
      }
      bounced.length = 0;
      used = 0;
    };
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const source = banks[words[at]!]!;
      const target = banks[words[at + 2]!]!;
      const from = words[at + 1]!;
      const to = words[at + 3]!;
      const pages = words[at + 4]!;
      if (source !== target) {
        commands.encoder().copyBufferToBuffer(source, from * PAGE_SIZE, target, to * PAGE_SIZE, pages * PAGE_SIZE);
        continue;
      }
      for (let done = 0; done < pages;) {
        if (used === STAGING_PAGES) land();
        const n = Math.min(pages - done, STAGING_PAGES - used);
        const bounce = this.#staging.bounce;
        const first = (from + done) * PAGE_SIZE;
        commands.encoder().copyBufferToBuffer(source, first, bounce, used * PAGE_SIZE, n * PAGE_SIZE);
        bounced.push(words[at + 2]!, to + done, n);
        used += n;
        done += n;
      }
    }
    land();
  }
}

/** One dispatch per pair of buffers. */
export class ComputeCopy implements CopyWay {
  readonly #kernel: PageKernel;

  constructor(kernel: PageKernel) {
    this.#kernel = kernel;
  }

  record({ words, count }: BankRuns): void {
    const kernel = this.#kernel;
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const pages = words[at + 4]!;
      for (let i = 0; i < pages; i++) kernel.copy(words[at]!, words[at + 1]! + i, words[at + 2]!, words[at + 3]! + i);
    }
    kernel.flush();
  }
}
