import { afterEach, describe, expect, test } from "vitest";
import { Random } from "../src/base/random.ts";
import type { Device } from "../src/machine/device.ts";
import { Machine } from "../src/machine/machine.ts";
import type { DeviceOptions, Engine, VmConfig } from "../src/machine/machine.ts";
import type { Process } from "../src/machine/process.ts";
import type { Vm } from "../src/machine/vm.ts";
import { checkInvariants } from "../src/mm/invariants.ts";

/** What several devices over one process do, on any engine (spec/gpusvm.md 7.1, 7.2, 7.12). */
const MIB = 1 << 20;
const PAGE = 4096;
const CHUNK = 2 * MIB;

export interface World {
  readonly machine: Machine;
  readonly process: Process;
  readonly devices: readonly [Device, Device];
  readonly vms: readonly [Vm, Vm];
}

export interface WorldOptions {
  readonly p2p: boolean;
  readonly ram?: number;
  readonly device?: DeviceOptions;
  /** Of the second device's address space. */
  readonly second?: Partial<VmConfig>;
}

export function makeWorld(engine: Engine, { p2p, ram = 24 * MIB, device = {}, second = {} }: WorldOptions): World {
  const machine = new Machine({ engine, ram, poisonFreed: true });
  const make = () => machine.createDevice({ vram: 4 * MIB, window: 4 * MIB, p2p, ...device });
  const devices = [make(), make()] as const;
  const process = machine.createProcess();
  const vms = [devices[0].vm(process), devices[1].vm(process, second)] as const;
  return { machine, process, devices, vms };
}

/** Every page is free again once the process is gone, and every device too. */
export async function tearDown({ machine }: World): Promise<void> {
  await machine.settle();
  checkInvariants(machine.phys);
  const { devices } = machine;
  for (const process of machine.processes) await process.exit();
  await machine.settle();
  for (const { driver, gpu } of devices) if (!gpu.isLost) expect(driver.vramUsed).toBe(0);
  checkInvariants(machine.phys);
  await machine.close();
  await machine.settle();
}

/** Index of the first word that differs, -1: none does. `toEqual` of so many words takes seconds. */
export function firstDifference(bytes: Uint8Array, words: Uint32Array): number {
  const found = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  if (found.length !== words.length) return Math.min(found.length, words.length);
  return found.findIndex((word, i) => word !== words[i]);
}

export function pattern(words: number, factor = 7): Uint32Array {
  return Uint32Array.from({ length: words }, (_, i) => i * factor + 1);
}

/** Where the pages lie: a device's name, "SYS" or "NONE" if all do, else "mixed". */
export function placeOf({ machine, process }: Pick<World, "machine" | "process">, a: number, pages = 1): string {
  const name = (place: Device | "SYS" | "NONE") => (typeof place === "string" ? place : place.name);
  const names = new Set(Array.from({ length: pages }, (_, i) => name(machine.where(process, a + i * PAGE))));
  return names.size === 1 ? [...names][0]! : "mixed";
}

/** What a failed check prints of a whole device never ends. */
export function namesOf(devices: Iterable<Device>): string[] {
  return Array.from(devices, ({ name }) => name);
}

