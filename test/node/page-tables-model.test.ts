import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K } from "../../src/base/addr.ts";
import { ENOMEM } from "../../src/base/errno.ts";
import { PTE_AE, PTE_W } from "../../src/abi/pte.ts";
import type { PageTableOptions } from "../../src/driver/page-tables.ts";
import { ALL_SIZES, CLASS_SIZE, DETAIL, FlatModel, TableSpace, anyOp, applyOp } from "./page-tables-model.ts";
import type { Op, PageState, TableEvent } from "./page-tables-model.ts";

/** Every page of the detail, and three of every eighth 2 MiB around it. */
const SAMPLES: readonly number[] = [
  ...Array.from({ length: DETAIL.pages }, (_, i) => DETAIL.first + i),
  ...blocks(8, [0, 1, 511]),
];

function blocks(step: number, pages: readonly number[]): number[] {
  const found: number[] = [];
  for (let b = 0; b < 1024; b += step) for (const p of pages) found.push(b * 512 + p);
  return found;
}

/** Whether a TLB entry of the old leaf would be wrong now (spec/device.md 2.4). */
function mustFlush(before: PageState, after: PageState): boolean {
  if (!before.present) return false;
  if (!after.present || before.pa !== after.pa || before.size !== after.size) return true;
  const permissions = PTE_W | PTE_AE;
  return ((before.flags ^ after.flags) & ~permissions) !== 0 || (before.flags & ~after.flags & permissions) !== 0;
}

class Checked {
  readonly space: TableSpace;
  readonly model: FlatModel;
  readonly leafSizes: readonly number[];
  /** What the walker said at the last flush, and the steps since. */
  #before: PageState[] = [];
  #unflushed = 0;

  constructor(leafSizes: readonly number[], options: PageTableOptions, base: number) {
    this.space = new TableSpace(leafSizes, options);
    this.model = new FlatModel(base);
    this.leafSizes = leafSizes;
  }

  async start(): Promise<void> {
    this.#before = await this.#look();
  }

  async #look(pages = SAMPLES): Promise<PageState[]> {
    const walk = await this.space.walker();
    return pages.map((page) => walk(this.model.va(page)));
  }

  /** Each allocation fails once, and nothing is changed by it; then the step is carried out and looked at. */
  async step(op: Op): Promise<void> {
    const { space, model } = this;
    // The cut is an update of its own.
    if (op.kind === "zap" || op.kind === "unmap") await this.step({ ...op, kind: "split", flush: false });
    const reachable = space.reachable();
    const vram = space.vram.slice();
    space.take();
    for (let n = 0; ; n += 1 + (n >> 2)) {
      space.failAt = n;
      const [bytes, used] = [space.tables.bytes, space.used];
      const ret = applyOp(space.tables, model, op);
      const failed = space.failAt < 0;
      space.failAt = -1;
      if (!failed) {
        expect(ret).toBe(0);
        break;
      }
      expect(ret).toBe(ENOMEM);
      expect([space.tables.bytes, space.used]).toEqual([bytes, used]);
      expect(space.take().filter((e) => e.kind === "write")).toEqual([]);
    }
    checkWrites(space.events, reachable, vram);
    if (op.flush) space.flush();
    const events = space.take();
    await this.#check(op, events);
  }

  async #check(op: Op, events: readonly TableEvent[]): Promise<void> {
    const now = await this.#look();
    now.forEach((found, i) => {
      const page = SAMPLES[i]!;
      const wrong = this.model.difference(page, found);
      if (wrong !== null) expect.fail(wrong);
      if (found.present && !this.leafSizes.includes(found.size)) expect.fail(`a leaf of ${found.size} bytes`);
      this.#checkLookup(page, found);
    });
    this.#unflushed += 1;
    if (!op.flush) return;
    this.#checkFlush(op, events, now);
    this.#before = now;
    this.#unflushed = 0;
  }

  #checkLookup(page: number, found: PageState): void {
    const va = this.model.va(page);
    const mine = this.space.tables.lookup(va);
    const same =
      mine.kind === "leaf"
        ? found.present &&
          mine.size === found.size &&
          found.pa === (mine.flags === found.flags && found.pa === 0 ? 0 : mine.pa + (va - mine.va))
        : !found.present && mine.reason === found.reason;
    if (!same) expect.fail(`lookup of page ${page}: ${JSON.stringify(mine)}, the walker says ${JSON.stringify(found)}`);
  }

  /** One invalidation that covers every page whose old translation would be wrong, or none where there is none. */
  #checkFlush(op: Op, events: readonly TableEvent[], now: readonly PageState[]): void {
    const flushes = events.filter((e) => e.kind === "invalidate");
    expect(flushes.length).toBeLessThanOrEqual(1);
    const isSeenWhole = op.first >= DETAIL.first && op.first + op.pages <= DETAIL.first + DETAIL.pages;
    const wanted = now.some((after, i) => mustFlush(this.#before[i]!, after));
    if (isSeenWhole && this.#unflushed === 1 && !wanted) expect(flushes).toEqual([]);
    now.forEach((after, i) => {
      const before = this.#before[i]!;
      if (!mustFlush(before, after)) return;
      const va = this.model.va(SAMPLES[i]!);
      const flush = flushes[0];
      if (flush === undefined || va < flush.start || va >= flush.end) expect.fail(`page ${SAMPLES[i]} wants a flush`);
    });
  }

  async finish(): Promise<void> {
    const { space, model } = this;
    const ends = blocks(1, [0, 255, 511]);
    const now = await this.#look(ends);
    now.forEach((found, i) => expect(model.difference(ends[i]!, found)).toBeNull());
    this.#checkLeaves();
    space.tables.unmap(model.base, model.base + 2 * SZ_1G);
    space.flush();
    expect(space.tables.bytes).toBe(PAGE_SIZE);
    expect(space.used).toBe(1);
    expect([...space.reachable()]).toEqual([space.tables.root]);
    space.tables.destroy();
    expect(space.used).toBe(0);
  }

  /** The leaves are as many bytes as the model has pages, in order, and none overlaps. */
  #checkLeaves(): void {
    let end = 0;
    let bytes = 0;
    for (const leaf of this.space.tables.forEachLeaf(this.model.base, this.model.base + 2 * SZ_1G)) {
      expect(CLASS_SIZE).toContain(leaf.size);
      expect(leaf.va).toBeGreaterThanOrEqual(end);
      end = leaf.va + leaf.size;
      bytes += leaf.size;
    }
    expect(bytes).toBe(this.model.pas.reduce((n, pa) => (pa === -1 ? n : n + PAGE_SIZE), 0));
  }
}

