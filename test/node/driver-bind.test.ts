import { afterEach, describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, isErr } from "../../src/base/errno.ts";
import { KernelError } from "../../src/base/errors.ts";
import { Completion } from "../../src/base/locks.ts";
import { mapBo, mapMirror, mapNull, mapUserptr, prefetch, unmap, unmapAll } from "../../src/driver/bind-ops.ts";
import { Bo } from "../../src/driver/bo.ts";
import { readBo, writeBo } from "../../src/driver/bo-access.ts";
import { KERNEL_ASID, KernelVm } from "../../src/driver/kernel-vm.ts";
import { REGION_SYSTEM, REGION_VRAM } from "../../src/driver/vm-binds.ts";
import { VM_BIND_IMMEDIATE, VM_BIND_READONLY } from "../../src/gpuvm/bind-args.ts";
import { BindQueue } from "../../src/gpuvm/vm-bind.ts";
import { AP_VA, E_FAULT, JOB_OK, JobBatch } from "../../src/hal/copy-job.ts";
import { AP_HOST } from "../../src/hal/gpu.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Vm } from "../../src/machine/vm.ts";
import { PL_SYSTEM, PL_TT, PL_VRAM } from "../../src/vram/place.ts";
import { BindSpace, wordOf } from "./bind-space.ts";
import type { SpaceOptions } from "./bind-space.ts";

const MIB = 1 << 20;
const K = PAGE_SIZE;
const BASE = 2 ** 40;

let space: BindSpace | null = null;
function setUp(options: Partial<SpaceOptions> = {}): BindSpace {
  space = new BindSpace(REFERENCE_ENGINE, { base: BASE, pages: 256, ...options });
  return space;
}
afterEach(async () => {
  space?.checkQuiet();
  await space?.close();
  space = null;
});

async function faultOf(access: Promise<unknown>): Promise<string> {
  const error = await access.then(
    () => null,
    (e: unknown) => e,
  );
  expect(error).toBeInstanceOf(KernelError);
  return (error as KernelError).fault!.kind;
}

/** Bytes of objects in VRAM. */
function inVram(...bos: Bo[]): number {
  return bos.filter((bo) => bo.memType === PL_VRAM).length;
}

