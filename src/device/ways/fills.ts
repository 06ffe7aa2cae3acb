import { PAGE_SIZE, SZ_2M } from "../../base/addr.ts";
import { BANK_RUN_WORDS } from "./bank-runs.ts";
import type { BankRuns } from "./bank-runs.ts";
import type { CopyWay, PageKernel, WayContext } from "./way.ts";

const ZERO_BYTES = SZ_2M;

/** The GPU's own clear command, one per run. */
export class ClearPerRun implements CopyWay {
  readonly #c: WayContext;

  constructor(context: WayContext) {
    this.#c = context;
  }

  record({ words, count }: BankRuns): void {
    const { banks, commands } = this.#c;
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const bank = banks[words[at + 2]!]!;
      commands.encoder().clearBuffer(bank, words[at + 3]! * PAGE_SIZE, words[at + 4]! * PAGE_SIZE);
    }
  }
}

/**
 * Zeros by `writeBuffer`: no submission to wait for. Behind commands that are recorded already, which it would have to send
 * off first, it clears.
 */
export class ZeroWrites implements CopyWay {
  readonly #c: WayContext;
  readonly #clears: CopyWay;
  #zeros: Uint8Array<ArrayBuffer> | null = null;

  constructor(context: WayContext, clears: CopyWay) {
    this.#c = context;
    this.#clears = clears;
  }

  record(runs: BankRuns): void {
    const { banks, commands } = this.#c;
    if (!commands.isEmpty) return this.#clears.record(runs);
    this.#zeros ??= new Uint8Array(ZERO_BYTES);
    const zeros = this.#zeros;
    const { words, count } = runs;
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      const bank = banks[words[at + 2]!]!;
      const first = words[at + 3]! * PAGE_SIZE;
      const bytes = words[at + 4]! * PAGE_SIZE;
      for (let done = 0; done < bytes; done += ZERO_BYTES) {
        const n = Math.min(bytes - done, ZERO_BYTES);
        commands.writes.put(bank, first + done, zeros, 0, n);
      }
    }
  }
}

/** One dispatch per buffer. */
export class ComputeFill implements CopyWay {
  readonly #kernel: PageKernel;

  constructor(kernel: PageKernel) {
    this.#kernel = kernel;
  }

  record({ words, count }: BankRuns): void {
    for (let at = 0; at < count * BANK_RUN_WORDS; at += BANK_RUN_WORDS) {
      for (let i = 0; i < words[at + 4]!; i++) this.#kernel.fill(words[at + 2]!, words[at + 3]! + i);
    }
    this.#kernel.flush();
  }
}
