import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { InvariantError } from "../../src/base/assert.ts";
import { EBUSY, EDEADLK, EINTR, EIO, ENOMEM } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { Completion } from "../../src/base/locks.ts";
import { EALREADY } from "../../src/gpuvm/drm-exec.ts";
import { DmaResv } from "../../src/gpuvm/dma-resv.ts";
import { Multihop } from "../../src/vram/device-ops.ts";
import type { AcquireContext } from "../../src/vram/fence.ts";
import {
  PL_CONTIGUOUS,
  PL_DESIRED,
  PL_FALLBACK,
  PL_SYSTEM,
  PL_TEMPORARY,
  PL_TT,
  PL_VRAM,
} from "../../src/vram/place.ts";
import type { TtmPlacement } from "../../src/vram/place.ts";
import { Rig, SYSTEM, SZ_2M, SZ_4K, SZ_64K, TT, VRAM } from "./vram-rig.ts";
import type { Bo } from "./vram-rig.ts";

const desired = { ...VRAM, flags: PL_DESIRED };
const fallback = { ...TT, flags: PL_FALLBACK };
/** Waits as long as it takes, as one does who holds nothing else. */
const patient: AcquireContext = { lock: (resv) => resv.lock() };

describe("validate", () => {
  test("takes the first place that has room, before it evicts for a better one", () => {
    const rig = new Rig();
    rig.filled();
    expect(rig.add("x", SZ_2M, TT).resource!.memType).toBe(PL_TT);
    const bo = rig.bo("y");
    expect(rig.validate(bo, [VRAM, TT])).toBe(0);
    expect([bo.resource!.memType, rig.evicted]).toEqual([PL_TT, []]);
  });

  test("a fallback counts only when the others would need eviction", () => {
    const rig = new Rig();
    const bo = rig.bo("x");
    expect(rig.validate(bo, [fallback, VRAM])).toBe(0);
    expect(bo.resource!.memType).toBe(PL_VRAM);
    rig.ttm.put(bo);
    rig.filled();
    const late = rig.bo("y");
    expect(rig.validate(late, [fallback, VRAM])).toBe(0);
    expect([late.resource!.memType, rig.evicted]).toEqual([PL_TT, []]);
  });

  test("what sits in a fallback place gets a better one without eviction, or stays", () => {
    const rig = new Rig();
    const bo = rig.add("x", SZ_2M, TT);
    const bos = rig.filled();
    expect(rig.validate(bo, [VRAM, fallback])).toBe(0);
    expect([bo.resource!.memType, rig.evicted]).toEqual([PL_TT, []]);
    rig.ttm.put(bos[3]!);
    expect(rig.validate(bo, [VRAM, fallback])).toBe(0);
    expect(bo.resource!.memType).toBe(PL_VRAM);
  });

  test("nobody is evicted for a place that is only desired", () => {
    const rig = new Rig();
    rig.filled();
    expect(rig.tryAdd("x", SZ_2M, desired)).toBe(ENOMEM);
    const bo = rig.bo("x");
    expect(rig.validate(bo, [desired, TT])).toBe(0);
    expect([bo.resource!.memType, rig.evicted]).toEqual([PL_TT, []]);
    // The second pass does not count it as a place to stay either: what is there moves on.
    const a = rig.bo("y", SZ_4K);
    expect(rig.validate(a, [SYSTEM])).toBe(0);
    expect(rig.validate(a, [desired, VRAM])).toBe(0);
    expect(rig.evicted).toEqual(["a"]);
  });

  test("leaves alone what lies right", () => {
    const rig = new Rig();
    const bo = rig.add("x", SZ_4K);
    const { resource } = bo;
    const at = resource!.blocks[0]!.offset / PAGE_SIZE;
    for (const place of [VRAM, { ...VRAM, flags: PL_CONTIGUOUS }, { ...VRAM, fpfn: at, lpfn: at + 1 }]) {
      expect(rig.validate(bo, [place])).toBe(0);
      expect(bo.resource).toBe(resource);
    }
  });

  test.each([
    ["below its range", (at: number) => ({ ...VRAM, fpfn: at + 1 })],
    ["above its range", (at: number) => ({ ...VRAM, lpfn: at })],
    ["in other memory", () => TT],
  ])("moves what lies %s, with its content", (_name, place) => {
    const rig = new Rig();
    rig.add("w", SZ_64K);
    const bo = rig.add("x", SZ_4K);
    rig.add("y", SZ_64K);
    rig.ttm.put(rig.add("z", SZ_64K));
    rig.fill(bo, 7);
    const old = bo.resource;
    expect(rig.validate(bo, [place(old!.blocks[0]!.offset / PAGE_SIZE)])).toBe(0);
    expect(bo.resource).not.toBe(old);
    expect(rig.contentOf(bo)).toEqual(Uint16Array.of(7));
  });

  test("moves what is in pieces and wanted in one", () => {
    const rig = new Rig();
    const bo = rig.add("x", 3 * SZ_4K);
    expect(bo.resource!.isContiguous).toBe(false);
    expect(rig.validate(bo, [{ ...VRAM, flags: PL_CONTIGUOUS }])).toBe(0);
    expect(bo.resource!.isContiguous).toBe(true);
    expect(rig.vram.usage).toBe(bo.resource!.size);
  });

  test("no place at all drops the memory and tells who has it mapped", () => {
    const rig = new Rig();
    const bo = rig.add("x");
    expect(rig.validate(bo, [])).toBe(0);
    expect([bo.resource, rig.vram.usage, rig.notified]).toEqual([null, 0, ["x2", "x-"]]);
    expect(rig.validate(bo, [])).toBe(0);
    expect(rig.validate(bo, [VRAM])).toBe(0);
  });

  test.each<[string, TtmPlacement]>([
    ["one place is full for good", [VRAM]],
    ["all are", [VRAM, TT]],
  ])("-ENOMEM where %s", (_name, placement) => {
    const rig = new Rig({ ttBytes: SZ_2M });
    for (const bo of rig.filled()) rig.pin(bo);
    rig.pin(rig.add("t", SZ_2M, TT));
    expect(rig.validate(rig.bo("x"), placement)).toBe(ENOMEM);
  });

  test("an error of the move is returned, the new memory goes back as it was, and the buffer stays", () => {
    const rig = new Rig();
    const bo = rig.add("x", SZ_2M, TT);
    rig.fill(bo, 5);
    rig.moveInstead = () => EIO;
    expect(rig.validate(bo, [VRAM])).toBe(EIO);
    expect([bo.resource!.memType, rig.vram.usage, rig.tt.usage]).toEqual([PL_TT, 0, SZ_2M]);
    rig.moveInstead = null;
    rig.moveNotify = () => EBUSY;
    expect(rig.validate(bo, [VRAM])).toBe(EBUSY);
    expect([bo.resource!.memType, rig.moves.length]).toEqual([PL_TT, 1]);
    expect(rig.contentOf(bo)[0]).toBe(5);
  });

  test("who has the pages mapped hears of a move before it is queued", () => {
    const rig = new Rig();
    const bo = rig.add("x", SZ_2M, TT);
    let movesBefore = -1;
    rig.moveNotify = (_bo, to) => {
      expect(to!.memType).toBe(PL_VRAM);
      movesBefore = rig.moves.length;
      return 0;
    };
    expect(rig.validate(bo, [VRAM])).toBe(0);
    expect([movesBefore, rig.moves.length]).toEqual([0, 1]);
  });

  test("host pages live while the content is in host memory", () => {
    const rig = new Rig();
    const bo = rig.add("x");
    expect(rig.populated).toBe(0);
    rig.fill(bo, 3);
    for (const place of [TT, SYSTEM, TT]) {
      expect(rig.validate(bo, [place])).toBe(0);
      expect([rig.populated, rig.contentOf(bo)[9]]).toEqual([1, 3]);
    }
    expect(rig.validate(bo, [VRAM])).toBe(0);
    expect([rig.populated, rig.contentOf(bo)[9]]).toEqual([0, 3]);
  });
});