describe("kinds of mappings", () => {
  test("an object, process memory and NULL show what they are, read-only where they say so", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    await s.withUserMemory(48);
    const bound = await s.bind(
      { op: "map", at: 0, pages: 32, bo: a, from: 4 },
      { op: "map", at: 40, pages: 8, bo: a, from: 0, readOnly: true },
      { op: "user", at: 64, pages: 16, from: 0 },
      { op: "user", at: 96, pages: 4, from: 30, readOnly: true },
      { op: "null", at: 128, pages: 16 },
      { op: "null", at: 160, pages: 16, readOnly: true },
    );
    expect(bound).toBe(0);
    expect(await s.differences()).toEqual([]);
    expect(await s.bind({ op: "unmap", at: 8, pages: 160 })).toBe(0);
    expect(await s.differences()).toEqual([]);
  });

  test("stores through one mapping of an object are seen through another, and by the CPU", async () => {
    const s = setUp();
    const a = await s.bo({ size: 64 * K });
    await s.bind({ op: "map", at: 0, pages: 16, bo: a, from: 0 }, { op: "map", at: 100, pages: 4, bo: a, from: 8 });
    await s.vm.gst(s.va(9) + 8, 77);
    expect(await s.vm.gld(s.va(101) + 8)).toBe(77);
    expect(new Uint32Array(((await readBo(a, 9 * K, 16)) as Uint8Array).buffer)[2]).toBe(77);
    await writeBo(a, 9 * K + 8, new Uint8Array(new Uint32Array([78]).buffer));
    expect(await s.vm.gld(s.va(9) + 8)).toBe(78);
    expect(await readBo(a, 2, 4)).toBe(EINVAL);
    expect(await readBo(a, a.size - 4, 8)).toBe(EINVAL);
  });

  test("stores to process memory reach the process, stores to NULL vanish", async () => {
    const s = setUp();
    await s.withUserMemory(48);
    await s.bind({ op: "user", at: 0, pages: 48, from: 0 }, { op: "null", at: 64, pages: 1 });
    await s.vm.gst(s.va(3) + 4, 5);
    await s.vm.gst(s.va(40), 6);
    await s.vm.gst(s.va(64), 7);
    expect([await s.process.ld(s.user + 3 * K + 4), await s.process.ld(s.user + 40 * K)]).toEqual([5, 6]);
    expect(await s.vm.gld(s.va(64))).toBe(0);
    await s.process.st(s.user + 3 * K + 4, 9);
    expect(await s.vm.gld(s.va(3) + 4)).toBe(9);
  });

  test("a new object is all zeros, also in memory that others have used, in VRAM and in the window", async () => {
    const s = setUp({ vram: 4 * MIB, window: MIB });
    for (const placement of ["vram", "system"] as const) {
      const old = await s.bo({ size: 512 * K - 64 * K, placement: "vram" });
      old.close();
      const first = await s.bo({ size: 128 * K, placement });
      first.close();
      const fresh = (await Bo.create(s.device.driver, { size: 128 * K, placement })) as Bo;
      const bytes = (await readBo(fresh, 0, fresh.size)) as Uint8Array;
      expect(bytes.every((byte) => byte === 0)).toBe(true);
      fresh.close();
    }
    await s.machine.settle();
    expect(s.device.driver.vramUsed).toBe(0);
  });

  test("memory goes with the last mapping, in whatever address space", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    const other = s.createVm();
    await s.bind({ op: "map", at: 0, pages: 16, bo: a, from: 0 });
    expect(await other.binds.bind([mapBo(BASE, 16 * K, a)])).toBe(0);
    const handle = a.handle;
    a.close();
    s.objects.length = 0;
    expect(await s.svm.binds.bind([{ op: 0, obj: handle, addr: BASE, range: K }])).toBe(ENOENT);
    expect(await s.vm.gld(s.va(2))).toBe(wordOf(a, 2));
    await s.svm.binds.bind([unmap(BASE, MIB)]);
    expect(s.device.driver.vramUsed).toBe(MIB);
    await other.close();
    expect(s.device.driver.vramUsed).toBe(0);
  });

  test("a private object is unknown elsewhere, and shares its address space's reservation", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB, vm: s.svm });
    const other = s.createVm();
    expect(a.resv === s.svm.binds.gpuvm.rObj.resv).toBe(true);
    expect(await other.binds.bind([mapBo(BASE, K, a)])).toBe(ENOENT);
    await s.bind({ op: "map", at: 0, pages: 256, bo: a, from: 0 });
    expect(await s.differences()).toEqual([]);
    await other.close();
  });

  test("a device goes with the objects that are still open", async () => {
    const s = setUp();
    const left = (await Bo.create(s.device.driver, { size: 16 * K, placement: "system" })) as Bo;
    expect(s.device.driver.region.objects.get(left.handle) === left).toBe(true);
    await s.svm.close();
    await expect(s.machine.close()).resolves.toBeUndefined();
    expect(left.refs).toBe(0);
    space = null;
  });

  test("sizes and alignments that cannot be are refused", async () => {
    const s = setUp();
    expect(await Bo.create(s.device.driver, { size: 100 })).toBe(EINVAL);
    expect(await Bo.create(s.device.driver, { size: 0 })).toBe(EINVAL);
    expect(await Bo.create(s.device.driver, { size: 4 * K, needs64K: true })).toBe(EINVAL);
    expect(isErr(await Bo.create(s.device.driver, { size: 1024 * MIB }))).toBe(true);
    const a = await s.bo({ size: 64 * K, needs64K: true });
    expect(await s.svm.binds.bind([mapBo(BASE + K, 16 * K, a)])).toBe(EINVAL);
    expect(await s.svm.binds.bind([mapBo(BASE, 17 * K, a)])).toBe(EINVAL);
    expect(await s.svm.binds.bind([mapBo(BASE, 16 * K, a)])).toBe(0);
    expect(s.svm.binds.leafSize(s.svm.binds.at(BASE)!)).toBe(PAGE_SIZE);
  });
});

