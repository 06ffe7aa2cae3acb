import { describe, expect, test } from "vitest";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions } from "../../src/machine/machine.ts";
import type { Process } from "../../src/machine/process.ts";
import { checkInvariants } from "../../src/mm/invariants.ts";

const MIB = 1 << 20;
const CHUNK = 2 * MIB;

async function setUp(writeBack: DeviceOptions["writeBack"], o: { ram?: number; vram?: number } = {}) {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: o.ram ?? 64 * MIB });
  const gpu = machine.createDevice({
    vram: o.vram ?? 8 * MIB,
    window: MIB,
    ...(writeBack === undefined ? {} : { writeBack }),
  });
  const process = machine.createProcess();
  const vm = gpu.vm(process);
  const a = await process.mmap(CHUNK, { align: CHUNK });
  await process.fill(a, CHUNK, 0x11);
  return { machine, gpu, process, vm, a };
}
type Rig = Awaited<ReturnType<typeof setUp>>;

async function lose({ gpu, machine }: Rig): Promise<void> {
  gpu.gpu.destroy();
  await gpu.gpu.lost;
  await machine.settle();
}

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "ok",
    (error: { code?: string }) => error.code ?? String(error),
  );
}

function filled(bytes: number, byte: number): Buffer {
  return Buffer.alloc(bytes, byte);
}

async function expectBytes(process: Process, at: number, bytes: Uint8Array): Promise<void> {
  expect(Buffer.compare(await process.read(at, bytes.length), bytes)).toBe(0);
}

/** Nothing is left behind: every frame and every page of VRAM comes free, and a new device works. */
async function expectCleanEnd(rig: Rig, freeBefore: number): Promise<void> {
  const { machine, process, vm } = rig;
  const next = machine.createDevice({ vram: 8 * MIB, window: MIB }).vm(process);
  const fresh = await process.mmap(CHUNK, { align: CHUNK });
  await next.gfill(fresh, CHUNK, 0x5a);
  await expectBytes(process, fresh, filled(CHUNK, 0x5a));
  checkInvariants(machine.phys);
  await vm.close();
  await process.exit();
  await machine.settle();
  checkInvariants(machine.phys);
  expect(machine.phys.freePages).toBe(freeBefore);
}

describe("without write-back", () => {
  test("what VRAM alone has is lost, page by page", async () => {
    const rig = await setUp(undefined);
    await rig.vm.gst(rig.a, 5);
    await lose(rig);
    expect(rig.gpu.writeBack).toBeNull();
    expect(rig.gpu.lostPages(rig.process).vram).toHaveLength(512);
    expect(await codeOf(rig.process.ld(rig.a))).toBe("BUS");
  });
});

