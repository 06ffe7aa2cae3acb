import { describe, expect, test } from "vitest";
import { ENOMEM, isErr } from "../../src/base/errno.ts";
import { Completion } from "../../src/base/locks.ts";
import { DmaResv, RESV_USAGE_BOOKKEEP } from "../../src/gpuvm/dma-resv.ts";
import type { BuddyBlock } from "../../src/vram/buddy.ts";
import { USAGE_BOOKKEEP, USAGE_KERNEL } from "../../src/vram/fence.ts";
import type { Fence } from "../../src/vram/fence.ts";
import { LruBulkMove } from "../../src/vram/lru.ts";
import { PL_DESIRED, PL_SYSTEM, PL_TT, PL_VRAM } from "../../src/vram/place.ts";
import { GARBAGE, Rig, SYSTEM, SZ_2M, SZ_4K, SZ_64K, TT, VRAM } from "./vram-rig.ts";
import type { Bo } from "./vram-rig.ts";

/** Work of a user on the buffer that has not ended. */
function use(rig: Rig, bo: Bo): Completion {
  const fence = new Completion();
  rig.locked(bo, () => {
    const resv = bo.resv as DmaResv;
    resv.reserveFences(1);
    resv.addFence(fence, RESV_USAGE_BOOKKEEP);
  });
  return fence;
}

/** A full heap whose evictions are copies that have not ended. */
function slow(): { rig: Rig; bos: Bo[] } {
  const rig = new Rig();
  const bos = rig.filled();
  rig.isSlow = true;
  return { rig, bos };
}

describe("a pipelined move", () => {
  test("gives the new memory at once, with the copy's fence, and keeps the old as a ghost until the copy has ended", async () => {
    const rig = new Rig();
    const bo = rig.add("x");
    rig.fill(bo, 4);
    rig.isSlow = true;
    expect(rig.validate(bo, [SYSTEM])).toBe(0);
    expect([bo.resource!.memType, bo.resv.fences(USAGE_KERNEL)]).toEqual([PL_SYSTEM, rig.pending]);
    expect(rig.vram.usage).toBe(SZ_2M);
    expect(rig.ttm.pickVictims(VRAM, Infinity)).toEqual([]);
    rig.finish();
    await rig.ttm.drain();
    expect([rig.vram.usage, rig.contentOf(bo)[0], bo.resv.fences(USAGE_BOOKKEEP)]).toEqual([0, 4, []]);
  });

  test("takes its host pages along when it leaves host memory, and only then", async () => {
    const rig = new Rig();
    const bo = rig.add("x", SZ_2M, TT);
    rig.fill(bo, 4);
    rig.isSlow = true;
    expect(rig.validate(bo, [SYSTEM])).toBe(0);
    expect(rig.contentOf(bo)[3]).toBe(4);
    expect(rig.validate(bo, [VRAM])).toBe(0);
    expect([rig.populated, bo.hostPages]).toEqual([1, null]);
    rig.finish();
    await rig.ttm.drain();
    expect([rig.populated, rig.tt.usage, rig.system.usage, rig.contentOf(bo)[3]]).toEqual([0, 0, 0, 4]);
  });

  test("a ghost is no member of the bulk, and its priority is the buffer's", async () => {
    const rig = new Rig();
    const [bulk, resv] = [new LruBulkMove(), new DmaResv("vm")];
    const bos = [..."AB"].map((name) => rig.add(name, SZ_4K, VRAM, { resv }));
    for (const bo of bos) rig.locked(bo, () => rig.ttm.setBulkMove(bo, bulk));
    rig.isSlow = true;
    expect(rig.validate(bos[0]!, [SYSTEM])).toBe(0);
    bulk.moveToTail();
    expect(rig.order).toBe("AB");
    expect(rig.locked(bos[1]!, () => [...rig.vram.resources()].map((res) => res.bulk))).toEqual([null, bulk]);
    rig.finish();
    await rig.ttm.drain();
    expect(rig.order).toBe("B");
  });

  test("a walk that finds nothing better waits for a ghost and takes its memory", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    for (const bo of bos.slice(1)) rig.pin(bo);
    rig.isSlow = true;
    expect(rig.validate(bos[0]!, [SYSTEM])).toBe(0);
    const x = rig.bo("x");
    expect(rig.validate(x, [VRAM], { noWaitGpu: true })).toBe(ENOMEM);
    const later = rig.validate(x, [VRAM]);
    expect(later).toBeInstanceOf(Promise);
    rig.finish();
    expect(await later).toBe(0);
    await rig.ttm.drain();
    expect([rig.order, rig.evicted, rig.vram.usage]).toEqual(["xbcdefg", [], rig.vram.size]);
  });
});

