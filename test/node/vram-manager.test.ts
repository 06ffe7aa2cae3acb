import { describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G } from "../../src/base/addr.ts";
import { InvariantError } from "../../src/base/assert.ts";
import { E2BIG, EINVAL, ENOMEM, ENOSPC, isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { DmaResv } from "../../src/gpuvm/dma-resv.ts";
import { HostManager } from "../../src/vram/host-manager.ts";
import { LruBulkMove } from "../../src/vram/lru.ts";
import { PL_CONTIGUOUS, PL_SYSTEM, PL_TOPDOWN, PL_VRAM } from "../../src/vram/place.ts";
import type { TtmPlace } from "../../src/vram/place.ts";
import { PtAperture } from "../../src/vram/pt-aperture.ts";
import { TtmBo } from "../../src/vram/ttm-bo.ts";
import { TtmDevice } from "../../src/vram/ttm-device.ts";
import { VramManager } from "../../src/vram/vram-manager.ts";
import { PT, Rig, SYSTEM, SZ_2M, SZ_4K, SZ_64K, VRAM } from "./vram-rig.ts";
import type { Bo } from "./vram-rig.ts";

const page = (pa: number): number => pa / PAGE_SIZE;

test("the example at the top of ttm-device.ts", async () => {
  const rig = new Rig();
  const [vramBytes, ptBytes, ram] = [8 * SZ_2M, SZ_2M, SZ_1G];
  const ttm = new TtmDevice<string>(rig, [new VramManager({ vramBytes, ptBytes }), new HostManager(PL_SYSTEM, ram)]);
  const bo = new TtmBo("mine", { size: SZ_2M, resv: new DmaResv("mine") });
  const guard = await bo.resv.lock();
  const err = await ttm.validate(bo, [{ memType: PL_VRAM }], {});
  guard.release();
  expect([err, bo.resource?.memType]).toEqual([0, PL_VRAM]);
  ttm.put(bo);
  expect(bo.resource).toBeNull();
});

describe("the allocation function", () => {
  test("buffers never lie in the page-table aperture", () => {
    const rig = new Rig();
    for (const bo of rig.filled()) for (const b of bo.resource!.blocks) expect(b.offset).toBeGreaterThanOrEqual(PT);
    expect(rig.vram.available).toBe(0);
    expect(rig.vram.alloc(rig.bo("h", SZ_4K), VRAM, {})).toBe(ENOSPC);
  });

  test("buffers of 2 MiB and up get 2 MiB blocks, smaller ones where there are none", () => {
    const rig = new Rig();
    expect(rig.add("a", 2 * SZ_2M).resource!.blocks.every((b) => b.size % SZ_2M === 0)).toBe(true);
    const holes = Array.from({ length: 5 * 32 }, () => rig.add("x", SZ_64K, VRAM, { alignment: SZ_64K }));
    for (let i = 0; i < holes.length; i += 2) rig.ttm.put(holes[i]!);
    expect(rig.add("b").resource!.blocks.every((b) => b.size === SZ_64K)).toBe(true);
  });

  test.each<[string, number, TtmPlace, number, Errno]>([
    ["larger than the heap", 7 * SZ_2M + SZ_4K, VRAM, SZ_4K, E2BIG],
    ["larger than its range", SZ_2M, { ...VRAM, fpfn: page(PT), lpfn: page(PT + SZ_64K) }, SZ_4K, E2BIG],
    ["behind the end", SZ_4K, { ...VRAM, fpfn: page(8 * SZ_2M), lpfn: 0 }, SZ_4K, E2BIG],
    ["in the aperture", SZ_4K, { ...VRAM, lpfn: page(PT) }, SZ_4K, E2BIG],
    ["no multiple of its alignment", SZ_4K, VRAM, SZ_64K, EINVAL],
  ])("what is %s is refused at once, and nothing is evicted for it", (_name, size, place, alignment, errno) => {
    const rig = new Rig();
    rig.filled();
    expect(rig.tryAdd("x", size, place, { alignment })).toBe(errno);
    expect(rig.evicted).toEqual([]);
  });

  test("what just fits is not too big, with an end behind the memory or none", () => {
    expect(isErr(new Rig().tryAdd("x", 7 * SZ_2M))).toBe(false);
    expect(isErr(new Rig().tryAdd("x", 7 * SZ_2M, { ...VRAM, lpfn: page(9 * SZ_2M) }))).toBe(false);
    expect(isErr(new Rig().tryAdd("x", SZ_64K, { ...VRAM, fpfn: page(PT), lpfn: page(PT + SZ_64K) }))).toBe(false);
  });

  test("a buffer above 2 GiB is several requests, and contiguous only up to there", () => {
    const rig = new Rig({ vramBytes: 8 * SZ_1G });
    const big = rig.add("a", 5 * SZ_1G);
    expect(big.resource!.blocks.length).toBeGreaterThan(2);
    expect(big.resource!.size).toBe(5 * SZ_1G);
    rig.ttm.put(big);
    expect(rig.tryAdd("b", 2 * SZ_1G, { ...VRAM, flags: PL_CONTIGUOUS })).toMatchObject({ owner: "b" });
    expect(rig.tryAdd("c", 2 * SZ_1G + SZ_4K, { ...VRAM, flags: PL_CONTIGUOUS })).toBe(EINVAL);
    expect(rig.vram.usage).toBe(2 * SZ_1G);
  });

  test("blocks that touch make a contiguous resource, asked for or not; others do not", () => {
    const rig = new Rig();
    expect(rig.add("a", 3 * SZ_4K, { ...VRAM, flags: PL_CONTIGUOUS }).resource!.isContiguous).toBe(true);
    expect(rig.add("b", SZ_4K).resource!.isContiguous).toBe(true);
    // The higher block is listed first.
    expect(rig.add("c", 3 * SZ_4K).resource!.isContiguous).toBe(false);
  });

  test("a range is kept, and top-down takes the highest address", () => {
    const rig = new Rig();
    const low = rig.add("b", SZ_4K, { ...VRAM, fpfn: page(PT), lpfn: page(PT + SZ_64K) });
    expect(low.resource!.blocks[0]!.offset).toBe(PT);
    const high = rig.add("c", SZ_4K, { ...VRAM, flags: PL_TOPDOWN });
    expect(high.resource!.blocks[0]!.offset).toBe(8 * SZ_2M - SZ_4K);
  });

  test("a type that is not in use is no place", () => {
    const rig = new Rig();
    rig.vram.useType = false;
    expect(rig.tryAdd("a")).toBe(ENOMEM);
    expect(rig.tryAdd("a", SZ_2M, { memType: 7 })).toBe(ENOMEM);
    rig.vram.useType = true;
    expect(isErr(rig.tryAdd("a"))).toBe(false);
  });
});

describe("the budget", () => {
  test("is never exceeded, although the heap has room", () => {
    const rig = new Rig({ budget: 3 * SZ_2M });
    for (const name of "abc") rig.add(name);
    expect(rig.vram.alloc(rig.bo("d", SZ_4K), VRAM, { forceAlloc: true })).toBe(ENOSPC);
    expect(rig.tryAdd("d", 4 * SZ_2M)).toBe(E2BIG);
    rig.add("d");
    expect([rig.order, rig.vram.usage]).toEqual(["bcd", 3 * SZ_2M]);
  });

  test("is kept when a contiguous buffer would hold more than was asked for", () => {
    const at = 64 * SZ_4K;
    // Free: two pages below `at`, four from it, and one more; contiguous 24 KiB in blocks of 8 KiB then takes all seven.
    const free = [at - 2 * SZ_4K, at - SZ_4K, at, at + SZ_4K, at + 2 * SZ_4K, at + 3 * SZ_4K, at + 4 * SZ_4K];
    const take = (budgetPages: number) => {
      const rig = new Rig({ vramBytes: SZ_2M, ptBytes: SZ_64K, budget: budgetPages * SZ_4K });
      const one = (pa: number): Bo => rig.add("x", SZ_4K, { ...VRAM, fpfn: page(pa), lpfn: page(pa) + 1 });
      const clear = one(free[6]!);
      clear.resource!.content = "zero";
      rig.ttm.put(clear);
      for (let pa = SZ_64K; pa < SZ_2M; pa += SZ_4K) if (!free.includes(pa)) one(pa);
      const bo = rig.bo("y", 6 * SZ_4K, { alignment: 2 * SZ_4K });
      const res = rig.vram.alloc(bo, { ...VRAM, flags: PL_CONTIGUOUS }, {});
      expect(rig.vram.usage).toBeLessThanOrEqual(rig.vram.size);
      return res;
    };
    const pages = (SZ_2M - SZ_64K) / SZ_4K;
    expect(take(pages)).toMatchObject({ size: 7 * SZ_4K });
    expect(take(pages - 1)).toBe(ENOSPC);
  });

  test("host memory has one too, which a forced allocation passes", () => {
    const rig = new Rig({ systemBytes: SZ_2M });
    rig.add("a", SZ_2M, SYSTEM);
    expect(rig.tryAdd("b", SZ_4K, SYSTEM)).toBe(ENOMEM);
    const b = rig.bo("b", SZ_4K);
    expect(rig.validate(b, [SYSTEM], { forceAlloc: true })).toBe(0);
    expect(rig.system.usage).toBe(SZ_2M + SZ_4K);
    rig.ttm.put(b);
    expect(rig.system.usage).toBe(SZ_2M);
  });
});

describe("the order of eviction", () => {
  test("is by priority, then least recently used", () => {
    const rig = new Rig();
    const [a, b] = [rig.add("a", SZ_4K, VRAM, { priority: 1 }), rig.add("b", SZ_4K)];
    rig.add("c", SZ_4K);
    expect(rig.victims).toBe("bca");
    rig.ttm.touch(b);
    rig.ttm.touch(a);
    expect(rig.victims).toBe("cba");
  });

  test("a set of victims is just large enough", () => {
    const rig = new Rig();
    rig.filled();
    const names = (bytes: number) =>
      rig.ttm
        .pickVictims(VRAM, bytes)
        .map((bo) => bo.owner)
        .join("");
    expect([names(2 * SZ_2M), names(2 * SZ_2M + 1), names(0)]).toEqual(["ab", "abc", ""]);
    expect(rig.ttm.pickVictims({ memType: 9 }, 1)).toEqual([]);
  });

  test("passes over pinned, round-pinned and locked buffers, and over them only", () => {
    const rig = new Rig();
    const [a, b, c] = rig.filled() as [Bo, Bo, Bo];
    expect([rig.pin(a), rig.pin(a)]).toEqual([0, 0]);
    b.roundPin();
    b.roundPin();
    const guard = c.resv.tryLock()!;
    expect([rig.victims, rig.vram.pinnedBytes]).toEqual(["defg", SZ_2M]);
    guard.release();
    b.roundUnpin();
    expect(rig.victims).toBe("cdefg");
    b.roundUnpin();
    rig.unpin(a);
    // A round pin leaves the order alone.
    expect(rig.victims).toBe("bcdefg");
    rig.unpin(a);
    // The last unpin puts a buffer to the tail.
    expect([rig.victims, rig.vram.pinnedBytes]).toEqual(["bcdefga", 0]);
  });

  test("a pinned buffer is on the unevictable list, and touching it changes nothing", () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.pin(a);
    rig.ttm.touch(a);
    expect([...rig.vram.evictable()].map((res) => res.bo.owner).join("")).toBe("bcdefg");
    expect(rig.order).toBe("bcdefga");
  });

  test("a driver may say what is worth evicting", () => {
    const rig = new Rig();
    rig.filled();
    const ops = Object.assign(rig, {
      evictionValuable: (bo: Bo, place: TtmPlace) => bo.owner !== "a" && rig.ttm.evictionValuable(bo, place),
    });
    expect(ops.victims).toBe("bcdefg");
  });
});

