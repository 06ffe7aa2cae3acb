import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST, SG_CLEAR, SG_STRIDE } from "../hal/gpu.ts";
import { SG_PAGE_MASK } from "./copy-context.ts";
import type { CopyContext } from "./copy-context.ts";
import { chooseWay } from "./path-choice.ts";
import type { WayDirection, WayName } from "./path-choice.ts";
import { BankRuns, NO_BANK } from "./ways/bank-runs.ts";
import type { CopyWays } from "./ways/copy-ways.ts";

/** Lists from this length on may be parts of a stream. */
const STREAMED_PAGES = 64;
/** A stream that is announced counts as at least so long: 64 MiB. */
const ANNOUNCED_PAGES = 16384;

/**
 * Lists of page runs, in all directions; those that stay on the host are left to the caller. A list is split by direction, and each part goes the way
 * that suits its size and shape (path-choice.ts). The order of the parts is free, because runs of one list do not depend on
 * each other.
 */
export class PageLists {
  readonly #c: CopyContext;
  readonly #ways: CopyWays;
  readonly #runs: Readonly<Record<WayDirection, BankRuns>> = {
    upload: new BankRuns(),
    readback: new BankRuns(),
    device: new BankRuns(),
    inside: new BankRuns(),
    fill: new BankRuns(),
  };

  /** What has gone up since that many arrivals. */
  #stream = { since: 0, pages: 0, runs: 0 };
  #streams = false;

  constructor(context: CopyContext, ways: CopyWays) {
    this.#c = context;
    this.#ways = ways;
  }

  /** `words` as in `PageList`, with linear pages of VRAM. Null when nothing goes to the host. */
  record(words: Uint32Array, count: number): Promise<void> | null {
    const { upload, readback, device, inside, fill } = this.#runs;
    upload.clear();
    readback.clear();
    device.clear();
    inside.clear();
    fill.clear();
    for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) this.#split(words, at);
    const { counters, health } = this.#c;
    const ways = this.#ways;
    if (fill.count > 0) {
      counters.fillBytes += fill.pages * PAGE_SIZE;
      ways.fill(this.#way("fill", fill), fill);
    }
    if (device.count > 0) ways.copy(this.#way("device", device), device);
    if (inside.count > 0) ways.copy(this.#way("inside", inside), inside);
    let done: Promise<void> | null = null;
    if (readback.count > 0) {
      if (!health.isLost) counters.downloadBytes += readback.pages * PAGE_SIZE;
      done = ways.readback(this.#way("readback", readback), readback);
    }
    // Last, because it may submit what was recorded.
    if (upload.count > 0 && !health.isLost) {
      counters.uploadBytes += upload.pages * PAGE_SIZE;
      ways.upload(this.#uploadWay(upload), upload);
    }
    return done;
  }

  /** The next long list from the host is part of a stream: more follow at once. */
  announceStream(): void {
    this.#streams = true;
  }

  /**
   * Long lists between which nothing is waited for are one stream to the GPU, and go as a list of all their pages would: each by
   * itself is best written, all together are best staged.
   */
  #uploadWay({ pages, count }: BankRuns): WayName<"upload"> {
    const { paths, readback } = this.#c;
    if (pages < STREAMED_PAGES) return chooseWay(paths, "upload", pages, count);
    if (readback.arrivals !== this.#stream.since) this.#stream = { since: readback.arrivals, pages: 0, runs: 0 };
    const repeats = this.#streams ? Math.ceil(ANNOUNCED_PAGES / pages) : 1;
    this.#streams = false;
    this.#stream.pages += pages * repeats;
    this.#stream.runs += count * repeats;
    return chooseWay(paths, "upload", this.#stream.pages, this.#stream.runs);
  }

  #way<D extends WayDirection>(direction: D, runs: BankRuns): WayName<D> {
    return chooseWay(this.#c.paths, direction, runs.pages, runs.count);
  }

  /** Sorts a run by its direction, cut where either side goes on in another bank. */
  #split(words: Uint32Array, at: number): void {
    if (isOnHost(words, at)) return;
    const { memory } = this.#c;
    const [from, to] = [words[at]! >>> 30, words[at + 1]! >>> 30];
    const clear = (words[at + 3]! & SG_CLEAR) !== 0;
    let source = words[at]! & SG_PAGE_MASK;
    let target = words[at + 1]! & SG_PAGE_MASK;
    for (let left = words[at + 2]!; left > 0;) {
      let n = left;
      if (!clear && from !== AP_HOST) n = Math.min(n, memory.runIn(from, source));
      if (to !== AP_HOST) n = Math.min(n, memory.runIn(to, target));
      if (to === AP_HOST) {
        this.#runs.readback.push(memory.bankOf(from, source), memory.pageIn(from, source), NO_BANK, target, n);
      } else {
        const bank = memory.bankOf(to, target);
        const page = memory.pageIn(to, target);
        if (clear) this.#runs.fill.push(NO_BANK, 0, bank, page, n);
        else if (from === AP_HOST) this.#runs.upload.push(NO_BANK, source, bank, page, n);
        else {
          const sourceBank = memory.bankOf(from, source);
          const runs = sourceBank === bank ? this.#runs.inside : this.#runs.device;
          runs.push(sourceBank, memory.pageIn(from, source), bank, page, n);
        }
      }
      source += n;
      target += n;
      left -= n;
    }
  }
}

/** Whether a run needs no GPU: from host to host, or a fill there. */
export function isOnHost(words: Uint32Array, at: number): boolean {
  return words[at + 1]! >>> 30 === AP_HOST && (words[at]! >>> 30 === AP_HOST || (words[at + 3]! & SG_CLEAR) !== 0);
}