describe("faults", () => {
  test("a deferred map is bound by its first fault, one fault for all of it", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    await s.withUserMemory(16);
    const ops = [mapBo(s.va(0), 16 * K, a), mapUserptr(s.va(32), 4 * K, s.user), mapNull(s.va(64), K)];
    expect(await s.svm.binds.bind(ops)).toBe(0);
    expect((await s.translate(0)).every((text) => text === "fault 0")).toBe(true);
    const loads = [0, 1, 15, 32, 35, 64].map((page) => ["ld", s.va(page)] as ["ld", number]);
    const words = await s.vm.job(loads, { parallel: true });
    expect(words).toEqual([wordOf(a, 0), wordOf(a, 1), wordOf(a, 15), 0xbeef0000, 0xbeef0003, 0]);
    expect(s.svm.counters.gpuFault).toBe(3);
  });

  test("what is read-only may not be written, where nothing is mapped nothing may be done", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    await s.withUserMemory(16);
    await s.bind({ op: "map", at: 0, pages: 4, bo: a, from: 0, readOnly: true });
    await s.svm.binds.bind([
      mapUserptr(s.va(8), 4 * K, s.user, VM_BIND_READONLY),
      mapNull(s.va(16), 4 * K, VM_BIND_READONLY),
    ]);
    for (const page of [1, 9, 17]) {
      expect(await faultOf(s.vm.gst(s.va(page), 1))).toBe("PERM");
      expect(await faultOf(s.vm.ginc(s.va(page), 1))).toBe("PERM");
      await s.vm.gld(s.va(page));
    }
    expect(await faultOf(s.vm.gld(s.va(100)))).toBe("INVAL");
    expect(await s.process.ld(s.user + K)).toBe(0xbeef0001);
  });

  test("process memory that was unmapped is an error; mapped anew it is there again", async () => {
    const s = setUp();
    await s.withUserMemory(16);
    await s.bind({ op: "user", at: 0, pages: 16, from: 0 });
    await s.process.munmap(s.user + 8 * K, K);
    expect(await faultOf(s.vm.gld(s.va(0)))).toBe("BUS");
    await s.process.mmap(K, { at: s.user + 8 * K });
    await s.process.st(s.user + 8 * K, 3);
    expect(await s.vm.gld(s.va(8))).toBe(3);
    expect(await s.svm.binds.bind([mapUserptr(s.va(32), K, s.user + 64 * MIB, VM_BIND_IMMEDIATE)])).toBe(EFAULT);
    expect(s.svm.binds.at(s.va(32)) === null).toBe(true);
  });

  test("a change of the CPU mapping takes entries away before it is made, and a piece keeps none of them", async () => {
    const s = setUp();
    await s.withUserMemory(16);
    await s.bind({ op: "user", at: 0, pages: 16, from: 0 }, { op: "unmap", at: 4, pages: 4 });
    expect(await s.differences()).toEqual([]);
    await s.vm.gst(s.va(1), 21);
    await s.process.dontneed(s.user + 9 * K, K);
    expect((await s.translate(0)).slice(0, 16).every((text) => text === "fault 0")).toBe(true);
    expect([await s.vm.gld(s.va(9)), await s.vm.gld(s.va(1)), await s.vm.gld(s.va(10))]).toEqual([0, 21, 0xbeef000a]);
  });
});

