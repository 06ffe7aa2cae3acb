import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_2M, SZ_4K, SZ_64K } from "../../src/base/addr.ts";
import { InvariantError } from "../../src/base/assert.ts";
import { E2BIG, EBUSY, EINVAL, EIO, ENOMEM, ENOSPC, isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { PtAperture } from "../../src/vram/pt-aperture.ts";
import { RoundPins } from "../../src/vram/vram-bo.ts";
import type { VramBo } from "../../src/vram/vram-bo.ts";
import { VramManager } from "../../src/vram/vram-manager.ts";
import type { VramPlace } from "../../src/vram/vram-manager.ts";

const PT = SZ_2M;
const manager = (budget?: number): VramManager<string> =>
  new VramManager({ vramBytes: 8 * SZ_2M, ptBytes: PT, ...(budget === undefined ? {} : { budget }) });

function add(vram: VramManager<string>, owner: string, place: VramPlace = { size: SZ_2M }): VramBo<string> {
  const bo = vram.createBo(owner, place);
  if (isErr(bo)) throw new Error(`${owner}: ${bo}`);
  return bo;
}
const names = (bos: Iterable<VramBo<string>>): string => [...bos].map((bo) => bo.owner).join("");
const filled = (): { vram: VramManager<string>; bos: VramBo<string>[] } => {
  const vram = manager();
  return { vram, bos: [..."abcdefg"].map((name) => add(vram, name)) };
};

describe("places", () => {
  test("buffers never lie in the page-table aperture", () => {
    const { vram, bos } = filled();
    expect(vram.available).toBe(0);
    for (const bo of bos) for (const b of bo.blocks) expect(b.offset).toBeGreaterThanOrEqual(PT);
    expect(vram.createBo("h", { size: SZ_4K })).toBe(ENOSPC);
  });

  test("buffers of 2 MiB and up get 2 MiB blocks, smaller ones where there are none", () => {
    const vram = manager();
    expect(add(vram, "a", { size: 2 * SZ_2M }).blocks.every((b) => b.size % SZ_2M === 0)).toBe(true);
    const holes: VramBo<string>[] = [];
    for (let i = 0; i < 5 * 32; i++) holes.push(add(vram, "x", { size: SZ_64K, minBlock: SZ_64K }));
    for (let i = 0; i < holes.length; i += 2) vram.free(holes[i]!);
    expect(add(vram, "b").blocks.every((b) => b.size === SZ_64K)).toBe(true);
  });

  test.each<[string, VramPlace, Errno]>([
    ["larger than the heap", { size: 7 * SZ_2M + SZ_4K }, E2BIG],
    ["larger than its range", { size: SZ_2M, start: PT, end: PT + SZ_64K }, E2BIG],
    ["a range in the aperture", { size: SZ_4K, start: 0, end: PT }, E2BIG],
    ["no multiple of its block", { size: SZ_4K, minBlock: SZ_64K }, EINVAL],
    ["nothing", { size: 0 }, EINVAL],
    ["a range that is not page aligned", { size: SZ_4K, start: PT + 1 }, EINVAL],
  ])("%s is refused without eviction", (_name, place, errno) => {
    const vram = manager();
    const evict = (): never => {
      throw new Error("evicted for the impossible");
    };
    expect(vram.evictAlloc("x", place, evict)).toBe(errno);
  });

  test("a contiguous buffer says so, and top-down takes the highest address", () => {
    const vram = manager();
    expect(add(vram, "a", { size: 3 * SZ_4K, contiguous: true }).isContiguous).toBe(true);
    const low = add(vram, "b", { size: SZ_4K, start: PT, end: PT + SZ_64K });
    expect(low.blocks[0]!.offset).toBe(PT);
    const high = add(vram, "c", { size: SZ_4K, topDown: true });
    expect(high.blocks[0]!.offset).toBeGreaterThan(7 * SZ_2M);
  });

  test("memory freed as cleared is clear to who asks for it, and dirty otherwise", () => {
    const vram = manager();
    const a = add(vram, "a");
    expect(a.isCleared).toBe(false);
    vram.free(a, true);
    expect(vram.clearAvail).toBe(SZ_2M);
    const b = add(vram, "b", { size: SZ_2M, clear: true });
    expect(b.isCleared).toBe(true);
    vram.free(b);
    expect(vram.clearAvail).toBe(0);
  });
});

describe("the budget", () => {
  test("is never exceeded, although the heap has room", () => {
    const vram = manager(3 * SZ_2M);
    for (const name of "abc") add(vram, name);
    expect(vram.createBo("d", { size: SZ_4K })).toBe(ENOSPC);
    expect(vram.createBo("d", { size: 4 * SZ_2M })).toBe(E2BIG);
    expect(vram.usage).toBe(3 * SZ_2M);
  });

  test("is kept when a contiguous buffer would hold more than was asked for", () => {
    const at = 64 * SZ_4K;
    // Free: two pages below `at`, four from it, and one more; contiguous 24 KiB in blocks of 8 KiB then takes all seven.
    const free = [at - 2 * SZ_4K, at - SZ_4K, at, at + SZ_4K, at + 2 * SZ_4K, at + 3 * SZ_4K, at + 4 * SZ_4K];
    const take = (budgetPages: number): VramBo<string> | Errno => {
      const vram = new VramManager<string>({ vramBytes: SZ_2M, ptBytes: SZ_64K, budget: budgetPages * SZ_4K });
      const page = (pa: number): VramBo<string> => add(vram, "x", { size: SZ_4K, start: pa, end: pa + SZ_4K });
      vram.free(page(free[6]!), true);
      for (let pa = SZ_64K; pa < SZ_2M; pa += SZ_4K) if (!free.includes(pa)) page(pa);
      const bo = vram.createBo("y", { size: 6 * SZ_4K, minBlock: 2 * SZ_4K, contiguous: true });
      expect(vram.usage).toBeLessThanOrEqual(vram.budget);
      return bo;
    };
    const pages = (SZ_2M - SZ_64K) / SZ_4K;
    expect(take(pages)).toMatchObject({ size: 7 * SZ_4K });
    expect(take(pages - 1)).toBe(ENOSPC);
  });

  test("counts the blocks that a buffer really holds", () => {
    const vram = manager(SZ_2M);
    const bo = add(vram, "a", { size: 3 * SZ_4K });
    expect(vram.usage).toBe(bo.size);
    vram.free(bo);
    expect(vram.usage).toBe(0);
  });
});

describe("the order of eviction", () => {
  test("is by priority, then least recently used", () => {
    const vram = manager();
    const a = add(vram, "a", { size: SZ_4K, priority: 1 });
    const b = add(vram, "b", { size: SZ_4K });
    add(vram, "c", { size: SZ_4K });
    expect(names(vram.pickVictims(Infinity))).toBe("bca");
    vram.touch(b);
    vram.touch(a);
    expect(names(vram.pickVictims(Infinity))).toBe("cba");
  });

  test("a set of victims is just large enough", () => {
    const { vram } = filled();
    expect(names(vram.pickVictims(2 * SZ_2M))).toBe("ab");
    expect(names(vram.pickVictims(2 * SZ_2M + 1))).toBe("abc");
    expect(vram.pickVictims(0)).toEqual([]);
  });

  test("passes over pinned, round-pinned and locked buffers, and over them only", () => {
    const { vram, bos } = filled();
    const round = new RoundPins();
    vram.pin(bos[0]!);
    vram.pin(bos[0]!);
    round.roundPin(bos[1]!);
    round.roundPin(bos[1]!);
    const guard = bos[2]!.lock.tryLock()!;
    expect(names(vram.pickVictims(Infinity))).toBe("defg");
    expect([vram.pinnedBytes, round.bytes]).toEqual([SZ_2M, SZ_2M]);
    guard.release();
    round.clearRoundPins();
    vram.unpin(bos[0]!);
    expect(names(vram.pickVictims(Infinity))).toBe("bcdefg");
    vram.unpin(bos[0]!);
    // The last unpin puts a buffer to the tail.
    expect(names(vram.pickVictims(Infinity))).toBe("bcdefga");
    expect([vram.pinnedBytes, round.bytes]).toEqual([0, 0]);
  });

  test("two rounds pin for themselves", () => {
    const { vram, bos } = filled();
    const [one, two] = [new RoundPins(), new RoundPins()];
    one.roundPin(bos[0]!);
    two.roundPin(bos[0]!);
    one.clearRoundPins();
    expect(bos[0]!.isRoundPinned).toBe(true);
    two.clearRoundPins();
    expect(names(vram.pickVictims(1))).toBe("a");
  });
});

test("the example at the top of vram-manager.ts", async () => {
  const { vram } = filled();
  const copyHomeAndFree = async (bo: VramBo<string>): Promise<void> => {
    await Promise.resolve();
    vram.free(bo);
  };
  let bo = vram.createBo("mine", { size: SZ_2M, minBlock: SZ_64K });
  if (bo === ENOSPC) {
    await Promise.all(vram.pickVictims(SZ_2M).map(copyHomeAndFree));
    bo = vram.createBo("mine", { size: SZ_2M, minBlock: SZ_64K });
  }
  expect(bo).toMatchObject({ owner: "mine" });
  expect(names(vram.bos())).toBe("bcdefgmine");
});

describe("allocating by eviction", () => {
  test("evicts one after the other, under its lock, only as many as needed, and without a promise if it can", () => {
    const { vram } = filled();
    const evicted: string[] = [];
    const bo = vram.evictAlloc("x", { size: 2 * SZ_2M }, (victim) => {
      expect(victim.lock.isHeld).toBe(true);
      evicted.push(victim.owner);
      vram.free(victim);
      return 0;
    });
    expect(bo).toMatchObject({ owner: "x", size: 2 * SZ_2M });
    expect(evicted.join("")).toBe("ab");
    expect(names(vram.bos())).toBe("cdefgx");
  });

  test("waits for an eviction that takes time, while others may look for victims too", async () => {
    const { vram } = filled();
    const slowly = async (victim: VramBo<string>): Promise<0> => {
      await Promise.resolve();
      vram.free(victim);
      return 0;
    };
    const [x, y] = await Promise.all([
      vram.evictAlloc("x", { size: SZ_2M }, slowly),
      vram.evictAlloc("y", { size: SZ_2M }, slowly),
    ]);
    expect([isErr(x), isErr(y)]).toEqual([false, false]);
    expect(names(vram.bos())).toBe("cdefgxy");
    expect(vram.usage).toBe(vram.size);
  });

  test("a busy victim is passed over, another error ends the walk, and a lock is always released", async () => {
    const { vram, bos } = filled();
    const answers: Record<string, 0 | Errno> = { a: EBUSY, b: EBUSY };
    const evict = (victim: VramBo<string>): 0 | Errno => {
      const answer = answers[victim.owner] ?? 0;
      if (answer === 0) vram.free(victim);
      return answer;
    };
    expect(vram.evictAlloc("x", { size: SZ_2M }, evict)).toMatchObject({ owner: "x" });
    expect(names(vram.bos())).toBe("abdefgx");
    expect(vram.evictAlloc("y", { size: SZ_2M }, () => EIO)).toBe(EIO);
    await expect(vram.evictAlloc("y", { size: SZ_2M }, () => Promise.reject(new Error("lost")))).rejects.toThrow("lost");
    expect(bos.some((bo) => bo.lock.isHeld)).toBe(false);
  });

  test("ends with -ENOSPC when nothing may leave", () => {
    const { vram, bos } = filled();
    for (const bo of bos) vram.pin(bo);
    expect(vram.evictAlloc("x", { size: SZ_4K }, () => 0)).toBe(ENOSPC);
    expect(names(vram.bos())).toBe("abcdefg");
  });

  test("only buffers that lie in the wanted range are evicted", () => {
    const { vram, bos } = filled();
    const { offset } = bos[3]!.blocks[0]!;
    const evicted: string[] = [];
    const bo = vram.evictAlloc("x", { size: SZ_4K, start: offset, end: offset + SZ_64K }, (victim) => {
      evicted.push(victim.owner);
      vram.free(victim);
      return 0;
    });
    expect(isErr(bo)).toBe(false);
    expect(evicted).toEqual(["d"]);
  });
});

describe("misuse is a bug that is named", () => {
  test("freeing twice, freeing a pinned buffer, unpinning too often", () => {
    const vram = manager();
    const a = add(vram, "a");
    vram.pin(a);
    expect(() => vram.free(a)).toThrow(InvariantError);
    vram.unpin(a);
    expect(() => vram.unpin(a)).toThrow(InvariantError);
    const b = add(vram, "b");
    vram.free(b);
    expect(() => vram.free(b)).toThrow(InvariantError);
  });
});

describe("the page-table aperture", () => {
  test("hands out every page but the first two, and takes them back", () => {
    const pt = new PtAperture(16 * PAGE_SIZE);
    const pages = Array.from({ length: 14 }, () => pt.alloc());
    expect(new Set(pages).size).toBe(14);
    expect(Math.min(...pages)).toBe(2 * PAGE_SIZE);
    expect(pt.alloc()).toBe(ENOMEM);
    pt.free(pages[3]!);
    expect(pt.usage).toBe(13 * PAGE_SIZE);
    expect(pt.alloc()).toBe(pages[3]);
    pt.free(pages[3]!);
    expect(() => pt.free(pages[3]!)).toThrow(InvariantError);
  });
});

test("under random use, usage is the sum of live buffers within the budget, and buffers never share memory", () => {
  const step = fc.record({
    what: fc.constantFrom("create", "create", "create", "evict", "free", "touch", "pin", "unpin"),
    pages: fc.integer({ min: 1, max: 300 }),
    pick: fc.nat(),
    priority: fc.integer({ min: 0, max: 3 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80, size: "max" }), (steps) => {
      const vram = new VramManager<number>({ vramBytes: 2 * SZ_2M, ptBytes: SZ_64K, budget: 800 * PAGE_SIZE });
      const live = new Set<VramBo<number>>();
      steps.forEach((s, i) => {
        const bo = [...live][s.pick % Math.max(1, live.size)];
        const place = { size: s.pages * PAGE_SIZE, priority: s.priority };
        if (s.what === "create") {
          const made = vram.createBo(i, place);
          if (!isErr(made)) live.add(made);
        } else if (s.what === "evict") {
          const evictable = [...live].filter((b) => b.pinCount === 0).reduce((sum, b) => sum + b.size, vram.available);
          const made = vram.evictAlloc(i, place, (victim) => {
            expect(victim.pinCount).toBe(0);
            vram.free(victim);
            live.delete(victim);
            return 0;
          }) as VramBo<number> | Errno;
          if (isErr(made)) expect(evictable).toBeLessThan(place.size);
          else live.add(made);
        } else if (bo !== undefined) {
          if (s.what === "touch") vram.touch(bo);
          else if (s.what === "pin") vram.pin(bo);
          else if (s.what === "unpin" && bo.pinCount > 0) vram.unpin(bo);
          else if (s.what === "free" && bo.pinCount === 0) {
            vram.free(bo);
            live.delete(bo);
          }
        }
        const blocks = [...live].flatMap((b) => [...b.blocks]).sort((a, b) => a.offset - b.offset);
        blocks.slice(1).forEach((b, k) => expect(b.offset).toBeGreaterThanOrEqual(blocks[k]!.offset + blocks[k]!.size));
        expect(vram.usage).toBe(blocks.reduce((sum, b) => sum + b.size, 0));
        expect(vram.usage).toBeLessThanOrEqual(vram.budget);
        expect(new Set(vram.bos())).toEqual(live);
      });
    }),
    { numRuns: 25 },
  );
});