describe("the move fence", () => {
  test("comes with memory that an eviction has freed before its copy has ended", () => {
    const { rig, bos } = slow();
    const x = rig.add("x");
    const [copy, clear] = rig.pending as Fence[];
    expect(rig.vram.moveFences).toEqual([copy]);
    expect(x.resv.fences(USAGE_KERNEL)).toEqual([copy, clear]);
    expect([bos[0]!.resource!.memType, bos[0]!.resv.fences(USAGE_KERNEL)]).toEqual([PL_TT, [copy]]);
    expect(rig.vram.usage).toBe(rig.vram.size);
  });

  test("goes to every later owner of memory of that type until it has signalled, and to no other type's", () => {
    const { rig, bos } = slow();
    rig.add("x");
    rig.isSlow = false;
    rig.ttm.put(bos[3]!);
    expect(rig.add("y").resv.fences(USAGE_KERNEL)).toEqual(rig.vram.moveFences);
    expect(rig.add("z", SZ_4K, TT).resv.fences(USAGE_KERNEL)).toEqual([]);
    rig.finish();
    expect(rig.vram.moveFences).toEqual([]);
    rig.ttm.put(bos[4]!);
    expect(rig.add("v").resv.fences(USAGE_KERNEL)).toEqual([]);
  });

  test("is the last one of a queue, and one for each queue", () => {
    const rig = new Rig();
    const bos = rig.filled();
    const fences: (Fence & Completion)[] = [];
    rig.moveInstead = (bo, to) => {
      rig.copy(bo, to);
      const fence = Object.assign(new Completion(), { context: bos.indexOf(bo) % 2 });
      fences.push(fence);
      return fence;
    };
    rig.add("x", 3 * SZ_2M);
    expect(rig.evicted.join("")).toBe("abc");
    // That of b, then that of c, which stands for that of a.
    expect(rig.vram.moveFences).toEqual([fences[1], fences[2]]);
  });

  test("has eight slots: a ninth queue waits for the oldest, or the memory stays a ghost", async () => {
    const rig = new Rig({ vramBytes: 16 * SZ_2M });
    const bos = [..."abcdefghijklmno"].map((name) => rig.add(name));
    const fences: Completion[] = [];
    rig.moveInstead = (bo, to) => {
      rig.copy(bo, to);
      const fence = Object.assign(new Completion(), { context: bos.indexOf(bo) });
      fences.push(fence);
      return fence;
    };
    for (let i = 0; i < 8; i++) expect(rig.ttm.evict(bos[i]!)).toBe(0);
    expect([rig.vram.moveFences.length, rig.vram.usage]).toEqual([8, 7 * SZ_2M]);
    expect(rig.ttm.evict(bos[8]!, { noWaitGpu: true })).toBe(0);
    expect(rig.vram.usage).toBe(7 * SZ_2M);
    const later = rig.ttm.evict(bos[9]!);
    expect(later).toBeInstanceOf(Promise);
    fences[0]!.complete();
    expect(await later).toBe(0);
    expect([rig.vram.moveFences.length, rig.vram.usage]).toEqual([8, 6 * SZ_2M]);
    for (const fence of fences) fence.complete();
    await rig.ttm.drain();
    expect(rig.vram.usage).toBe(5 * SZ_2M);
  });

  test("with noWaitGpu the memory is given back and the next place tried", () => {
    const { rig, bos } = slow();
    rig.add("x");
    rig.ttm.put(bos[3]!);
    const before = rig.vram.usage;
    const y = rig.bo("y");
    expect(rig.validate(y, [{ ...VRAM, flags: PL_DESIRED }, TT], { noWaitGpu: true })).toBe(0);
    expect([y.resource!.memType, rig.vram.usage]).toEqual([PL_TT, before]);
    // Where no place is left the outcome is that of a full one, not -EBUSY.
    expect(rig.validate(rig.bo("z"), [VRAM], { noWaitGpu: true })).toBe(ENOMEM);
    rig.finish();
    expect(rig.validate(rig.bo("z"), [VRAM], { noWaitGpu: true })).toBe(0);
  });

  test("is none for host memory: its eviction waits for the copy", async () => {
    const rig = new Rig({ ttBytes: SZ_2M });
    const a = rig.add("a", SZ_2M, TT);
    rig.isSlow = true;
    const later = rig.ttm.evict(a);
    expect(later).toBeInstanceOf(Promise);
    expect(rig.tt.usage).toBe(SZ_2M);
    rig.finish();
    expect(await later).toBe(0);
    expect([rig.tt.usage, rig.tt.moveFences]).toEqual([0, []]);
    // Who may not wait leaves it as a ghost.
    expect(rig.validate(a, [TT])).toBe(0);
    rig.finish();
    await rig.ttm.drain();
    expect(rig.ttm.evict(a, { noWaitGpu: true })).toBe(0);
    expect([rig.tt.usage, rig.contentOf(a).length]).toEqual([SZ_2M, 512]);
    rig.finish();
    await rig.ttm.drain();
    expect(rig.tt.usage).toBe(0);
  });
});