/** `engine` is asked for in each test. `seeds`: of the random ones. */
export function devicesBehaviour(engine: () => Engine, seeds: readonly number[]): void {
  let world: World | null = null;
  const make = (options: WorldOptions): World => {
    world = makeWorld(engine(), options);
    return world;
  };
  afterEach(async () => {
    const used = world;
    world = null;
    if (used !== null) await tearDown(used);
  });

  describe.each([{ p2p: true }, { p2p: false }])("p2p $p2p", ({ p2p }) => {
    test("six read-only pages read through two devices, moved to one, read again (P08)", async () => {
      const w = make({ p2p });
      const { process, vms, devices } = w;
      const a = await process.mmap(6 * PAGE);
      const words = pattern((6 * PAGE) / 4);
      await process.write(a, words);
      await process.mprotect(a, 6 * PAGE, "R");
      for (const vm of vms) expect(firstDifference(await vm.gread(a, 6 * PAGE), words)).toBe(-1);
      await vms[1].toVram(a, 6 * PAGE);
      expect(placeOf(w, a, 6)).toBe(devices[1].name);
      for (const vm of vms) expect(firstDifference(await vm.gread(a, 6 * PAGE), words)).toBe(-1);
      expect(firstDifference(await process.read(a, 6 * PAGE), words)).toBe(-1);
    });

    test.each([{ migrate: true }, { migrate: false }])(
      "two GPUs and the CPU add to one word, taking turns (P20; the second migrates: $migrate)",
      async (second) => {
        const { process, vms } = make({ p2p, second });
        const a = await process.mmap(PAGE);
        for (let i = 0; i < 25; i++) {
          expect(await vms[0].ginc(a)).toBe(3 * i);
          expect(await vms[1].ginc(a)).toBe(3 * i + 1);
          expect(await process.inc(a)).toBe(3 * i + 2);
        }
        expect(await process.ld(a)).toBe(75);
      },
    );

    test.each(seeds)("two GPUs add to one word at the same time, and nothing is lost (seed %i)", async (seed) => {
      const { machine, process, vms } = make({ p2p, second: { migrate: seed % 2 === 0 } });
      const a = await process.mmap(CHUNK, { align: CHUNK });
      const each = 6;
      const adds = (add: () => Promise<unknown>) => async () => {
        for (let i = 0; i < each; i++) await add();
      };
      await machine.sched.race(seed, [
        adds(() => vms[0].ginc(a + 64)),
        adds(() => vms[1].ginc(a + 64)),
        adds(() => process.inc(a + 64)),
      ]);
      expect(await process.ld(a + 64)).toBe(3 * each);
    });

    test("what one device wrote moves to the other when that faults", async () => {
      const w = make({ p2p });
      const { process, vms, devices } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      const words = pattern(CHUNK / 4);
      await vms[0].gwrite(a, words);
      expect(placeOf(w, a, 512)).toBe(devices[0].name);
      const before = vms[0].counters.toSysBytes;
      expect(firstDifference(await vms[1].gread(a, CHUNK), words)).toBe(-1);
      expect(placeOf(w, a, 512)).toBe(devices[1].name);
      // Over the link, or home first.
      expect(vms[0].counters.toSysBytes - before).toBe(p2p ? 0 : CHUNK);
      expect(vms[1].counters.toDevBytes).toBe(CHUNK);
      expect(devices[0].driver.vramUsed).toBe(0);
      expect(firstDifference(await process.read(a, CHUNK), words)).toBe(-1);
    });

    test("pages of one device, of RAM and holes are gathered in the other", async () => {
      const w = make({ p2p });
      const { process, vms, devices } = w;
      const a = await process.mmap(16 * PAGE, { align: 16 * PAGE });
      const words = pattern(16 * 1024, 11);
      await process.write(a, words);
      await vms[0].toVram(a, 8 * PAGE);
      await process.dontneed(a + 3 * PAGE, PAGE);
      await process.dontneed(a + 12 * PAGE, PAGE);
      words.fill(0, 3 * 1024, 4 * 1024);
      words.fill(0, 12 * 1024, 13 * 1024);
      expect(await vms[1].toVram(a, 16 * PAGE)).toBe(16);
      expect(placeOf(w, a, 16)).toBe(devices[1].name);
      expect(firstDifference(await vms[1].gread(a, 16 * PAGE), words)).toBe(-1);
      expect(firstDifference(await process.read(a, 16 * PAGE), words)).toBe(-1);
    });

    test("pressure on one device evicts what the other maps, and both go on with right data", async () => {
      const w = make({ p2p, second: { migrate: false } });
      const { process, vms, devices } = w;
      const a = await process.mmap(4 * CHUNK, { align: CHUNK });
      const words = pattern((4 * CHUNK) / 4);
      await vms[0].gwrite(a, words.subarray(0, CHUNK / 4));
      // In place over the link, else at home: where the GPU reaches it, as the window allows.
      const head = 64 * PAGE;
      expect(firstDifference(await vms[1].gread(a, head), words.subarray(0, head / 4))).toBe(-1);
      await vms[0].gwrite(a + CHUNK, words.subarray(CHUNK / 4));
      expect(devices[0].driver.vramUsed).toBeLessThanOrEqual(4 * MIB);
      expect(vms[0].counters.evict).toBeGreaterThan(0);
      expect(firstDifference(await vms[1].gread(a, head), words.subarray(0, head / 4))).toBe(-1);
      await vms[1].gst(a + 8, 99);
      expect(await vms[0].gld(a + 8)).toBe(99);
      words[2] = 99;
      expect(firstDifference(await process.read(a, 4 * CHUNK), words)).toBe(-1);
    });

    test("several address spaces over one process, on one device and on two", async () => {
      const { process, vms, devices } = make({ p2p });
      const more = [devices[0].vm(process), devices[1].vm(process, { migrate: false })];
      const all = [...vms, ...more];
      const a = await process.mmap(CHUNK, { align: CHUNK });
      for (let turn = 0; turn < 3; turn++) {
        for (const [i, vm] of all.entries()) expect(await vm.ginc(a + 128)).toBe(turn * all.length + i);
      }
      // The memory of a process stays in use when one of the address spaces goes.
      await vms[0].close();
      expect(await more[0]!.gld(a + 128)).toBe(12);
      expect(await process.ld(a + 128)).toBe(12);
    });

    test.each(seeds)("devices, CPU and placements at random agree with a flat model (seed %i)", async (seed) => {
      const w = make({ p2p, second: { migrate: seed % 3 !== 0 } });
      await randomProgram(w, seed);
    });

    test("unbind brings everything home, and the other device goes on with it", async () => {
      const w = make({ p2p, second: { migrate: false } });
      const { machine, process, vms, devices } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      const words = pattern(CHUNK / 4);
      await vms[0].gwrite(a, words);
      const head = 32 * PAGE;
      expect(firstDifference(await vms[1].gread(a, head), words.subarray(0, head / 4))).toBe(-1);
      const report = await devices[0].unbind();
      expect(report).toMatchObject({ isEmpty: true, code: null });
      expect(namesOf(machine.devices)).toEqual(["gpu1"]);
      expect(placeOf(w, a, 512)).toBe("SYS");
      expect(firstDifference(await vms[1].gread(a, head), words.subarray(0, head / 4))).toBe(-1);
      await vms[1].gst(a, 5);
      expect(await process.ld(a)).toBe(5);
      await expect(vms[0].gld(a)).rejects.toThrow();
      expect(() => devices[0].vm(process)).toThrow("ENODEV");
      await machine.settle();
      expect(devices[0].gpu.isLost).toBe(true);
      expect(await process.ld(a + 4)).toBe(8);
    });

    test("unbind while pages do not fit RAM: they stay valid, and go home as room comes", async () => {
      const w = make({ p2p, ram: 6 * MIB });
      const { machine, process, vms, devices } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      const words = pattern(CHUNK / 4);
      await vms[0].gwrite(a, words);
      const hog = await process.mmap(8 * MIB);
      let filled = 0;
      const fill = async () => {
        for (; filled < 8 * MIB; filled += PAGE) await process.st(hog + filled, 1);
      };
      await expect(fill()).rejects.toThrow();
      const stuck = await devices[0].unbind();
      expect(stuck).toMatchObject({ isEmpty: false });
      expect(stuck.waiting.get(process)!.length).toBe(512);
      expect(placeOf(w, a, 512)).toBe(devices[0].name);
      expect(devices[0].gpu.isLost).toBe(false);
      await process.munmap(hog, 8 * MIB);
      expect(await process.ld(a)).toBe(words[0]);
      expect(await devices[0].unbind()).toMatchObject({ isEmpty: true });
      expect(firstDifference(await process.read(a, CHUNK), words)).toBe(-1);
      await machine.settle();
      expect(devices[0].gpu.isLost).toBe(true);
      expect(namesOf(machine.devices)).toEqual(["gpu1"]);
    });

    test.each(seeds)("unbind in the middle of everything (seed %i)", async (seed) => {
      const { machine, process, vms, devices } = make({ p2p, second: { migrate: seed % 2 === 0 } });
      const a = await process.mmap(2 * CHUNK, { align: CHUNK });
      const words = pattern((2 * CHUNK) / 4);
      await process.write(a, words);
      const ignoring = async (work: () => Promise<unknown>) => {
        try {
          await work();
        } catch (error) {
          if (devices[0].driver.isAlive) throw error;
        }
      };
      await machine.sched.race(seed, [
        () => ignoring(() => vms[0].gcpy(a + CHUNK, a, 8 * PAGE)),
        () => ignoring(() => vms[0].toVram(a, CHUNK)),
        async () => {
          for (let i = 0; i < 4; i++) expect(await vms[1].gld(a + 16)).toBe(words[4]);
        },
        async () => {
          for (let i = 0; i < 4; i++) expect(await process.ld(a + 4 * i)).toBe(words[i]);
        },
        async () => {
          for (let i = 0; i < seed % 5; i++) await machine.sched.point("delay");
          expect(await devices[0].unbind()).toMatchObject({ isEmpty: true });
        },
      ]);
      await machine.settle();
      expect(namesOf(machine.devices)).toEqual(["gpu1"]);
      expect(firstDifference(await process.read(a, CHUNK), words.subarray(0, CHUNK / 4))).toBe(-1);
      expect(firstDifference(await vms[1].gread(a, 8 * PAGE), words.subarray(0, 8 * 1024))).toBe(-1);
    });

    test("unbind of a lost device reports what went with it; the other device keeps what it has", async () => {
      const { machine, process, vms, devices } = make({ p2p });
      const [a, b] = [await process.mmap(CHUNK, { align: CHUNK }), await process.mmap(CHUNK, { align: CHUNK })];
      await vms[0].gst(a, 1);
      await vms[1].gst(b, 2);
      devices[0].gpu.destroy();
      await expect(vms[0].gld(a)).rejects.toThrow();
      await expect(vms[1].gld(a)).rejects.toMatchObject({ code: "GPUFAULT" });
      expect(await vms[1].gld(b)).toBe(2);
      const report = await devices[0].unbind();
      expect(report).toMatchObject({ isEmpty: false, code: "EIO" });
      expect(report.lost.get(process)!.vram).toHaveLength(512);
      await expect(process.ld(a)).rejects.toMatchObject({ code: "BUS" });
      await process.dontneed(a, CHUNK);
      expect(await vms[1].ginc(a)).toBe(0);
      expect(await process.ld(b)).toBe(2);
      expect(namesOf(machine.devices)).toContain("gpu1");
    });
  });

  test("a peer's memory is mapped where it lies, for reading, writing and atomics", async () => {
    const w = make({ p2p: true, second: { migrate: false } });
    const { process, vms, devices, machine } = w;
    const a = await process.mmap(CHUNK, { align: CHUNK });
    const words = pattern(CHUNK / 4);
    await vms[0].gwrite(a, words);
    const copied = { ...devices[0].gpu.counters };
    expect(firstDifference(await vms[1].gread(a, CHUNK), words)).toBe(-1);
    await vms[1].gst(a + 4, 77);
    expect(await vms[1].ginc(a + 8, 5)).toBe(words[2]);
    expect(await vms[0].gld(a + 4)).toBe(77);
    expect(await vms[0].ginc(a + 8, 5)).toBe(words[2]! + 5);
    expect(placeOf(w, a, 512)).toBe(devices[0].name);
    expect(devices[0].gpu.counters.uploadBytes).toBe(copied.uploadBytes);
    expect(vms[1].counters.toDevBytes).toBe(0);
    const [leaf] = [...vms[1].svm.tables.forEachLeaf(a, a + PAGE)];
    expect(machine.deviceAt(devices[1], leaf!.pa).name).toBe("gpu0");
    expect(await process.ld(a + 4)).toBe(77);
    expect(await process.ld(a + 8)).toBe(words[2]! + 10);
    // Home now: the peer's entries are gone with the pages.
    expect(await vms[1].gld(a + 4)).toBe(77);
  });

  test("each device has its own part of the window, and both reach one frame in it", async () => {
    const { process, vms } = make({ p2p: true, second: { migrate: false } });
    const here = vms[0].device.vm(process, { migrate: false });
    const a = await process.mmap(16 * PAGE);
    await process.write(a, pattern(16 * 1024));
    const other = await process.mmap(16 * PAGE);
    await process.write(other, pattern(16 * 1024, 13));
    // What one of them holds stays as it is while the other fills its own.
    for (let turn = 0; turn < 2; turn++) {
      expect(firstDifference(await here.gread(a, 16 * PAGE), pattern(16 * 1024))).toBe(-1);
      expect(firstDifference(await vms[1].gread(other, 16 * PAGE), pattern(16 * 1024, 13))).toBe(-1);
    }
    for (let i = 0; i < 4; i++) {
      expect(await here.ginc(a + 8 * PAGE)).toBe(8 * 1024 * 7 + 1 + 3 * i);
      expect(await vms[1].ginc(a + 8 * PAGE)).toBe(8 * 1024 * 7 + 2 + 3 * i);
      expect(await process.inc(a + 8 * PAGE)).toBe(8 * 1024 * 7 + 3 + 3 * i);
    }
    await vms[1].gfill(a, 4 * PAGE, 0xab);
    expect(await here.gld(a + PAGE)).toBe(0xabababab);
    expect(firstDifference(await process.read(a + 4 * PAGE, PAGE), pattern(5 * 1024).subarray(4 * 1024))).toBe(-1);
  });
}

