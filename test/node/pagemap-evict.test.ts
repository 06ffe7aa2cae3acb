import { describe, expect, test } from "vitest";
import { EBUSY, EFAULT, EIO, ENOMEM } from "../../src/base/errno.ts";
import { drmPagemapEvictToRam } from "../../src/pagemap/evict-to-ram.ts";
import {
  type Bo,
  KB64,
  MB2,
  type Machine,
  PAGE,
  expectBalanced,
  expectBytes,
  filled,
  kinds,
  machine,
  migrateIn,
  readOk,
} from "./pagemap-array-vram.ts";

const turn = () => new Promise((resume) => setImmediate(resume));

/** Evicts as a memory manager does: with a reference of its own. */
async function evict(bo: Bo): Promise<number> {
  bo.refs += 1;
  const ret = await drmPagemapEvictToRam(bo);
  bo.put();
  return ret;
}

function onlyBo(m: Machine): Bo {
  expect(m.vram.live.size).toBe(1);
  return [...m.vram.live][0]!;
}

/** One reference on a device page is tolerated until the move itself, as a CPU fault has one; two are not. */
function hold(m: Machine, pfn: number): void {
  m.phys.getPage(pfn);
  m.phys.getPage(pfn);
}
function letGo(m: Machine, pfn: number): void {
  m.phys.putPage(pfn);
  m.phys.putPage(pfn);
}

describe("eviction to RAM", () => {
  test("brings every byte home without knowing the addresses, and ignores the time slice", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, MB2);
    await migrateIn(m, start, start + MB2, 1000);
    const bo = onlyBo(m);
    expect(await evict(bo)).toBe(0);
    expect(bo.detached.isDone).toBe(true);
    expect(kinds(m.mm, start, start + MB2)).toEqual({ present: 512 });
    expect(m.vram.releases).toBe(1);
    expect(m.vram.copiesOut).toBe(1);
    expectBytes(await readOk(m.mm, start, MB2), bytes);
    expect(m.mm.deviceFaults).toBe(0);
    await expectBalanced(m);
  });

  test("an allocation whose pages were all freed meanwhile needs no copy and is 0", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const bo = onlyBo(m);
    bo.refs += 1;
    await m.mm.munmap(start, KB64);
    expect(await drmPagemapEvictToRam(bo)).toBe(0);
    bo.put();
    expect(m.vram.copiesOut).toBe(0);
    await expectBalanced(m);
  });

  test("several at once do not disturb each other", async () => {
    const m = machine();
    const pieces = [];
    for (let i = 0; i < 6; i++) {
      const piece = await filled(m.mm, KB64);
      await migrateIn(m, piece.start, piece.start + KB64);
      pieces.push(piece);
    }
    m.vram.duringCopyToRam = async () => void (await turn());
    const evictions = [...m.vram.live].map((bo) => evict(bo));
    expect(await Promise.all(evictions)).toEqual([0, 0, 0, 0, 0, 0]);
    for (const { start, bytes } of pieces) expectBytes(await readOk(m.mm, start, KB64), bytes);
    expect(m.vram.releases).toBe(6);
    await expectBalanced(m);
  });

  test("R5: while a CPU fault migrates the same allocation, each page moves once and it is released once", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    const bo = onlyBo(m);
    let evicting: Promise<number> | null = null;
    m.vram.duringCopyToRam = async () => {
      evicting ??= evict(bo); // Begins while the fault holds all pages locked.
      await turn();
    };
    const read = await readOk(m.mm, start, KB64);
    expectBytes(read, bytes);
    expect(await evicting!).toBe(0);
    expect(m.vram.releases).toBe(1);
    await expectBalanced(m);
  });

  test("a page that somebody keeps hold of stays: three passes, then -EBUSY, and the others are home", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64, 0x40000000);
    await migrateIn(m, start, start + KB64);
    const pfn = m.mm.devicePfnAt(start + 3 * PAGE);
    hold(m, pfn);
    const bo = onlyBo(m);
    expect(await evict(bo)).toBe(EBUSY);
    expect(kinds(m.mm, start, start + KB64)).toEqual({ present: 15, "device-private": 1 });
    expect(m.vram.copiesOut, "a pass that finds nothing to move copies nothing").toBe(1);
    letGo(m, pfn);
    expect(await evict(bo)).toBe(0);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("a page held only for a while is fetched by a later pass", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const pfn = m.mm.devicePfnAt(start);
    hold(m, pfn);
    m.vram.duringCopyToRam = () => {
      m.vram.duringCopyToRam = null;
      letGo(m, pfn);
    };
    expect(await evict(onlyBo(m))).toBe(0);
    expect(m.vram.copiesOut).toBe(2);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("a copy that fails leaves everything in device memory; the next pass repairs it", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    m.vram.failCopyToRam = EIO;
    expect(await evict(onlyBo(m))).toBe(0);
    expect(m.vram.copiesOut).toBe(2);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("a copy that always fails is its error, and no byte is lost", async () => {
    const m = machine();
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    m.vram.duringCopyToRam = () => {
      m.vram.failCopyToRam = EIO;
    };
    expect(await evict(onlyBo(m))).toBe(EIO);
    m.vram.duringCopyToRam = null;
    m.vram.failCopyToRam = 0;
    expect(kinds(m.mm, start, start + KB64)).toEqual({ "device-private": 16 });
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("when RAM is used up it is -ENOMEM, and no byte is lost", async () => {
    const m = machine(64);
    const { start, bytes } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const hog = (await m.mm.mmap(61 * PAGE)) as number;
    await m.mm.fill(hog, 61 * PAGE, 1);
    expect(await evict(onlyBo(m))).toBe(ENOMEM);
    await m.mm.munmap(hog, 61 * PAGE);
    expectBytes(await readOk(m.mm, start, KB64), bytes);
    await expectBalanced(m);
  });

  test("R11: a process that exits during the copy: the pages end, the allocation is released once, nothing is lost or kept", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const bo = onlyBo(m);
    let exiting: unknown;
    m.vram.duringCopyToRam = async () => {
      exiting = m.mm.exit();
      await turn();
    };
    expect(await evict(bo)).toBe(0);
    await exiting;
    await m.phys.sched.settle();
    expect(m.mm.exited.isDone).toBe(true);
    expect(m.vram.releases).toBe(1);
    expect(m.vram.live.size).toBe(0);
    expect(m.phys.freePages).toBe(m.phys.ramPages - 2);
  });

  test("after the process is gone it is -EFAULT, and the exit has released the allocation", async () => {
    const m = machine();
    const { start } = await filled(m.mm, KB64);
    await migrateIn(m, start, start + KB64);
    const bo = onlyBo(m);
    bo.refs += 1;
    m.mm.mmgrab();
    await m.mm.exit();
    expect(m.vram.releases).toBe(1);
    expect(await drmPagemapEvictToRam(bo)).toBe(EFAULT);
    bo.put();
    m.mm.mmdrop();
    expect(m.vram.live.size).toBe(0);
  });
});