describe("eviction", () => {
  test("takes one after the other, under its lock, only as many as needed, and without a promise if it can", () => {
    const rig = new Rig();
    for (const bo of rig.filled()) rig.fill(bo, bo.owner.charCodeAt(0));
    rig.moveInstead = (bo, to) => {
      expect(bo.resv.isHeld).toBe(true);
      return rig.copy(bo, to);
    };
    const bo = rig.add("x", 2 * SZ_2M);
    expect(bo.resource!.size).toBe(2 * SZ_2M);
    expect([rig.evicted.join(""), rig.order]).toEqual(["ab", "cdefgx"]);
    for (const res of rig.tt.resources()) expect(rig.contentOf(res.bo)[5]).toBe(res.bo.owner.charCodeAt(0));
  });

  test("goes on where the first place for victims is full, and from one memory to the next", () => {
    const rig = new Rig({ ttBytes: SZ_2M });
    rig.filled();
    rig.add("x", 2 * SZ_2M);
    // The second victim finds room in the last place before anybody is evicted from the first.
    expect(rig.moves).toEqual(["a:2>1", "b:2>0"]);
    rig.placement = [TT];
    rig.add("y");
    expect(rig.moves.slice(2)).toEqual(["a:1>0", "c:2>1"]);
  });

  test("without a place for victims their content is dropped", () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.placement = [];
    rig.add("x");
    expect([a.resource, rig.moves, rig.order]).toEqual([null, [], "bcdefgx"]);
  });

  test("only what lies in the wanted range is evicted", () => {
    const rig = new Rig();
    const bos = rig.filled();
    const first = bos[3]!.resource!.blocks[0]!.offset / PAGE_SIZE;
    rig.add("x", SZ_4K, { ...VRAM, fpfn: first, lpfn: first + 16 });
    expect(rig.evicted).toEqual(["d"]);
  });

  test("a busy victim is passed over, another error ends the walk, and every lock is released", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    rig.moveInstead = (bo, to) => ("ab".includes(bo.owner) ? EBUSY : rig.copy(bo, to));
    rig.add("x");
    expect([rig.evicted.join(""), rig.order]).toEqual(["abc", "abdefgx"]);
    rig.moveInstead = () => EIO;
    expect(rig.tryAdd("y")).toBe(EIO);
    rig.moveInstead = () => Promise.reject(new Error("lost"));
    const y = rig.bo("y");
    await expect(rig.validate(y, [VRAM])).rejects.toThrow("lost");
    expect(bos.some((bo) => bo.resv.isHeld)).toBe(false);
  });

  test("pinned, round-pinned and locked buffers stay, and so does who asks", () => {
    const rig = new Rig();
    const [a, b, c, d] = rig.filled() as [Bo, Bo, Bo, Bo];
    rig.pin(a);
    b.roundPin();
    const guard = c.resv.tryLock()!;
    // d itself wants to move to lower addresses.
    const at = d.resource!.blocks[0]!.offset / PAGE_SIZE;
    expect(rig.validate(d, [{ ...VRAM, lpfn: at }])).toBe(0);
    expect([rig.evicted, rig.moves]).toEqual([["e"], ["e:2>1", "d:2>2"]]);
    guard.release();
  });

  test("waits for an eviction that takes time, while others may look for victims too", async () => {
    const rig = new Rig();
    rig.filled();
    rig.moveInstead = async (bo, to) => {
      await Promise.resolve();
      return rig.copy(bo, to);
    };
    const [x, y] = [rig.bo("x"), rig.bo("y")];
    expect(await Promise.all([rig.validate(x, [VRAM]), rig.validate(y, [VRAM])])).toEqual([0, 0]);
    expect([rig.order, rig.vram.usage]).toEqual(["cdefgxy", rig.vram.size]);
  });

  test("a list that changes while an eviction waits is walked to its end", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    for (const bo of bos.slice(3)) rig.pin(bo);
    rig.moveInstead = async (bo, to) => {
      await Promise.resolve();
      if (bo.owner === "a") {
        // The next in the list goes away, the one behind it to the tail, and a new one comes.
        rig.ttm.put(bos[1]!);
        rig.ttm.touch(bos[2]!);
        rig.add("n", SZ_2M, desired);
        return EBUSY;
      }
      return rig.copy(bo, to);
    };
    const x = rig.bo("x");
    expect(await rig.validate(x, [VRAM])).toBe(0);
    expect([rig.evicted, rig.order]).toEqual([["a", "c"], "anxdefg"]);
  });

  test("many at once are started together, each under its own lock", async () => {
    const rig = new Rig();
    rig.filled();
    let underWay = 0;
    let most = 0;
    rig.moveInstead = async (bo, to) => {
      underWay += 1;
      most = Math.max(most, underWay);
      await Promise.resolve();
      underWay -= 1;
      return rig.copy(bo, to);
    };
    const victims = rig.ttm.pickVictims(VRAM, 3 * SZ_2M);
    expect(await Promise.all(victims.map((bo) => rig.ttm.evict(bo)))).toEqual([0, 0, 0]);
    expect([most, rig.order]).toEqual([3, "defg"]);
  });

  test("evicting what is being evicted waits for it and does nothing", async () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.placement = [SYSTEM];
    rig.moveInstead = async (bo, to) => {
      await Promise.resolve();
      return rig.copy(bo, to);
    };
    const both = Promise.all([rig.ttm.evict(a), rig.ttm.evict(a)]);
    expect(await both).toEqual([0, 0]);
    expect(rig.moves[0]).toBe("a:2>0");
  });

  test("a buffer freed while it is evicted goes when that has ended", async () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.moveInstead = async (bo, to) => {
      rig.ttm.put(a);
      await Promise.resolve();
      expect(bo.resource).not.toBeNull();
      return rig.copy(bo, to);
    };
    expect(await rig.ttm.evict(a)).toBe(0);
    expect([a.deleted, a.resource, rig.tt.usage, rig.populated]).toEqual([true, null, 0, 0]);
  });
});