describe("bulk moves", () => {
  function bulkOf(rig: Rig, names: string): { bulk: LruBulkMove; bos: Record<string, Bo>; resv: DmaResv } {
    const [bulk, resv] = [new LruBulkMove(), new DmaResv("vm")];
    const bos: Record<string, Bo> = {};
    for (const name of names) {
      const shared = /[A-Z]/.test(name);
      const bo = rig.add(name, SZ_4K, VRAM, shared ? { resv, priority: name === "P" ? 1 : 0 } : {});
      if (shared) rig.locked(bo, () => rig.ttm.setBulkMove(bo, bulk));
      bos[name] = bo;
    }
    return { bulk, bos, resv };
  }

  test("members stand side by side, and one move takes all of them to the tail in their order", () => {
    const rig = new Rig();
    const { bulk } = bulkOf(rig, "aBCbDc");
    // D joined the others where they stand.
    expect(rig.order).toBe("aBCDbc");
    bulk.moveToTail();
    expect(rig.order).toBe("abcBCD");
    bulk.moveToTail();
    expect(rig.order).toBe("abcBCD");
  });

  test("each priority and each type has its own first and last", () => {
    const rig = new Rig();
    const { bulk, bos } = bulkOf(rig, "APBa");
    expect(rig.order).toBe("ABaP");
    const low = rig.add("p", SZ_4K, VRAM, { priority: 1 });
    rig.locked(bos["B"]!, () => rig.ttm.validate(bos["B"]!, [SYSTEM]));
    rig.add("s", SZ_4K, SYSTEM);
    bulk.moveToTail();
    expect([rig.order, [...rig.system.resources()].map((r) => r.bo.owner).join("")]).toEqual(["aApP", "sB"]);
    expect(low.resource).not.toBeNull();
  });

  test("a touched member is the last of its bulk, which stays where it is", () => {
    const rig = new Rig();
    const { bos } = bulkOf(rig, "ABCd");
    rig.ttm.touch(bos["A"]!);
    expect(rig.order).toBe("BCAd");
    rig.ttm.touch(bos["C"]!);
    expect(rig.order).toBe("BACd");
    rig.ttm.touch(bos["C"]!);
    expect(rig.order).toBe("BACd");
  });

  test.each([
    ["first", "A", "ABCd", "AdBC"],
    ["middle", "B", "ACBd", "BdAC"],
    ["last", "C", "ABCd", "CdAB"],
  ])("the %s member may leave", (_name, who, left, moved) => {
    const rig = new Rig();
    const { bulk, bos } = bulkOf(rig, "ABCd");
    rig.locked(bos[who]!, () => rig.ttm.setBulkMove(bos[who]!, null));
    expect(rig.order).toBe(left);
    bulk.moveToTail();
    expect(rig.order).toBe(moved);
  });

  test("pinned members are not in it, and are again when unpinned; freed ones leave it", () => {
    const rig = new Rig();
    const { bulk, bos } = bulkOf(rig, "ABCd");
    rig.pin(bos["B"]!);
    bulk.moveToTail();
    expect(rig.order).toBe("dACB");
    rig.add("e", SZ_4K);
    rig.unpin(bos["B"]!);
    expect(rig.order).toBe("dACBe");
    rig.ttm.put(bos["A"]!);
    rig.ttm.put(bos["B"]!);
    bulk.moveToTail();
    expect(rig.order).toBe("deC");
    rig.ttm.put(bos["C"]!);
    bulk.moveToTail();
    expect(rig.order).toBe("de");
  });

  test("a buffer that joins while it is pinned is in it once it is unpinned", () => {
    const rig = new Rig();
    const { bulk, bos } = bulkOf(rig, "Abc");
    rig.pin(bos["c"]!);
    rig.locked(bos["c"]!, () => rig.ttm.setBulkMove(bos["c"]!, bulk));
    bulk.moveToTail();
    expect([rig.victims, rig.order]).toEqual(["bA", "bAc"]);
    rig.add("d", SZ_4K);
    rig.unpin(bos["c"]!);
    expect(rig.order).toBe("bAcd");
  });

  test("a member that moves to other memory is in the bulk there", () => {
    const rig = new Rig();
    const { bulk, bos } = bulkOf(rig, "AB");
    expect(rig.validate(bos["A"]!, [SYSTEM])).toBe(0);
    expect([rig.order, bos["A"]!.resource!.bulk]).toEqual(["B", bulk]);
  });

  test("joining wants the reservation", () => {
    const rig = new Rig();
    const bo = rig.add("a");
    expect(() => rig.ttm.setBulkMove(bo, new LruBulkMove())).toThrow(InvariantError);
  });
});