describe("deleting", () => {
  test("an idle buffer frees its memory at once", () => {
    const rig = new Rig();
    const a = rig.add("a");
    rig.ttm.get(a);
    rig.ttm.put(a);
    expect(rig.vram.usage).toBe(SZ_2M);
    rig.ttm.put(a);
    expect([rig.vram.usage, a.deleted]).toEqual([0, true]);
  });

  test("a busy one frees it when its fences have signalled", async () => {
    const rig = new Rig();
    const a = rig.add("a");
    const fences = [use(rig, a), use(rig, a)];
    rig.ttm.put(a);
    fences[0]!.complete();
    await Promise.resolve();
    expect([rig.vram.usage, rig.order]).toEqual([SZ_2M, "a"]);
    fences[1]!.complete();
    await rig.ttm.drain();
    expect([rig.vram.usage, a.resource]).toEqual([0, null]);
  });

  test("one of several under a reservation is not kept by what the others do later, nor keeps them", async () => {
    const rig = new Rig();
    const resv = new DmaResv("vm");
    const [a, b] = [rig.add("a", SZ_2M, VRAM, { resv }), rig.add("b", SZ_2M, VRAM, { resv })];
    const mine = use(rig, a);
    const guard = resv.tryLock()!;
    rig.ttm.put(a);
    guard.release();
    expect(a.resv).not.toBe(resv);
    use(rig, b);
    mine.complete();
    await rig.ttm.drain();
    expect(rig.order).toBe("b");
  });

  test("a walk may reclaim it earlier; it is not copied anywhere", async () => {
    const rig = new Rig();
    const [a, ...rest] = rig.filled() as [Bo, ...Bo[]];
    const fence = use(rig, a);
    rig.ttm.put(a);
    for (const bo of rest) bo.roundPin();
    const x = rig.bo("x");
    expect(rig.validate(x, [VRAM], { noWaitGpu: true })).toBe(ENOMEM);
    const later = rig.validate(x, [VRAM]) as Promise<number>;
    fence.complete();
    expect([await later, rig.moves]).toEqual([0, []]);
    await rig.ttm.drain();
    expect([rig.order, rig.vram.usage]).toEqual(["bcdefgx", rig.vram.size]);
  });

  test("dropping the content of a busy buffer keeps the memory as a ghost and the buffer usable", async () => {
    const rig = new Rig();
    const a = rig.add("a");
    const fence = use(rig, a);
    expect(rig.validate(a, [])).toBe(0);
    expect([a.resource, rig.vram.usage]).toEqual([null, SZ_2M]);
    expect(rig.validate(a, [VRAM])).toBe(0);
    expect(rig.vram.usage).toBe(2 * SZ_2M);
    fence.complete();
    await rig.ttm.drain();
    expect([rig.order, a.resource!.memType]).toEqual(["a", PL_VRAM]);
  });
});