describe("mirrors beside other mappings", () => {
  test("an object over part of the mirror hides the process there, and -EBUSY keeps it away from ranges", async () => {
    const s = setUp({ vm: { mirror: true } });
    const p = await s.process.mmap(4 * MIB, { align: 2 * MIB });
    await s.process.st(p, 1);
    await s.process.st(p + 2 * MIB, 2);
    const a = await s.bo({ size: 2 * MIB });
    expect(await s.vm.gld(p)).toBe(1);
    expect(await s.svm.binds.bind([mapBo(p, 2 * MIB, a)])).toBe(EBUSY);
    expect(await s.svm.binds.bind([unmap(p, K)])).toBe(EBUSY);
    expect(await s.svm.binds.bind([mapBo(p + 2 * MIB, MIB, a)])).toBe(0);
    expect(await s.vm.gld(p + 2 * MIB)).toBe(wordOf(a, 0));
    expect(await s.process.ld(p + 2 * MIB)).toBe(2);
    // The rest of the 2 MiB is a mirror still, in ranges that end where the object is.
    await s.vm.gst(p + 3 * MIB, 5);
    expect(await s.process.ld(p + 3 * MIB)).toBe(5);
    // A mirror again: nothing happens where it is one, and the process shows where the object was.
    expect(await s.svm.binds.bind([mapMirror(p, 4 * MIB)])).toBe(0);
    expect(await s.vm.gld(p + 2 * MIB)).toBe(2);
    expect(s.svm.ranges(p, p + K)).toHaveLength(1);
  });

  test("a window that is a mirror in parts: elsewhere the process is not there", async () => {
    const s = setUp();
    const p = await s.process.mmap(MIB);
    await s.process.st(p + 64 * K, 4);
    expect(await faultOf(s.vm.gld(p))).toBe("INVAL");
    expect(await s.svm.binds.bind([mapMirror(p + 64 * K, 64 * K)])).toBe(0);
    expect(await s.vm.gld(p + 64 * K)).toBe(4);
    expect(await faultOf(s.vm.gld(p))).toBe("INVAL");
    expect(await faultOf(s.vm.gld(p + 128 * K))).toBe("INVAL");
    for (const range of s.svm.ranges(0, 2 ** 47)) {
      expect(range.start >= p + 64 * K && range.end <= p + 128 * K).toBe(true);
    }
    expect(await s.svm.binds.bind([mapMirror(2 ** 47, K)])).toBe(EINVAL);
    expect(await s.svm.binds.bind([unmap(p + 64 * K, 64 * K)])).toBe(EBUSY);
    await s.process.munmap(p, MIB);
    await s.machine.settle();
    expect(await s.svm.binds.bind([unmap(p + 64 * K, 64 * K)])).toBe(0);
  });

  test("a read-only mirror refuses stores to writable memory", async () => {
    const s = setUp();
    const p = await s.process.mmap(MIB);
    await s.process.st(p, 4);
    await s.svm.binds.bind([mapMirror(p, MIB, VM_BIND_READONLY)]);
    expect(await s.vm.gld(p)).toBe(4);
    expect(await faultOf(s.vm.gst(p, 5))).toBe("PERM");
    expect(await s.process.ld(p)).toBe(4);
  });

  test("a prefetch moves a mirror's memory, over holes, and an object, both ways", async () => {
    const s = setUp({ vm: { mirror: true } });
    const p = await s.process.mmap(4 * MIB, { align: 2 * MIB });
    for (let at = 0; at < 4 * MIB; at += MIB) await s.process.st(p + at, at);
    await s.process.munmap(p + MIB, MIB);
    const a = await s.bo({ size: MIB, placement: "both" });
    await s.svm.binds.bind([mapBo(BASE, MIB, a)]);
    expect(await s.svm.binds.bind([prefetch(p, 4 * MIB, REGION_VRAM), prefetch(BASE, K, REGION_SYSTEM)])).toBe(0);
    expect([p, p + 3 * MIB].every((at) => s.machine.where(s.process, at) === s.device)).toBe(true);
    expect(a.memType).toBe(PL_TT);
    expect(s.svm.binds.at(BASE)!.isValid).toBe(true);
    const faults = s.svm.counters.gpuFault;
    expect([await s.vm.gld(p + 2 * MIB), await s.vm.gld(BASE + 5 * K)]).toEqual([2 * MIB, wordOf(a, 5)]);
    expect(s.svm.counters.gpuFault).toBe(faults);
    expect(await s.svm.binds.bind([prefetch(p, 4 * MIB, REGION_SYSTEM), prefetch(BASE, K, REGION_VRAM)])).toBe(0);
    expect(s.machine.where(s.process, p) === "SYS").toBe(true);
    expect(a.memType).toBe(PL_VRAM);
    const b = await s.bo({ size: MIB });
    await s.svm.binds.bind([mapBo(BASE, MIB, b)]);
    expect(await s.svm.binds.bind([prefetch(BASE, K, REGION_SYSTEM)])).toBe(EINVAL);
  });
});