describe("pins", () => {
  test("those of users are limited, those of the stack are not", () => {
    const rig = new Rig({ pinLimit: SZ_2M });
    const [a, b] = [rig.add("a"), rig.add("b")];
    const k = rig.add("k", SZ_2M, VRAM, { type: "kernel" });
    expect([rig.pin(a), rig.pin(a), rig.pin(b), rig.pin(k)]).toEqual([0, 0, ENOMEM, 0]);
    expect([b.pinCount, rig.vram.pinnedBytes]).toEqual([0, 2 * SZ_2M]);
    rig.unpin(a);
    expect(rig.pin(b)).toBe(ENOMEM);
    rig.unpin(a);
    expect(rig.pin(b)).toBe(0);
  });

  test("a pinned buffer stays: it validates where it is and nowhere else", () => {
    const rig = new Rig();
    const a = rig.add("a");
    rig.pin(a);
    expect([rig.validate(a, [VRAM]), rig.validate(a, [SYSTEM]), rig.validate(a, [])]).toEqual([0, EINVAL, EINVAL]);
    expect(rig.ttm.evict(a)).toBe(EINVAL);
    expect([a.resource!.memType, rig.notified.length]).toEqual([PL_VRAM, 1]);
  });
});

describe("misuse is a bug that is named", () => {
  test.each<[string, (rig: Rig, bo: Bo) => void]>([
    ["freeing twice", (rig, bo) => (rig.ttm.put(bo), rig.ttm.put(bo))],
    ["using what was freed", (rig, bo) => (rig.ttm.put(bo), rig.ttm.get(bo))],
    ["freeing what is pinned", (rig, bo) => (rig.pin(bo), rig.ttm.put(bo))],
    ["unpinning too often", (rig, bo) => rig.unpin(bo)],
    ["ending a round pin too often", (_rig, bo) => bo.roundUnpin()],
    ["pinning without the reservation", (rig, bo) => rig.ttm.pin(bo)],
    ["validating without the reservation", (rig, bo) => rig.ttm.validate(bo, [VRAM])],
    ["pinning what lies nowhere", (rig) => rig.pin(rig.bo("x"))],
    ["a size that is no page", (rig) => rig.bo("x", 5)],
    ["a priority that there is not", (rig) => rig.bo("x", SZ_4K, { priority: 4 })],
    ["an alignment that is no power of two", (rig) => rig.bo("x", SZ_4K, { alignment: 3 * SZ_4K })],
  ])("%s", (_name, misuse) => {
    const rig = new Rig();
    const bo = rig.add("a");
    expect(() => misuse(rig, bo)).toThrow(InvariantError);
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