describe("reservations that others hold", () => {
  test("are left alone by the first walk, and waited for by the second in an acquire context", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    const guards = bos.map((bo) => bo.resv.tryLock()!);
    expect(rig.tryAdd("x")).toBe(ENOMEM);
    const x = rig.bo("x");
    const later = rig.validate(x, [VRAM], { ticket: patient });
    expect(later).toBeInstanceOf(Promise);
    await Promise.resolve();
    expect(rig.evicted).toEqual([]);
    guards[0]!.release();
    expect(await later).toBe(0);
    expect([rig.evicted, bos[0]!.resv.isHeld]).toEqual([["a"], false]);
    for (const guard of guards.slice(1)) guard.release();
  });

  test("a free one is taken without waiting for those before it", () => {
    const rig = new Rig();
    const bos = rig.filled();
    const guard = bos[0]!.resv.tryLock()!;
    const asked: unknown[] = [];
    const ticket: AcquireContext = { lock: (resv) => (asked.push(resv), resv.lock()) };
    expect(rig.validate(rig.bo("x"), [VRAM], { ticket })).toBe(0);
    expect([rig.evicted, asked]).toEqual([["b"], []]);
    guard.release();
  });

  test("a walk waits for one only, and is repeated while it gets anybody out", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    const guards = bos.map((bo) => bo.resv.tryLock()!);
    const asked: string[] = [];
    const ticket: AcquireContext = {
      lock: (resv) => {
        const at = bos.findIndex((bo) => bo.resv === resv);
        asked.push(bos[at]!.owner);
        guards[at]!.release();
        return resv.lock();
      },
    };
    const x = rig.bo("x", 3 * SZ_2M);
    expect(await rig.validate(x, [VRAM], { ticket })).toBe(0);
    expect([asked, rig.evicted]).toEqual([
      ["a", "b", "c"],
      ["a", "b", "c"],
    ]);
  });

  test.each<[string, Errno, string[]]>([
    ["that would be a deadlock ends the walk", EDEADLK, ["a"]],
    ["that the caller holds itself is passed over", EALREADY, ["a"]],
  ])("one %s", (_name, errno, asked) => {
    const rig = new Rig();
    const bos = rig.filled();
    for (const bo of bos) bo.resv.tryLock();
    const seen: string[] = [];
    const ticket: AcquireContext = {
      lock: (resv) => {
        seen.push(bos.find((bo) => bo.resv === resv)!.owner);
        return errno;
      },
    };
    const x = rig.bo("x");
    expect(rig.validate(x, [VRAM, SYSTEM], { ticket })).toBe(0);
    expect(rig.validate(x, [VRAM], { ticket })).toBe(ENOMEM);
    expect([seen, rig.evicted]).toEqual([asked, []]);
  });

  test("a victim that has left while its lock was waited for is no victim any more", async () => {
    const rig = new Rig();
    const bos = rig.filled();
    const guards = bos.map((bo) => bo.resv.tryLock()!);
    const x = rig.bo("x");
    const later = rig.validate(x, [VRAM], { ticket: patient });
    guards[1]!.release();
    expect(await rig.ttm.evictLocked(bos[0]!)).toBe(0);
    guards[0]!.release();
    // The walk goes on with b, whose lock is free by now.
    expect(await later).toBe(0);
    expect(rig.evicted).toEqual(["a", "b"]);
    for (const guard of guards.slice(2)) guard.release();
  });

  test("others under the caller's own reservation are evicted only if it allows that", () => {
    const rig = new Rig();
    const resv = new DmaResv("vm");
    for (const name of "abcdefg") rig.add(name, SZ_2M, VRAM, { resv });
    const x = rig.bo("x", SZ_2M, { resv });
    expect(rig.validate(x, [VRAM], { resv })).toBe(ENOMEM);
    expect(rig.validate(x, [VRAM], { allowResEvict: true })).toBe(ENOMEM);
    expect(rig.validate(x, [VRAM], { resv, ticket: { lock: () => expect.fail("waits for itself") } })).toBe(ENOMEM);
    expect(rig.validate(x, [VRAM], { resv, allowResEvict: true })).toBe(0);
    expect([rig.evicted, resv.isHeld]).toEqual([["a"], false]);
  });

  test("who moves within a memory is not evicted for its own sake", () => {
    const rig = new Rig();
    const resv = new DmaResv("vm");
    const a = rig.add("a", 3 * SZ_4K, VRAM, { resv });
    for (const name of "bcdefg") rig.add(name, SZ_2M, VRAM, { resv });
    rig.add("h", SZ_2M - 4 * SZ_4K, VRAM, { resv });
    // It is the least recently used, but it is its own page that it wants to be beside.
    expect(rig.validate(a, [{ ...VRAM, flags: PL_CONTIGUOUS }], { resv, allowResEvict: true })).toBe(0);
    expect(rig.evicted).toHaveLength(1);
    expect(rig.evicted).not.toContain("a");
  });
});