/** A few pages, everybody, and one array that says what must be there. */
async function randomProgram({ process, vms, machine }: World, seed: number): Promise<void> {
  const random = new Random(seed);
  const pages = 64;
  const a = await process.mmap(pages * PAGE, { align: 64 * PAGE });
  const model = new Uint32Array((pages * PAGE) / 4);
  for (let step = 0; step < 60; step++) {
    const vm = vms[random.below(2)]!;
    const at = random.below(model.length);
    const first = random.below(pages);
    const count = 1 + random.below(Math.min(16, pages - first));
    const [start, length] = [a + first * PAGE, count * PAGE];
    const value = random.u32();
    switch (random.below(9)) {
      case 0:
        await process.st(a + 4 * at, (model[at] = value));
        break;
      case 1:
        await vm.gst(a + 4 * at, (model[at] = value));
        break;
      case 2:
        expect(await vm.ginc(a + 4 * at)).toBe(model[at]!++);
        break;
      case 3:
        await vm.toVram(start, length);
        break;
      case 4:
        await vm.toSys(start, length);
        break;
      case 5:
        await process.dontneed(start, length);
        model.fill(0, first * 1024, (first + count) * 1024);
        break;
      case 6:
        expect(
          firstDifference(await vm.gread(start, length), model.subarray(first * 1024, (first + count) * 1024)),
        ).toBe(-1);
        break;
      case 7:
        expect(await process.ld(a + 4 * at)).toBe(model[at]);
        break;
      default:
        await vm.gfill(start, length, value & 255);
        model.fill(Math.imul(value & 255, 0x01010101) >>> 0, first * 1024, (first + count) * 1024);
    }
  }
  expect(firstDifference(await process.read(a, pages * PAGE), model)).toBe(-1);
  await machine.settle();
}