describe("what the last tenant left", () => {
  test("is never seen by the next one", () => {
    const rig = new Rig();
    const a = rig.add("a");
    expect(new Set(rig.contentOf(a))).toEqual(new Set([0]));
    rig.fill(a, 7);
    rig.ttm.put(a);
    expect(new Set(rig.contentOf(rig.add("b")))).toEqual(new Set([0]));
    // What the manager hands out before it is cleared is dirty indeed.
    const raw = rig.bo("raw", SZ_4K);
    const res = rig.vram.alloc(raw, VRAM, {});
    if (isErr(res)) throw new Error(`alloc: ${res}`);
    expect([res.isCleared, rig.contentOf(raw, res)[0]]).toEqual([false, GARBAGE]);
  });

  test("memory freed as zero is clear to who asks for it, is not cleared again, and dirty afterwards", () => {
    const rig = new Rig();
    let clears = 0;
    const clear = rig.clear.bind(rig);
    rig.clear = (bo, blocks) => {
      clears += 1;
      return clear(bo, blocks);
    };
    rig.releaseNotify = (bo) => {
      if (bo.owner !== "a") return;
      rig.fill(bo, 0);
      bo.resource!.content = "zero";
    };
    rig.ttm.put(rig.add("a"));
    expect([rig.vram.clearAvail, clears]).toEqual([SZ_2M, 1]);
    const b = rig.add("b", SZ_2M, VRAM, { clear: true });
    expect([b.resource!.isCleared, clears, rig.contentOf(b)[0]]).toEqual([true, 1, 0]);
    rig.ttm.put(b);
    expect(rig.vram.clearAvail).toBe(0);
  });

  test("memory that went back unused is as clear as it was", () => {
    const rig = new Rig();
    rig.releaseNotify = (bo) => {
      rig.fill(bo, 0);
      bo.resource!.content = "zero";
    };
    rig.ttm.put(rig.add("a", SZ_64K));
    expect(rig.vram.clearAvail).toBe(SZ_64K);
    rig.moveNotify = () => ENOMEM;
    const b = rig.bo("b", SZ_64K, { clear: true });
    expect(rig.validate(b, [VRAM])).toBe(ENOMEM);
    expect(rig.vram.clearAvail).toBe(SZ_64K);
  });

  test("only dirty blocks are cleared, and the fence of that is in the reservation", () => {
    const rig = new Rig({ vramBytes: SZ_2M, ptBytes: SZ_64K });
    const pages = Array.from({ length: 496 }, (_, i) => rig.add(`${i}`, SZ_4K));
    rig.releaseNotify = (bo) => {
      if (bo.owner !== "20") return;
      rig.fill(bo, 0);
      bo.resource!.content = "zero";
    };
    // Two pages that do not touch are all that is free: one clear, one dirty.
    rig.ttm.put(pages[20]!);
    rig.fill(pages[30]!, 5);
    rig.ttm.put(pages[30]!);
    rig.isSlow = true;
    const cleared: BuddyBlock[] = [];
    const clear = rig.clear.bind(rig);
    rig.clear = (bo, blocks) => {
      cleared.push(...blocks);
      return clear(bo, blocks);
    };
    const b = rig.add("b", 2 * SZ_4K, VRAM, { clear: true });
    const { blocks } = b.resource!;
    expect(blocks.map((block) => block.cleared)).toEqual([true, false]);
    expect(cleared).toEqual([blocks[1]]);
    expect(b.resv.fences(USAGE_KERNEL)).toEqual(rig.pending);
    expect(rig.contentOf(b)).toEqual(Uint16Array.of(0, 0));
  });
});