describe("eviction", () => {
  test("objects beyond VRAM leave through the window to RAM and come back by faults, nothing lost", async () => {
    const s = setUp({ vram: 4 * MIB, window: MIB, pages: 2048 });
    const bos: Bo[] = [];
    for (let i = 0; i < 8; i++) bos.push(await s.bo({ size: MIB }));
    await s.svm.binds.bind(bos.map((bo, i) => mapBo(s.va(i * 256), MIB, bo)));
    for (let turn = 0; turn < 2; turn++) {
      for (const [i, bo] of bos.entries()) {
        expect(await s.vm.gld(s.va(i * 256 + 7))).toBe(wordOf(bo, 7));
        await s.vm.gst(s.va(i * 256 + 9) + 4 * turn + 4, i + turn);
        expect(inVram(...bos)).toBeLessThanOrEqual(4);
        expect(s.device.driver.vramUsed).toBeLessThanOrEqual(4 * MIB);
      }
    }
    expect(bos.some((bo) => bo.memType === PL_SYSTEM)).toBe(true);
    expect(s.svm.counters.evict).toBeGreaterThan(8);
    for (const [i, bo] of bos.entries()) {
      const words = new Uint32Array(((await readBo(bo, 9 * K, 12)) as Uint8Array).buffer);
      expect([...words]).toEqual([wordOf(bo, 9), i, i + 1]);
    }
  });

  test("an object that moves is zapped in every address space that maps it, before its memory is another's", async () => {
    const s = setUp({ vram: 4 * MIB });
    const a = await s.bo({ size: MIB });
    const other = s.createVm();
    const theirs = new Vm(s.device, s.process, other);
    await s.bind({ op: "map", at: 0, pages: 16, bo: a, from: 0 }, { op: "map", at: 50, pages: 4, bo: a, from: 1 });
    await other.binds.bind([mapBo(BASE, MIB, a, 0, VM_BIND_IMMEDIATE)]);
    expect(a.bound.size).toBe(3);
    await s.device.driver.evictBuffers([a]);
    expect((await s.translate(0)).every((text) => text === "fault 0")).toBe(true);
    expect(other.tables.lookup(BASE).kind).toBe("not-present");
    expect([...s.svm.binds.vas(0, 2 ** 48), ...other.binds.vas(0, 2 ** 48)].every((va) => va.invalidated)).toBe(true);
    const b = await s.bo({ size: 4 * MIB - 64 * K });
    expect(await theirs.gld(BASE + 3 * K)).toBe(wordOf(a, 3));
    expect(await s.vm.gld(s.va(51))).toBe(wordOf(a, 2));
    expect(b.memType).not.toBe(PL_VRAM);
    await other.close();
  });

  test("SVM ranges and objects make room for each other", async () => {
    const s = setUp({ vram: 4 * MIB, vm: { mirror: true } });
    const p = await s.process.mmap(4 * MIB, { align: 2 * MIB });
    for (let at = 0; at < 4 * MIB; at += 64 * K) await s.process.st(p + at, at + 1);
    await s.vm.gst(p + 4, 1);
    await s.vm.gst(p + 2 * MIB + 4, 2);
    expect(s.device.driver.vramUsed).toBe(4 * MIB);
    const a = await s.bo({ size: 3 * MIB });
    expect(a.memType).toBe(PL_VRAM);
    await s.svm.binds.bind([mapBo(BASE, 3 * MIB, a)]);
    expect(await s.vm.gld(BASE + 700 * K)).toBe(wordOf(a, 700));
    // And back: the fault of the process's chunk puts the object out.
    expect(await s.vm.gld(p)).toBe(1);
    expect(a.memType).not.toBe(PL_VRAM);
    expect(await s.vm.gld(BASE + 700 * K)).toBe(wordOf(a, 700));
    for (let at = 0; at < 4 * MIB; at += 64 * K) expect(await s.process.ld(p + at)).toBe(at + 1);
    expect([await s.process.ld(p + 4), await s.process.ld(p + 2 * MIB + 4)]).toEqual([1, 2]);
  });

  test("objects of one round keep each other in; a launch that needs more than VRAM says so", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 2048 });
    const bos = [await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB })];
    await s.svm.binds.bind(bos.map((bo, i) => mapBo(s.va(i * 512), 2 * MIB, bo)));
    await s.vm.gcpy(s.va(0), s.va(512), 64 * K);
    expect(await s.vm.gld(s.va(3))).toBe(wordOf(bos[1]!, 3));
    const large = await Bo.create(s.device.driver, { size: 8 * MIB });
    expect(isErr(large)).toBe(true);
  });

  test("a bind keeps in what it has brought in; what does not fit together fails as a whole", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 2048 });
    const bos = [await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB })];
    const ops = bos.map((bo, i) => mapBo(s.va(i * 512), 2 * MIB, bo, 0, VM_BIND_IMMEDIATE));
    expect(await s.svm.binds.bind(ops)).toBe(ENOMEM);
    expect(s.svm.binds.vas(0, 2 ** 48)).toHaveLength(0);
    expect(await s.svm.binds.bind(ops.slice(0, 2))).toBe(0);
    expect([await s.vm.gld(s.va(1)), await s.vm.gld(s.va(513))]).toEqual([wordOf(bos[0]!, 1), wordOf(bos[1]!, 1)]);
    expect(s.svm.counters.gpuFault).toBe(0);
  });

  test("what is left of a mapping that was cut loses its entries with the object, though they were never rewritten", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    await s.bind({ op: "map", at: 0, pages: 256, bo: a, from: 0 });
    await s.bind({ op: "unmap", at: 64, pages: 64 });
    expect(a.bound.size).toBe(2);
    expect(await s.differences()).toEqual([]);
    await s.device.driver.evictBuffers([a]);
    expect((await s.translate(0)).every((text) => text === "fault 0")).toBe(true);
    expect([await s.vm.gld(s.va(3)), await s.vm.gld(s.va(200))]).toEqual([wordOf(a, 3), wordOf(a, 200)]);
  });

  test("private objects share a reservation, and still one bind does not put out what it has just brought in", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 2048 });
    const bos: Bo[] = [];
    for (let i = 0; i < 3; i++) bos.push(await s.bo({ size: 2 * MIB, vm: s.svm }));
    const ops = bos.map((bo, i) => mapBo(s.va(i * 512), 2 * MIB, bo, 0, VM_BIND_IMMEDIATE));
    expect(await s.svm.binds.bind(ops)).toBe(ENOMEM);
    expect(s.svm.binds.vas(0, 2 ** 48)).toHaveLength(0);
    // One after the other they may take each other's place.
    for (const op of ops) expect(await s.svm.binds.bind([op])).toBe(0);
    expect(inVram(...bos)).toBe(2);
    expect(await s.vm.gld(s.va(5))).toBe(wordOf(bos[0]!, 5));
  });

  test("objects in the window make room for process memory that is mapped in place", async () => {
    const s = setUp({ window: 16 * K, vram: 4 * MIB });
    await s.withUserMemory(32);
    expect(isErr(await Bo.create(s.device.driver, { size: 16 * K, placement: "system" }))).toBe(true);
    const b = await s.bo({ size: 12 * K, placement: "system" });
    await s.bind({ op: "map", at: 0, pages: 12, bo: b, from: 0 });
    await s.svm.binds.bind([mapUserptr(s.va(32), 10 * K, s.user)]);
    expect(await s.vm.gld(s.va(33))).toBe(0xbeef0001);
    expect(b.memType).toBe(PL_SYSTEM);
  });
});