/**
 * Entries that walks reach are written last, only where they change, and neighbours in one write; a table that was not
 * reachable is written before.
 */
function checkWrites(events: readonly TableEvent[], reachable: ReadonlySet<number>, vram: Uint32Array): void {
  let shared = false;
  let behind = -1;
  for (const event of events) {
    if (event.kind !== "write") continue;
    const table = event.pa - (event.pa % PAGE_SIZE);
    if (!reachable.has(table)) {
      if (shared) expect.fail("a new table is written after an entry that leads to it");
      vram.set(event.words, event.pa / 4);
      behind = -1;
      continue;
    }
    shared = true;
    if (event.pa === behind) expect.fail("neighbours in two writes");
    for (let i = 0; i < event.words.length; i += 2) {
      const at = event.pa / 4 + i;
      if (vram[at] === event.words[i] && vram[at + 1] === event.words[i + 1])
        expect.fail("an unchanged entry is written");
    }
    vram.set(event.words, event.pa / 4);
    behind = (event.pa + event.words.byteLength) % PAGE_SIZE === 0 ? -1 : event.pa + event.words.byteLength;
  }
}

const SPACES: readonly [
  name: string,
  leafSizes: readonly number[],
  options: PageTableOptions,
  base: number,
  runs: number,
][] = [
  ["4 levels, all sizes", ALL_SIZES, {}, 0x7f00_0000_0000, 14],
  ["5 levels, all sizes", ALL_SIZES, { levels: 5 }, 5 * 2 ** 48 + 3 * SZ_1G, 8],
  ["64 KiB by hints only", ALL_SIZES, { compact: false }, 2 ** 39 - SZ_1G, 10],
  ["4 KiB and 2 MiB", [PAGE_SIZE, SZ_2M], {}, 0, 8],
  ["4 KiB and 64 KiB", [PAGE_SIZE, SZ_64K], {}, 0x7f00_0000_0000, 6],
];

describe("random updates translate as a flat map of pages", () => {
  test.each(SPACES)(
    "%s",
    async (_name, leafSizes, options, base, numRuns) => {
      // A mapping of 1 GiB in small leaves fills the aperture.
      const tame = anyOp.filter(
        (op) => op.kind !== "map" || op.pages < 262144 || (leafSizes.includes(SZ_2M) && /1G|2M|null/.test(op.style)),
      );
      await fc.assert(
        fc.asyncProperty(fc.array(tame, { minLength: 1, maxLength: 14, size: "max" }), async (steps) => {
          const checked = new Checked(leafSizes, options, base);
          await checked.start();
          for (const op of steps) await checked.step(op);
          await checked.finish();
        }),
        { numRuns },
      );
    },
    30000,
  );
});
