import { describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import {
  DMA_BIDIRECTIONAL,
  DMA_TO_DEVICE,
  type DmaDirection,
  type SlotRun,
  SystemWindow,
  type WindowPort,
} from "../../src/mm/dma.ts";
import type { PhysMemory } from "../../src/mm/phys-mem.ts";
import { SlotList } from "../../src/mm/slot-list.ts";
import { SlotSet } from "../../src/mm/slot-set.ts";
import { PAGE, testPhys } from "./mm-fake-device.ts";

/** A window's memory of words, one per slot; copies back are held until the test lets them go. */
class WordPort implements WindowPort {
  readonly words = new Map<number, number>();
  readonly copiedIn: string[] = [];
  readonly copiedBack: string[] = [];
  hold: Promise<void> = Promise.resolve();
  readonly #phys: PhysMemory;

  constructor(phys: PhysMemory) {
    this.#phys = phys;
  }

  copyIn(runs: readonly SlotRun[]): void {
    for (const { frame, slot, pages } of runs) {
      this.copiedIn.push(`${frame} to ${slot}, ${pages}`);
      for (let i = 0; i < pages; i++) this.words.set(slot + i, this.#phys.words[((frame + i) * PAGE) / 4]!);
    }
  }

  async copyOut(runs: readonly SlotRun[]): Promise<void> {
    await this.hold;
    for (const { frame, slot, pages } of runs) {
      this.copiedBack.push(`${slot} to ${frame}, ${pages}`);
      for (let i = 0; i < pages; i++) this.#phys.words[((frame + i) * PAGE) / 4] = this.words.get(slot + i)!;
    }
  }
}

/** RAM frames `[FIRST, FIRST + frames)` stand for a process's; the CPU's stores are announced as the mm does. */
const FIRST = 8;

function setUp(slots: number, frames: number) {
  const phys = testPhys(FIRST + frames + 8);
  const port = new WordPort(phys);
  const window = new SystemWindow(phys, port, slots * PAGE);
  const store = (pfn: number, word: number) => {
    phys.words[(pfn * PAGE) / 4] = word;
    phys.slotsBecomeStale(pfn, null);
  };
  const pfns = (first: number, count: number) => Float64Array.from({ length: count }, (_, i) => FIRST + first + i);
  return { phys, port, window, store, pfns };
}

describe("the order in which slots were added", () => {
  test("as an array has it, under any sequence of additions and removals", () => {
    const random = new Random(5);
    const list = new SlotList(40);
    const model: number[] = [];
    for (let step = 0; step < 4000; step++) {
      const slot = 1 + random.below(39);
      if (random.below(2) === 0) {
        list.add(slot);
        if (!model.includes(slot)) model.push(slot);
      } else {
        list.delete(slot);
        if (model.includes(slot)) model.splice(model.indexOf(slot), 1);
      }
      expect([list.oldest, list.count, list.has(slot)]).toEqual([model[0] ?? 0, model.length, model.includes(slot)]);
    }
    while (list.oldest !== 0) {
      expect(list.oldest).toBe(model.shift());
      list.delete(list.oldest);
    }
    expect(model).toEqual([]);
  });
});

describe("slots to work off", () => {
  test("come in ascending order, each once, whatever was added and taken out", () => {
    const random = new Random(6);
    const set = new SlotSet(200);
    const model = new Set<number>();
    for (let step = 0; step < 300; step++) {
      for (let k = random.below(6); k > 0; k--) {
        const slot = random.below(200);
        if (random.below(3) > 0) {
          set.add(slot);
          model.add(slot);
        } else {
          set.delete(slot);
          model.delete(slot);
        }
      }
      const found: number[] = [];
      for (let slot = set.next(0); slot >= 0; slot = set.next(slot + 1)) found.push(slot);
      expect(found).toEqual([...model].sort((a, b) => a - b));
      expect(set.isEmpty).toBe(model.size === 0);
      if (random.below(10) > 0) continue;
      for (const slot of model) set.delete(slot);
      model.clear();
    }
  });

  test("the last slot of the last word counts", () => {
    const set = new SlotSet(64);
    set.add(63);
    expect([set.next(0), set.next(63), set.next(64)]).toEqual([63, 63, -1]);
  });
});

describe("many pages at a time", () => {
  test.each([1, 2, 3, 4])(
    "is the same as page by page: places, refusals, copies and waits (program %i)",
    async (seed) => {
      const [one, many] = [setUp(24, 48), setUp(24, 48)];
      const random = new Random(seed);
      const live: { addrs: Float64Array; dir: DmaDirection }[] = [];
      for (let step = 0; step < 400; step++) {
        const roll = random.below(10);
        if (roll < 4) {
          const dir = random.below(2) === 0 ? DMA_TO_DEVICE : DMA_BIDIRECTIONAL;
          const pfns = one.pfns(random.below(40), 1 + random.below(8));
          // Sometimes one of them cannot be mapped.
          const fails = random.below(6) === 0 ? 1 + random.below(pfns.length) : 0;
          for (const { phys } of [one, many]) {
            let asked = 0;
            phys.failpoint = (site) => site === "dma-map" && ++asked === fails;
          }
          const byOne: number[] = [];
          for (const pfn of pfns) {
            const addr = one.window.map(pfn, dir);
            if (addr < 0) break;
            byOne.push(addr);
          }
          const out = new Float64Array(pfns.length + 2);
          const mapped = many.window.mapPages(Float64Array.of(0, ...pfns, 0), 1, pfns.length, dir, out);
          expect([...out.subarray(0, mapped)]).toEqual(byOne);
          expect(many.window.refusals).toBe(one.window.refusals);
          if (mapped > 0) live.push({ addrs: out.slice(0, mapped), dir });
        } else if (roll < 7 && live.length > 0) {
          const [{ addrs, dir }] = live.splice(random.below(live.length), 1) as [(typeof live)[0]];
          const waits = [...addrs].map((addr) => one.window.unmap(addr, dir));
          const done = many.window.unmapPages(Float64Array.of(0, ...addrs, 0), 1, addrs.length, dir);
          expect(done === undefined).toBe(waits.every((wait) => wait === undefined));
          await Promise.all([...waits, done]);
        } else if (roll < 8) {
          const [pfn, word] = [FIRST + random.below(48), step];
          for (const { phys, store } of [one, many]) {
            await phys.syncForCpu(pfn);
            store(pfn, word);
          }
        } else {
          const bi = live.filter(({ dir }) => dir === DMA_BIDIRECTIONAL);
          const writes = bi.flatMap(({ addrs }) => [...addrs]);
          for (const { window, port } of [one, many]) {
            await window.submitWith(writes, () => {
              for (const addr of writes) port.words.set(addr / PAGE, 1000 + step);
            });
          }
        }
        expect(many.window.available).toBe(one.window.available);
      }
      expect(one.port.copiedBack.length).toBeGreaterThan(5);
      expect(many.port.copiedIn).toEqual(one.port.copiedIn);
      expect(many.port.copiedBack).toEqual(one.port.copiedBack);
      expect(many.phys.words).toEqual(one.phys.words);
    },
  );

  test("unmapping waits for every transfer that brings some of them back", async () => {
    const { window, port, pfns } = setUp(8, 4);
    const addrs = new Float64Array(4);
    window.mapPages(pfns(0, 4), 0, 4, DMA_BIDIRECTIONAL, addrs);
    await window.submitWith([...addrs], () => undefined);
    const releases: (() => void)[] = [];
    const hold = () => (port.hold = new Promise((release) => releases.push(release)));
    hold();
    void window.syncForCpu(FIRST);
    await Promise.resolve();
    hold();
    let isOver = false;
    const done = Promise.resolve(window.unmapPages(addrs, 0, 4, DMA_BIDIRECTIONAL)).then(() => (isOver = true));
    await Promise.resolve();
    releases[0]!();
    for (let i = 0; i < 10; i++) await Promise.resolve();
    expect([isOver, port.copiedBack]).toEqual([false, ["1 to 8, 1"]]);
    releases[1]!();
    await done;
    expect(port.copiedBack).toEqual(["1 to 8, 1", "2 to 9, 3"]);
  });
});

describe("much that is mapped together", () => {
  const MANY = 512;

  test("sets out before the submission that wants it, which then has nothing left to copy", () => {
    const { window, port, pfns, store } = setUp(MANY + 8, MANY);
    const addrs = new Float64Array(MANY);
    for (let i = 0; i < MANY; i++) store(FIRST + i, i + 1);
    window.mapPages(pfns(0, MANY - 1), 0, MANY - 1, DMA_TO_DEVICE, addrs);
    expect(port.copiedIn, "511 pages wait").toEqual([]);
    window.mapPages(pfns(MANY - 1, 1), 0, 1, DMA_TO_DEVICE, addrs);
    expect(port.copiedIn).toEqual([`${FIRST} to 1, ${MANY}`]);
    window.submitWith([], () => undefined);
    expect(port.copiedIn).toHaveLength(1);
  });

  test("what the CPU stores between the two is in the window all the same", () => {
    const { window, port, pfns, store } = setUp(MANY + 8, MANY);
    const addrs = new Float64Array(MANY);
    window.mapPages(pfns(0, MANY), 0, MANY, DMA_TO_DEVICE, addrs);
    store(FIRST + 7, 77);
    window.submitWith([], () => expect(port.words.get(addrs[7]! / PAGE)).toBe(77));
    expect(port.copiedIn).toEqual([`${FIRST} to 1, ${MANY}`, `${FIRST + 7} to 8, 1`]);
  });

  test("a page that another device has written goes when its bytes are home, and not before", async () => {
    const { phys, window, port, pfns } = setUp(MANY + 8, MANY);
    const otherPort = new WordPort(phys);
    const other = new SystemWindow(phys, otherPort, 4 * PAGE);
    const there = other.map(FIRST + 3, DMA_BIDIRECTIONAL);
    await other.submitWith([there], () => otherPort.words.set(there / PAGE, 99));
    const addrs = new Float64Array(MANY);
    window.mapPages(pfns(0, MANY), 0, MANY, DMA_TO_DEVICE, addrs);
    expect(port.copiedIn).toEqual([`${FIRST} to 1, 3`, `${FIRST + 4} to 5, ${MANY - 4}`]);
    await window.submitWith([], () => expect(port.words.get(addrs[3]! / PAGE)).toBe(99));
    expect(port.copiedIn.slice(2)).toEqual([`${FIRST + 3} to 4, 1`]);
  });
});