describe("without fault mode", () => {
  test("maps are bound at once, and a launch brings back what was evicted, for as long as it runs", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 1024, vm: { faultMode: false } });
    const [a, b] = [await s.bo({ size: 2 * MIB }), await s.bo({ size: MIB })];
    expect(await s.svm.binds.bind([mapBo(s.va(0), 2 * MIB, a), mapBo(s.va(512), MIB, b)])).toBe(0);
    expect(await s.translate(0)).not.toContain("fault 1");
    const c = await s.bo({ size: 3 * MIB });
    expect(inVram(a, b)).toBeLessThan(2);
    expect((await s.translate(0)).slice(0, 768)).toContain("fault 0");
    await s.vm.gcpy(s.va(0), s.va(512), 64 * K);
    expect(await s.vm.gld(s.va(5))).toBe(wordOf(b, 5));
    expect(inVram(a, b)).toBe(2);
    expect(s.svm.counters.gpuFault).toBe(0);
    expect(c.memType).not.toBe(PL_VRAM);
  });

  test("a fault is an error, a mirror is refused, too much is refused before the kernel runs", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 2048, vm: { faultMode: false } });
    expect(await s.svm.binds.bind([mapMirror(s.va(0), K)])).toBe(EINVAL);
    expect(await faultOf(s.vm.gld(s.va(9)))).toBe("INVAL");
    const bos = [await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB }), await s.bo({ size: 2 * MIB })];
    for (const [i, bo] of bos.entries()) expect(await s.svm.binds.bind([mapBo(s.va(i * 512), 2 * MIB, bo)])).toBe(0);
    await expect(s.vm.gst(s.va(3), 1)).rejects.toThrow("resident");
    await s.svm.binds.bind([unmapAll(bos[1]!)]);
    expect(await s.vm.gld(s.va(3))).toBe(wordOf(bos[0]!, 3));
  });

  test("streams have nothing to bring: what is mapped is there when a launch begins", async () => {
    const s = setUp({ vram: 4 * MIB, pages: 1024, vm: { faultMode: false } });
    const bo = await s.bo({ size: 2 * MIB });
    expect(await s.svm.binds.bind([mapBo(s.va(0), 2 * MIB, bo)])).toBe(0);
    const out = await s.vm.kernel("", {
      items: 512,
      outWords: 512,
      streams: [{ at: s.va(0), bytes: 2 * MIB, access: "read" }],
      reference(item, c) {
        const at = c.translate(s.va(item), 0);
        if (!c.missed) c.out[item] = c.load(at);
      },
    });
    expect([...out]).toEqual(Array.from({ length: 512 }, (_, page) => wordOf(bo, page)));
    expect(s.svm.stats.get("wgsvm_stream_pass_count")).toBe(0);
    expect(s.svm.counters.hintDropped).toBe(0);
  });

  test("process memory that changes between launches is looked up again", async () => {
    const s = setUp({ vm: { faultMode: false } });
    await s.withUserMemory(16);
    await s.svm.binds.bind([mapUserptr(s.va(0), 16 * K, s.user)]);
    await s.process.dontneed(s.user + K, K);
    await s.process.st(s.user + K, 12);
    expect([await s.vm.gld(s.va(1)), await s.vm.gld(s.va(2))]).toEqual([12, 0xbeef0002]);
    await s.process.munmap(s.user, K);
    expect(await faultOf(s.vm.gld(s.va(1)))).toBe("BUS");
  });

  test("process memory of two address spaces takes turns in the window; what does not fit together is refused", async () => {
    // Three pages can be mapped at a time.
    const s = setUp({ window: 4 * K, vm: { faultMode: false } });
    await s.withUserMemory(16);
    const other = new Vm(s.device, s.process, s.createVm({ faultMode: false }));
    expect(await s.svm.binds.bind([mapUserptr(s.va(0), 2 * K, s.user)])).toBe(0);
    expect(await other.svm.binds.bind([mapUserptr(s.va(0), 2 * K, s.user + 8 * K)])).toBe(0);
    for (let turn = 0; turn < 3; turn++) {
      await s.vm.gst(s.va(1), turn);
      await other.gst(s.va(1), 10 + turn);
      expect([await s.process.ld(s.user + K), await s.process.ld(s.user + 9 * K)]).toEqual([turn, 10 + turn]);
    }
    // Side by side, in many orders: each holds its own for as long as its launch runs, and the other waits for that.
    for (let seed = 1; seed <= 12; seed++) {
      await s.machine.sched.race<unknown>(seed, [() => s.vm.gst(s.va(0), seed), () => other.gst(s.va(0), -seed)]);
      expect([await s.process.ld(s.user), await s.process.ld(s.user + 8 * K)]).toEqual([seed, -seed >>> 0]);
    }
    expect(await s.svm.binds.bind([mapUserptr(s.va(8), 2 * K, s.user + 4 * K)])).toBe(0);
    const gaveWay = (): number => s.device.driver.stats.get("wgsvm_window_reclaim_count");
    const before = gaveWay();
    await expect(s.vm.gld(s.va(1))).rejects.toThrow("resident");
    // Its own mappings do not make room for each other.
    expect(gaveWay() - before).toBeLessThan(2);
    await s.svm.binds.bind([unmap(s.va(8), 2 * K)]);
    expect(await s.vm.gld(s.va(1))).toBe(2);
    await other.svm.close();
  });
});

