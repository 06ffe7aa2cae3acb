import { describe, expect, test } from "vitest";
import { EFAULT, EINVAL, EIO, ENOENT, ENOMEM, EPERM, isErr } from "../../src/base/errno.ts";
import { type GpuSvmCtx, gpuSvmCtx } from "../../src/gpusvm/ctx.ts";
import { MIGRATE_DEVMEM } from "../../src/gpusvm/flags.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import { hmmPfnToOrder } from "../../src/gpusvm/hmm-lookup.ts";
import type { GpuSvmInit } from "../../src/gpusvm/init.ts";
import { MMU_NOTIFY_UNMAP } from "../../src/mm/types.ts";
import { type AreaSpec, ModelProcess, type PageRun, hexOf, neverWaits, now } from "../vectors/gpusvm-process.ts";

const KB64 = 65536;
const MB2 = 2 << 20;
const WHOLE: [number, number] = [0, 2 ** 47];

interface Setup extends Partial<GpuSvmInit> {
  vma: AreaSpec[];
  pages?: PageRun[];
}

function setUp({ vma, pages = [], ...changes }: Setup): { svm: GpuSvm; process: ModelProcess } {
  const process = new ModelProcess(vma, pages);
  const svm = new GpuSvm({
    name: "test",
    drm: { dmaMapPage: (pfn) => pfn * 4096, dmaUnmapPage: () => undefined },
    mm: process,
    mmStart: 0,
    mmRange: 2 ** 47,
    notifierSize: 512 << 20,
    chunkSizes: [MB2, KB64, 4096],
    ops: {
      invalidate: (gpusvm, notifier, mmuRange) => {
        for (const range of notifier.forEachRange(mmuRange.start, mmuRange.end))
          gpusvm.rangeSetUnmapped(range, mmuRange);
      },
    },
    scheduler: neverWaits,
    ...changes,
  });
  return { svm, process };
}

/** `[0x200000, 0x400000)` of the range that the fault gets, or the errno. */
function fault(svm: GpuSvm, addr: number, [start, end] = WHOLE, ctx: GpuSvmCtx = gpuSvmCtx()): string | number {
  const range = now(svm.rangeFindOrInsert(addr, start, end, ctx));
  return isErr(range) ? range : `[${hexOf(range.start)}, ${hexOf(range.end)})`;
}

const sys = (start: number, end: number): PageRun => [hexOf(start), hexOf(end), "sys", 0, 1, "0x200", -1, -1];
const threshold = (checkPagesThreshold: number) => gpuSvmCtx({ checkPagesThreshold });