describe("a move over another place", () => {
  const viaTt = (rig: Rig) => (bo: Bo, to: { memType: number }) => {
    const direct = bo.resource!.memType === PL_TT || to.memType === PL_TT;
    return direct ? rig.copy(bo, to as never) : new Multihop(TT);
  };

  test("stops there for a moment, for a validation and for an eviction", () => {
    const rig = new Rig();
    const bo = rig.add("a");
    rig.fill(bo, 9);
    rig.moveInstead = viaTt(rig);
    expect(rig.validate(bo, [SYSTEM])).toBe(0);
    expect(rig.moves).toEqual(["a:2>0", "a:2>1", "a:1>0"]);
    expect(rig.validate(bo, [VRAM])).toBe(0);
    rig.placement = [SYSTEM];
    expect(rig.ttm.evict(bo)).toBe(0);
    expect([rig.contentOf(bo)[1], bo.resource!.memType, rig.tt.usage, rig.vram.usage]).toEqual([9, PL_SYSTEM, 0, 0]);
  });

  test("a stop is never a place to stay", () => {
    const rig = new Rig();
    const bo = rig.add("a");
    let hopped = false;
    rig.moveInstead = (b, to) => {
      if (to.memType === PL_TT) {
        hopped = true;
        expect(to.flags & PL_TEMPORARY).toBe(PL_TEMPORARY);
        return rig.copy(b, to);
      }
      return hopped ? EIO : new Multihop(TT);
    };
    expect(rig.validate(bo, [SYSTEM])).toBe(EIO);
    expect(bo.resource!.memType).toBe(PL_TT);
    rig.moveInstead = null;
    expect(rig.validate(bo, [TT])).toBe(0);
    expect(bo.resource!.isTemporary).toBe(false);
    expect([rig.tt.usage, rig.vram.usage, rig.system.usage]).toEqual([SZ_2M, 0, 0]);
  });

  test("no room at the stop is the move's error, and a stop without a direct way a bug", () => {
    const rig = new Rig({ ttBytes: SZ_4K });
    const bo = rig.add("a");
    rig.moveInstead = viaTt(rig);
    expect(rig.validate(bo, [SYSTEM])).toBe(ENOMEM);
    expect([bo.resource!.memType, rig.system.usage]).toEqual([PL_VRAM, 0]);
    const lost = new Rig();
    const other = lost.add("b");
    lost.moveInstead = () => new Multihop(TT);
    const guard = other.resv.tryLock()!;
    expect(() => lost.ttm.validate(other, [SYSTEM])).toThrow(InvariantError);
    guard.release();
  });
});

describe("waits for the device", () => {
  test("end with -EINTR when the caller has lost interest, and the victim stays", async () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.placement = [];
    for (const res of rig.vram.resources()) {
      rig.locked(res.bo, () => {
        const resv = res.bo.resv as DmaResv;
        resv.reserveFences(1);
        resv.addFence(new Completion(), 3);
      });
    }
    const interruption = new Completion();
    const x = rig.bo("x");
    const later = rig.validate(x, [VRAM], { interruption });
    await Promise.resolve();
    interruption.complete();
    expect(await later).toBe(EINTR);
    expect([rig.order, a.resv.isHeld]).toEqual(["abcdefg", false]);
    expect(rig.validate(x, [VRAM], { interruption })).toBe(EINTR);
  });

  test("are refused under noWaitGpu: a busy victim is passed over", () => {
    const rig = new Rig();
    const [a] = rig.filled() as [Bo];
    rig.placement = [];
    rig.locked(a, () => {
      (a.resv as DmaResv).reserveFences(1);
      (a.resv as DmaResv).addFence(new Completion(), 3);
    });
    expect(rig.validate(rig.bo("x"), [VRAM], { noWaitGpu: true })).toBe(0);
    expect(rig.order).toBe("acdefgx");
  });
});