describe("calls", () => {
  test("wait for their fences without holding up the address space, and keep the order of their queue", async () => {
    const s = setUp();
    const a = await s.bo({ size: MIB });
    const { binds } = s.svm;
    const queue = new BindQueue(binds.bindVm);
    const [gate, first, second] = [new Completion(), new Completion(), new Completion()];
    const slow = binds.bind([mapBo(s.va(0), K, a)], { queue, waits: [gate], signals: [first] });
    const behind = binds.bind([mapBo(s.va(0), K, a, K)], { queue, signals: [second] });
    expect(await binds.bind([mapBo(s.va(8), K, a)])).toBe(0);
    expect(await s.vm.gld(s.va(8))).toBe(wordOf(a, 0));
    expect([first.isDone, second.isDone]).toEqual([false, false]);
    gate.complete();
    expect([await slow, await behind]).toEqual([0, 0]);
    expect([first.isDone, second.isDone]).toEqual([true, true]);
    expect(await s.vm.gld(s.va(0))).toBe(wordOf(a, 1));
  });

  test("after close and ban every use is -ENOENT", async () => {
    const s = setUp({ vm: { onFatal: "ban" } });
    const other = s.createVm();
    await other.close();
    expect(await other.binds.bind([mapNull(BASE, K)])).toBe(ENOENT);
    expect(await faultOf(s.vm.gld(s.va(0)))).toBe("INVAL");
    expect(await s.svm.binds.bind([mapNull(BASE, K)])).toBe(ENOENT);
  });

  test("without room for page tables nothing is bound, and what was reserved is given back", async () => {
    const s = setUp({ pages: 4, vram: 4 * MIB });
    const before = s.svm.tableBytes;
    const far = (i: number): number => 2 ** 40 + i * 2 ** 30;
    const ops = Array.from({ length: 300 }, (_, i) => mapNull(far(i), K, VM_BIND_IMMEDIATE));
    expect(await s.svm.binds.bind(ops)).toBe(ENOMEM);
    expect([s.svm.tableBytes, s.svm.binds.vas(0, 2 ** 48).length]).toEqual([before, 0]);
    expect(await s.svm.binds.bind(ops.slice(0, 100))).toBe(0);
    expect(await s.svm.binds.bind([unmap(2 ** 40, 2 ** 39)])).toBe(0);
    expect(s.svm.tableBytes).toBe(before);
  });

  test("addresses of 57 bits are mapped and reached", async () => {
    const s = setUp({ base: 3 * 2 ** 48, vm: { vaBits: 57 } });
    const a = await s.bo({ size: MIB });
    await s.bind({ op: "map", at: 0, pages: 32, bo: a, from: 0 });
    expect(await s.differences()).toEqual([]);
    await s.vm.gst(s.va(1), 4);
    expect(await s.vm.gld(s.va(1))).toBe(4);
    const low = s.createVm();
    expect(await low.binds.bind([mapNull(2 ** 48, K)])).toBe(EINVAL);
    await low.close();
  });
});

test("copy jobs reach all of VRAM through the kernel's address space, and nothing behind it", async () => {
  const s = setUp();
  const a = await s.bo({ size: 64 * K });
  const kernel = s.device.driver.kernelVm();
  expect(isErr(kernel)).toBe(false);
  const { gpu } = s.device;
  const pa = [...a.runs()][0]!.page * K;
  const batch = new JobBatch();
  const out = s.machine.phys.allocPage() as number;
  const asid = KERNEL_ASID;
  batch.copy({ from: AP_VA, source: KernelVm.vaOf(pa), to: AP_HOST, target: out * K, bytes: 4, asid });
  batch.copy({ from: AP_VA, source: KernelVm.vaOf(gpu.info.vramBytes), to: AP_HOST, target: out * K, bytes: 4, asid });
  const results = await gpu.submitJobs(batch);
  expect(results.map(({ status }) => status)).toEqual([JOB_OK, E_FAULT]);
  expect(new Uint32Array(s.machine.phys.ram.buffer)[out * 1024]).toBe(wordOf(a, 0));
  s.machine.phys.putPage(out);
});