describe("the chunk of a fault", () => {
  const plain: AreaSpec[] = [["0x200000", "0x800000", "rw"]];
  const offset: AreaSpec[] = [["0x210000", "0x800000", "rw"]];

  test("C1: the largest chunk above the threshold needs no page present", () => {
    expect(fault(setUp({ vma: plain }).svm, 0x234567, WHOLE, threshold(KB64))).toBe("[0x200000, 0x400000)");
  });
  test("C2: 2M sticks out of the area, 64K is not present: 4K", () => {
    expect(fault(setUp({ vma: offset }).svm, 0x234000, WHOLE, threshold(KB64))).toBe("[0x234000, 0x235000)");
  });
  test("C3: 64K with all its pages present", () => {
    const { svm } = setUp({ vma: offset, pages: [sys(0x230000, 0x240000)] });
    expect(fault(svm, 0x234000, WHOLE, threshold(KB64))).toBe("[0x230000, 0x240000)");
  });
  test("C4: without a threshold 64K need not be present", () => {
    expect(fault(setUp({ vma: offset }).svm, 0x234000)).toBe("[0x230000, 0x240000)");
  });
  test("C5: an existing range anywhere in the 2M chunk rules it out", () => {
    const { svm } = setUp({ vma: plain });
    expect(fault(svm, 0x3ff000, [0x3ff000, 0x400000])).toBe("[0x3ff000, 0x400000)");
    expect(fault(svm, 0x200000)).toBe("[0x200000, 0x210000)");
  });
  test("C6: 2M and 64K stick out of the GPU's interval", () => {
    const { svm } = setUp({ vma: plain, pages: [sys(0x200000, 0x800000)] });
    expect(fault(svm, 0x2fe000, [0x200000, 0x2ff000])).toBe("[0x2fe000, 0x2ff000)");
  });
  test("C7: 2M fits, so presence of 64K does not matter", () => {
    const { svm } = setUp({ vma: plain, pages: [sys(0x700000, 0x70f000)] });
    expect(fault(svm, 0x700000, WHOLE, threshold(KB64))).toBe("[0x600000, 0x800000)");
  });
  test("C8: 15 of the 16 pages are not all", () => {
    const { svm } = setUp({ vma: [["0x200000", "0x7ff000", "rw"]], pages: [sys(0x700000, 0x70f000)] });
    expect(fault(svm, 0x700000, WHOLE, threshold(KB64))).toBe("[0x700000, 0x701000)");
  });
  test("C9: no area, -ENOENT", () => {
    expect(fault(setUp({ vma: plain }).svm, 0x800000)).toBe(ENOENT);
  });
  test("C10: a read-only area is -EPERM for a GPU that writes, normal for one that reads", () => {
    const { svm } = setUp({ vma: [["0x200000", "0x800000", "r"]] });
    expect(fault(svm, 0x234567)).toBe(EPERM);
    expect(fault(svm, 0x234567, WHOLE, gpuSvmCtx({ readOnly: true }))).toBe("[0x200000, 0x400000)");
  });
  test("C11: an existing range is returned as it is, unmapped and outside the GPU's interval or not", () => {
    const { svm, process } = setUp({ vma: plain });
    const first = now(svm.rangeFindOrInsert(0x200000, ...WHOLE, gpuSvmCtx()));
    process.invalidate({ start: 0x200000, end: 0x201000, event: MMU_NOTIFY_UNMAP, blockable: true, owner: null });
    const again = now(svm.rangeFindOrInsert(0x300000, 0x300000, 0x400000, gpuSvmCtx()));
    expect(again).toBe(first);
    expect((again as NonNullable<typeof first> & { unmapped: boolean }).unmapped).toBe(true);
  });

  const c12 = { vma: [["0x0", "0x200000", "rw"]] as AreaSpec[], mmStart: 0x1000, mmRange: 0x100000 };
  test("C12: the mirror window bounds the chunk, and its end is outside", () => {
    expect(fault(setUp(c12).svm, 0x1000)).toBe("[0x1000, 0x2000)");
    expect(fault(setUp(c12).svm, 0x100fff)).toBe("[0x100000, 0x101000)");
    expect(fault(setUp(c12).svm, 0x101000)).toBe(EINVAL);
    expect(fault(setUp(c12).svm, 0xfff)).toBe(EINVAL);
  });
  test.each(["6.15", "6.18", "7.0"] as const)("C12 under %s: it does neither", (compat) => {
    expect(fault(setUp({ ...c12, compat }).svm, 0x1000)).toBe("[0x0, 0x200000)");
    expect(fault(setUp({ ...c12, compat }).svm, 0x101000)).toBe("[0x0, 0x200000)");
  });

  const c13 = { vma: [["0x80000000", "0x80400000", "rw"]] as AreaSpec[], notifierSize: MB2 };
  test("C13: the last byte of a window belongs to that window", () => {
    const { svm } = setUp(c13);
    expect(fault(svm, 0x80200000, [0x80200000, 0x80201000])).toBe("[0x80200000, 0x80201000)");
    expect(fault(svm, 0x801fffff)).toBe("[0x80000000, 0x80200000)");
    expect(svm.notifierCount).toBe(2);
  });
  test("C13 under 6.15: it gets the next one, and no chunk fits", () => {
    const { svm } = setUp({ ...c13, compat: "6.15" });
    expect(fault(svm, 0x80200000, [0x80200000, 0x80201000])).toBe("[0x80200000, 0x80201000)");
    expect(fault(svm, 0x801fffff)).toBe(EINVAL);
  });
});