describe("a shadow", () => {
  test("is taken when a buffer moves in: what no kernel may have written survives, and is not listed", async () => {
    const rig = await setUp({});
    const { gpu, process, vm, a } = rig;
    await vm.toVram(a, CHUNK);
    expect(gpu.writeBack).toMatchObject({ heldBytes: CHUNK, refreshes: 0 });
    await lose(rig);
    expect(gpu.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectBytes(process, a, filled(CHUNK, 0x11));
    expect(gpu.lostPages(process)).toEqual({ vram: [], stale: [] });
    expect(gpu.writeBack!.heldBytes).toBe(0);
  });

  test("of memory that nobody has touched takes no RAM and reads zero", async () => {
    const rig = await setUp({});
    const { gpu, process, vm } = rig;
    const hole = await process.mmap(CHUNK, { align: CHUNK });
    await vm.toVram(hole, CHUNK);
    expect(gpu.writeBack!.heldBytes).toBe(0);
    await lose(rig);
    await expectBytes(process, hole, filled(CHUNK, 0));
  });

  test("is exact again after every refresh, and the page is listed as stale as soon as a round may have written it", async () => {
    const rig = await setUp({ rounds: 4 });
    const { gpu, process, vm, a } = rig;
    // Rounds: fault and replay; then one each.
    await vm.gst(a, 1);
    await vm.gst(a + 4, 2);
    expect(gpu.writeBack!.refreshes).toBe(0);
    await vm.gst(a + 8, 3);
    expect(gpu.writeBack).toMatchObject({ refreshes: 1, copiedBytes: CHUNK });
    await vm.gst(a + 12, 4);
    await lose(rig);
    const { vram, stale } = gpu.lostPages(process);
    expect([vram, stale.length, stale[0]]).toEqual([[], 512, { addr: a, round: 4 }]);
    expect([await process.ld(a), await process.ld(a + 4), await process.ld(a + 8)]).toEqual([1, 2, 3]);
    expect(await process.ld(a + 12)).toBe(0x11111111);
    // Brought home, they are what they were: stale.
    expect(gpu.lostPages(process)).toEqual({ vram: [], stale });
    // Gone, and another page in its place.
    await process.dontneed(a, CHUNK);
    await process.fill(a, CHUNK, 7);
    expect(gpu.lostPages(process).stale).toEqual([]);
  });

  test("of memory mapped for reading only is never copied again", async () => {
    const rig = await setUp({ rounds: 1 });
    const { gpu, process, vm, a } = rig;
    await process.mprotect(a, CHUNK, "R");
    for (let i = 0; i < 4; i++) expect(await vm.gld(a + i * 4096)).toBe(0x11111111);
    expect(gpu.writeBack!.copiedBytes).toBe(0);
    await lose(rig);
    expect(gpu.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectBytes(process, a, filled(CHUNK, 0x11));
  });

  test("is not copied again for the rounds of an address space that does not map the page", async () => {
    const rig = await setUp({ rounds: 1 });
    const { gpu, process, vm, a, machine } = rig;
    await vm.gst(a, 1);
    await machine.settle();
    const before = gpu.writeBack!.copiedBytes;
    const other = gpu.vm(process);
    const b = await process.mmap(4096);
    await other.gst(b, 1);
    await machine.settle();
    expect(gpu.writeBack!.copiedBytes - before).toBeLessThan(CHUNK);
    await lose(rig);
    expect(gpu.lostPages(process).stale.filter((p) => p.addr >= a && p.addr < a + CHUNK)).toEqual([]);
    expect(await process.ld(a)).toBe(1);
  });

  test("remembers writes through a mapping that is gone", async () => {
    const rig = await setUp({ rounds: 100 });
    const { gpu, process, vm, a } = rig;
    await vm.gst(a, 1);
    // Takes the mapping away; the page stays in VRAM.
    await process.mprotect(a, CHUNK, "R");
    expect(vm.svm.ranges(a, a + CHUNK).some((range) => range.mapped)).toBe(false);
    await lose(rig);
    expect(gpu.lostPages(process).stale[0]).toEqual({ addr: a, round: 1 });
    expect(await process.ld(a)).toBe(0x11111111);
  });

  test("goes with its buffer: home, unmapped, or its address space closed", async () => {
    const rig = await setUp({});
    const { gpu, machine, process, vm, a } = rig;
    await vm.gst(a, 9);
    await machine.settle();
    await process.ld(a);
    expect(gpu.writeBack!.heldBytes).toBe(0);
    await vm.gst(a, 10);
    await process.munmap(a, CHUNK);
    await machine.settle();
    expect(gpu.writeBack!.heldBytes).toBe(0);
    const b = await process.mmap(CHUNK, { align: CHUNK });
    await vm.gfill(b, CHUNK, 3);
    await vm.close();
    await machine.settle();
    expect(gpu.writeBack!.heldBytes).toBe(0);
    await expectBytes(process, b, filled(CHUNK, 3));
    checkInvariants(machine.phys);
  });
});

test("memory of a buffer that goes during a refresh is not given to others before the copy has been made", async () => {
  const rig = await setUp({ rounds: 2 });
  const { gpu, machine, process, vm, a } = rig;
  let arrive = (): void => {};
  const copy = gpu.gpu.copy.bind(gpu.gpu);
  gpu.gpu.copy = (list) => {
    const arrived = copy(list);
    const held = new Promise<void>((resolve) => {
      arrive = resolve;
    });
    return arrived === null ? null : Promise.all([arrived, held]).then(() => undefined);
  };
  await vm.gst(a, 1);
  expect(gpu.writeBack!.refreshes).toBe(1);
  await process.munmap(a, CHUNK);
  for (let i = 0; i < 20; i++) await new Promise((resolve) => void setImmediate(resolve));
  expect([gpu.driver.vramUsed, gpu.writeBack!.heldBytes]).toEqual([CHUNK, 0]);
  arrive();
  await machine.settle();
  expect(gpu.driver.vramUsed).toBe(0);
  checkInvariants(machine.phys);
});

test("a budget of bytes copies the oldest first, and everything in the end", async () => {
  const rig = await setUp({ rounds: 1, bytes: MIB });
  const { gpu, process, vm, a, machine } = rig;
  await vm.gfill(a, CHUNK, 0x22);
  await machine.settle();
  const { copiedBytes, refreshes } = gpu.writeBack!;
  expect([copiedBytes, refreshes]).toEqual([MIB, 1]);
  const half = gpu.driver.region.writeBack!.round;
  await vm.gld(a);
  await machine.settle();
  await lose(rig);
  const { stale } = gpu.lostPages(process);
  // The first half is as the fill left it, the second as a round later; a round that may have written came after the first.
  expect(stale.map((p) => p.round)).toEqual(new Array(256).fill(half));
  await expectBytes(process, a, filled(CHUNK, 0x22));
});

describe("RAM", () => {
  test("that is short leaves a buffer without a shadow, and that is counted", async () => {
    const rig = await setUp({}, { ram: 5 * MIB, vram: 4 * MIB });
    const { gpu, process, vm, a } = rig;
    await vm.gst(a, 1);
    expect(gpu.writeBack).toMatchObject({ dropped: 1, heldBytes: 0 });
    await lose(rig);
    expect(gpu.lostPages(process).vram).toHaveLength(512);
  });

  test("that the CPU wants comes from the shadows, least recently used buffers first", async () => {
    const rig = await setUp({ rounds: 1000 }, { ram: 16 * MIB, vram: 8 * MIB });
    const { gpu, machine, process, vm, a } = rig;
    const b = await process.mmap(CHUNK, { align: CHUNK });
    await process.fill(b, CHUNK, 0x33);
    await vm.gst(a, 1);
    await vm.gst(b, 1);
    gpu.driver.region.touch(gpu.driver.boAt(process.mm, a)!);
    expect(gpu.writeBack).toMatchObject({ dropped: 0, heldBytes: 2 * CHUNK });
    const hog = await process.mmap(11 * MIB);
    await process.fill(hog, 11 * MIB, 1);
    expect(gpu.writeBack).toMatchObject({ dropped: 1, heldBytes: CHUNK });
    checkInvariants(machine.phys);
    await lose(rig);
    const { vram, stale } = gpu.lostPages(process);
    expect([vram[0], vram.length, stale.length]).toEqual([b, 512, 512]);
    // The copy that is left comes home although RAM is all but full.
    expect(await process.ld(a)).toBe(0x11111111);
  });

  test("is all given back before an allocation fails", async () => {
    const rig = await setUp({}, { ram: 16 * MIB });
    const { gpu, process, vm, a } = rig;
    await vm.gst(a, 1);
    const hog = await process.mmap(32 * MIB);
    expect(await codeOf(process.fill(hog, 32 * MIB, 1))).toBe("ENOMEM");
    expect(gpu.writeBack!.heldBytes).toBe(0);
  });

  test("is not taken from shadows whose device is gone", async () => {
    const rig = await setUp({}, { ram: 16 * MIB });
    const { process, vm, a } = rig;
    await vm.toVram(a, CHUNK);
    await lose(rig);
    const hog = await process.mmap(32 * MIB);
    expect(await codeOf(process.fill(hog, 32 * MIB, 1))).toBe("ENOMEM");
    await process.munmap(hog, 32 * MIB);
    await expectBytes(process, a, filled(CHUNK, 0x11));
  });
});

describe("a loss with write-back, in every state", () => {
  test("between two rounds of a launch: what was on its way in is safe", async () => {
    const rig = await setUp({});
    const { gpu, machine, process, vm, a } = rig;
    const free = machine.phys.freePages + 512;
    let rounds = 0;
    machine.sched.gate = (name) => {
      if (name === "round" && ++rounds === 2) gpu.gpu.destroy();
      return undefined;
    };
    expect(await codeOf(vm.gst(a, 1))).toBe("EIO");
    machine.sched.gate = null;
    expect(gpu.lostPages(process)).toEqual({ vram: [], stale: [] });
    await expectBytes(process, a, filled(CHUNK, 0x11));
    await expectCleanEnd(rig, free);
  });

  test("while a round runs: its pages are as the refresh before left them", async () => {
    const rig = await setUp({});
    const { gpu, machine, process, vm, a } = rig;
    const free = machine.phys.freePages + 512;
    await vm.gfill(a, CHUNK, 0x22);
    await machine.settle();
    const round = gpu.driver.region.writeBack!.round;
    const launch = codeOf(vm.gfill(a, CHUNK, 0x33));
    while (gpu.driver.region.writeBack!.round === round) await Promise.resolve();
    await lose(rig);
    expect(await launch).toBe("EIO");
    expect(gpu.lostPages(process).stale[511]).toEqual({ addr: a + CHUNK - 4096, round });
    await expectBytes(process, a, filled(CHUNK, 0x22));
    await expectCleanEnd(rig, free);
  });

  test("while a refresh is under way: the copy before it counts", async () => {
    const rig = await setUp({ rounds: 2 });
    const { gpu, machine, process, vm, a } = rig;
    const free = machine.phys.freePages + 512;
    await vm.gfill(a, CHUNK, 0x22);
    await machine.settle();
    await vm.gfill(a, CHUNK, 0x33);
    const { refreshes } = gpu.writeBack!;
    const launch = codeOf(vm.gfill(a, CHUNK, 0x44));
    while (gpu.writeBack!.refreshes === refreshes) await Promise.resolve();
    await lose(rig);
    await launch;
    expect(gpu.lostPages(process).stale[0]).toEqual({ addr: a, round: 2 });
    await expectBytes(process, a, filled(CHUNK, 0x22));
    await expectCleanEnd(rig, free);
  });

  test("while its pages are on their way home", async () => {
    for (const start of ["read", "toSys"] as const) {
      const rig = await setUp({});
      const { machine, process, vm, a } = rig;
      const free = machine.phys.freePages + 512;
      await vm.gfill(a, CHUNK, 0x22);
      await machine.settle();
      let lost = false;
      const unwatch = machine.sched.watch(() => undefined);
      const moving = start === "read" ? process.read(a, CHUNK) : vm.toSys(a, CHUNK);
      for (let i = 0; i < 6; i++) await Promise.resolve();
      lost = !rig.gpu.gpu.isLost;
      await lose(rig);
      unwatch();
      expect([lost, await codeOf(moving)]).toEqual([true, "ok"]);
      await expectBytes(process, a, filled(CHUNK, 0x22));
      expect(rig.gpu.lostPages(process)).toEqual({ vram: [], stale: [] });
      await expectCleanEnd(rig, free);
    }
  });

  test("and another device goes on with the copies", async () => {
    const rig = await setUp({});
    const { machine, process, vm, a } = rig;
    await vm.gst(a, 41);
    await machine.settle();
    await lose(rig);
    const next = machine.createDevice({ vram: 8 * MIB, writeBack: {} }).vm(process);
    expect(await next.ginc(a)).toBe(41);
    expect(await process.ld(a)).toBe(42);
    expect(await process.ld(a + 4)).toBe(0x11111111);
  });
});

test.each([
  [{ rounds: 0 }, "device.writeBack.rounds"],
  [{ rounds: 1.5 }, "device.writeBack.rounds"],
  [{ bytes: 4095 }, "device.writeBack.bytes"],
  [{ bytes: Number.NaN }, "device.writeBack.bytes"],
])("%o is refused", (writeBack, path) => {
  const machine = new Machine({ engine: REFERENCE_ENGINE, ram: 16 * MIB });
  expect(() => machine.createDevice({ writeBack })).toThrow(path);
});