describe("a fault that fails", () => {
  test.each([
    ["outside the mirror window", EINVAL, (s: ReturnType<typeof setUp>) => fault(s.svm, 2 ** 47)],
    [
      "in an address space that is gone",
      EFAULT,
      (s: ReturnType<typeof setUp>) => ((s.process.alive = false), fault(s.svm, 0x200000)),
    ],
    ["outside the areas", ENOENT, (s: ReturnType<typeof setUp>) => fault(s.svm, 0x1000)],
    [
      "in a GPU interval without the page",
      EINVAL,
      (s: ReturnType<typeof setUp>) => fault(s.svm, 0x200000, [0x200800, 0x300000]),
    ],
  ])("%s leaves no notifier and no interval behind", (_name, code, attempt) => {
    const s = setUp({ vma: [["0x200000", "0x800000", "rw"]] });
    expect(attempt(s)).toBe(code);
    expect(s.svm.notifierCount).toBe(0);
    expect(s.process.notifierCount).toBe(0);
  });

  test("on device memory mapped into the process is -EIO", () => {
    const s = setUp({ vma: [["0x200000", "0x800000", "rw"]] });
    const lookup = s.process.vmaLookup.bind(s.process);
    s.process.vmaLookup = (addr) => ({
      ...lookup(addr)!,
      start: 0x200000,
      end: 0x800000,
      writable: true,
      special: true,
    });
    expect(fault(s.svm, 0x200000)).toBe(EIO);
    expect(s.process.notifierCount).toBe(0);
  });

  test.each(["notifierAlloc", "rangeAlloc"] as const)("%s without memory is -ENOMEM", (name) => {
    const ops = { invalidate: () => undefined, [name]: () => null };
    const s = setUp({ vma: [["0x200000", "0x800000", "rw"]], ops });
    expect(fault(s.svm, 0x200000)).toBe(ENOMEM);
    expect(s.process.notifierCount).toBe(0);
  });

  test("on an existing range whose area is gone is -ENOENT, whose area is read-only now -EPERM", () => {
    const s = setUp({ vma: [["0x200000", "0x800000", "rw"]] });
    fault(s.svm, 0x200000);
    s.process.protect(0x200000, 0x400000, false);
    expect(fault(s.svm, 0x200000)).toBe(EPERM);
    s.process.unmap(0x200000, 0x400000);
    expect(fault(s.svm, 0x200000)).toBe(ENOENT);
  });
});

describe("a new range may migrate", () => {
  test.each([
    ["rw", true, MIGRATE_DEVMEM],
    ["rw", false, 0],
    ["rwf", true, 0],
    ["rwh", true, 0],
  ])("in an area of kind %s with devmemPossible %s: flags %i", (kind, devmemPossible, flags) => {
    const { svm } = setUp({ vma: [["0x200000", "0x800000", kind]] });
    const range = now(svm.rangeFindOrInsert(0x200000, ...WHOLE, gpuSvmCtx({ devmemPossible })));
    expect(isErr(range) ? range : range.flags).toBe(flags);
  });
});

describe("9.2: the order of an entry is cut to the huge page and the range", () => {
  test.each([
    [9, 0, 0, 512, 9],
    [9, 16, 0, 16, 4],
    [9, 0, 500, 512, 3],
    [9, 1, 0, 512, 8],
    [0, 5, 3, 16, 0],
    [18, 2 ** 18, 0, 2 ** 18, 18],
  ])("map order %i, frame %i, page %i of %i: order %i", (mapOrder, pfn, index, npages, order) => {
    expect(hmmPfnToOrder(mapOrder, pfn, index, npages)).toBe(order);
  });

  test.each([
    [undefined, 4],
    ["6.15", 9],
  ] as const)("a 64K range inside a huge page is one entry; compat %s: order %i", (compat, order) => {
    const pages: PageRun[] = [["0x200000", "0x400000", "sys", 9, 1, "0x200", -1, -1]];
    const { svm } = setUp({
      vma: [["0x200000", "0x800000", "rw"]],
      pages,
      ...(compat === undefined ? {} : { compat }),
    });
    const range = now(svm.rangeFindOrInsert(0x210000, 0x210000, 0x220000, gpuSvmCtx()));
    if (isErr(range)) throw new Error(String(range));
    expect(now(svm.rangeGetPages(range, gpuSvmCtx()))).toBe(0);
    const addrs = range.pages.dmaAddr!;
    expect([addrs.count, addrs.order(0), addrs.addr[0]]).toEqual([1, order, 0x210 * 4096]);
  });
});
