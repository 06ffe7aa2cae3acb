import { afterEach, describe, expect, test } from "vitest";
import { Machine } from "../src/machine/machine.ts";
import type { DeviceOptions, Engine } from "../src/machine/machine.ts";
import type { Device } from "../src/machine/device.ts";
import { NULL, UserPtr } from "../src/machine/bind.ts";
import { Bo } from "../src/machine/bo.ts";
import { leavesOf } from "../src/machine/page-probes.ts";
import type { Process } from "../src/machine/process.ts";
import type { Vm } from "../src/machine/vm.ts";
import { checkInvariants } from "../src/mm/invariants.ts";

/** What one device of several tiles does, on any engine (spec/device.md 1.1, spec/gpusvm.md 5.3 to 5.5). */
const MIB = 1 << 20;
const PAGE = 4096;
const CHUNK = 2 * MIB;
const TILES = 2;

interface World {
  readonly machine: Machine;
  readonly device: Device;
  readonly process: Process;
  /** The address space on each tile. */
  readonly on: readonly Vm[];
}

export function machineTilesBehaviour(engine: () => Engine, seeds: readonly number[]): void {
  let world: World | null = null;

  function make({ tiles = TILES, ...options }: DeviceOptions = {}): World {
    const machine = new Machine({ engine: engine(), ram: 24 * MIB, poisonFreed: true });
    const device = machine.createDevice({ vram: 4 * MIB, window: 2 * MIB, tiles, ...options });
    const process = machine.createProcess();
    const vm = device.vm(process);
    world = { machine, device, process, on: device.tiles.map((_, tile) => vm.onTile(tile)) };
    return world;
  }

  afterEach(async () => {
    if (world === null) return;
    const { machine, device } = world;
    world = null;
    await machine.settle();
    checkInvariants(machine.phys);
    for (const process of machine.processes) await process.exit();
    await machine.settle();
    if (!device.gpu.isLost) expect(device.tiles.map((tile) => tile.vramUsed)).toEqual(device.tiles.map(() => 0));
    checkInvariants(machine.phys);
    await machine.close();
  });

  const tileOf = ({ machine, process }: World, a: number) => machine.tileOf(process, a);
  /** Tiles whose tables map something of the page at `a`. */
  const mappedOn = ({ on }: World, a: number) =>
    on.flatMap((vm) => (leavesOf(vm, a, a + PAGE).length > 0 ? [vm.tile] : []));

  describe("placement", () => {
    test("what a kernel on a tile faults in goes to that tile's memory, and moves with the next", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      await process.st(a, 7);
      for (const [i, vm] of [on[1]!, on[0]!, on[1]!].entries()) {
        expect(await vm.ginc(a)).toBe(7 + i);
        expect(tileOf(w, a)).toBe(vm.tile);
        expect(mappedOn(w, a)).toEqual([vm.tile]);
        expect(device.tiles.map((tile) => tile.vramUsed)).toEqual(on.map(({ tile }) => (tile === vm.tile ? CHUNK : 0)));
      }
      expect(await process.ld(a)).toBe(10);
      // From tile to tile without RAM.
      expect(on[0]!.counters.toSysBytes).toBe(CHUNK);
      expect(on[0]!.counters.toDevBytes).toBe(3 * CHUNK);
      expect(device.tiles.map((tile) => tile.faults)).toEqual([1, 2]);
    });

    test("advice for a tile: others reach it there", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      await on[0]!.attr(a, CHUNK, { loc: device, tile: 1 });
      expect(on[0]!.attrs(a, CHUNK)).toEqual([{ start: a, end: a + CHUNK, loc: device, tile: 1, atomic: "UNDEFINED" }]);
      for (const [i, vm] of [on[0]!, on[1]!, on[0]!].entries()) {
        expect(await vm.ginc(a + 4096)).toBe(i);
        expect(tileOf(w, a + 4096)).toBe(1);
      }
      expect(mappedOn(w, a)).toEqual([0, 1]);
      expect(device.tiles.map(({ faults }) => faults)).toEqual([1, 1]);
    });

    test("advice for the device: it stays on the tile that it came to first", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      await on[0]!.attr(a, CHUNK, { loc: device });
      for (const vm of [on[1]!, on[0]!, on[1]!]) {
        await vm.ginc(a);
        expect(tileOf(w, a)).toBe(1);
      }
      expect(await process.ld(a)).toBe(3);
    });

    test("toVram and prefetch bring it to the tile's memory, and prefetch maps it there", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(2 * CHUNK, { align: CHUNK });
      await process.fill(a, 2 * CHUNK, 5);
      expect(await on[1]!.toVram(a, CHUNK)).toBe(CHUNK / PAGE);
      expect(await on[1]!.prefetch(a + CHUNK, CHUNK, "DEV")).toBe(CHUNK / PAGE);
      expect([a, a + CHUNK].map((at) => tileOf(w, at))).toEqual([1, 1]);
      expect(mappedOn(w, a)).toEqual([]);
      expect(mappedOn(w, a + CHUNK)).toEqual([1]);
      expect(await on[0]!.prefetch(a + CHUNK, CHUNK, "DEV")).toBe(CHUNK / PAGE);
      expect(tileOf(w, a + CHUNK)).toBe(0);
      expect(mappedOn(w, a + CHUNK)).toEqual([0]);
      expect(await on[0]!.gld(a + CHUNK)).toBe(0x05050505);
      expect(device.tiles.map(({ faults }) => faults)).toEqual([0, 0]);
      expect(await on[0]!.toSys(a, 2 * CHUNK)).toBe((2 * CHUNK) / PAGE);
    });

    test("a full tile evicts its own, and the other keeps what it has", async () => {
      const w = make();
      const { process, on, device } = w;
      // Tile 1 has room for two chunks.
      const a = await process.mmap(4 * CHUNK, { align: CHUNK });
      await on[0]!.gst(a, 1);
      for (const i of [1, 2, 3]) await on[1]!.gst(a + i * CHUNK, i + 1);
      expect([0, 1, 2, 3].map((i) => tileOf(w, a + i * CHUNK))).toEqual([0, null, 1, 1]);
      expect(mappedOn(w, a)).toEqual([0]);
      expect(device.tiles.map((tile) => tile.vramUsed)).toEqual([CHUNK, 2 * CHUNK]);
      for (const i of [0, 1, 2, 3]) expect(await process.ld(a + i * CHUNK)).toBe(i + 1);
    });
  });

  test("what is advised to go to a full tile evicts there, whoever faults", async () => {
    const w = make();
    const { process, on, device } = w;
    const a = await process.mmap(4 * CHUNK, { align: CHUNK });
    await on[0]!.gst(a, 1);
    await on[0]!.attr(a + CHUNK, 3 * CHUNK, { loc: device, tile: 1 });
    for (const i of [1, 2, 3]) await on[0]!.gst(a + i * CHUNK, i + 1);
    expect([0, 1, 2, 3].map((i) => tileOf(w, a + i * CHUNK))).toEqual([0, null, 1, 1]);
    for (const i of [0, 1, 2, 3]) expect(await on[1]!.gld(a + i * CHUNK)).toBe(i + 1);
  });

  test("prefetch maps on its tile what another tile has mapped where it lies", async () => {
    const w = make();
    const { process, on, device } = w;
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await on[0]!.attr(a, CHUNK, { loc: device, tile: 1 });
    await on[0]!.gst(a, 1);
    expect(mappedOn(w, a)).toEqual([0]);
    expect(await on[1]!.prefetch(a, CHUNK, "DEV")).toBe(0);
    expect(mappedOn(w, a)).toEqual([0, 1]);
  });

  test("a closed address space is gone from every tile", async () => {
    const { on, device } = make();
    const { asid } = on[0]!.svm;
    const reasonOn = async (tile: number) => {
      const [status, , , info] = await device.gpu.translate(new Uint32Array([asid, 4096, 0, 32, 0, 0, 0, 0]), tile);
      return status === 3 ? info! & 0xff : -1;
    };
    // Not present, no reason; then a bad address space.
    expect([await reasonOn(0), await reasonOn(1)]).toEqual([0, 0]);
    await on[0]!.close();
    expect([await reasonOn(0), await reasonOn(1)]).toEqual([0x13, 0x13]);
  });

  test("no room for tables on one tile: a bind leaves no trace on the other", async () => {
    const w = make();
    const { on, device } = w;
    const bo = await Bo.create(device, PAGE, "VRAM");
    const va = 0x100_0000_0000;
    const { regions } = device.driver;
    const pagesOf = () => regions.map(({ tablePages }) => [...tablePages].length);
    const before = pagesOf();
    const taken: number[] = [];
    for (let pa = regions[1]!.allocTable(); pa >= 0; pa = regions[1]!.allocTable()) taken.push(pa);
    await expect(on[0]!.bind(va, PAGE, bo)).rejects.toMatchObject({ code: "ENOMEM" });
    for (const pa of taken) regions[1]!.freeTable(pa);
    expect(pagesOf()).toEqual(before);
    expect(mappedOn(w, va)).toEqual([]);
    await on[0]!.bind(va, PAGE, bo);
    expect(mappedOn(w, va)).toEqual([0, 1]);
    await bo.close();
  });

  describe("what the CPU does", () => {
    test("an unmapped page goes from all tiles", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(CHUNK, { align: CHUNK });
      await on[0]!.attr(a, CHUNK, { loc: device });
      for (const vm of on) await vm.ginc(a);
      expect(mappedOn(w, a)).toEqual([0, 1]);
      const before = device.tiles.map((tile) => tile.tlbInvalidations);
      await process.munmap(a, CHUNK);
      expect(device.tiles.map((tile, i) => tile.tlbInvalidations - before[i]!)).toEqual([1, 1]);
      for (const vm of on) await expect(vm.gld(a)).rejects.toMatchObject({ code: "GPUFAULT" });
    });

    test("a tile that has nothing mapped there is not invalidated", async () => {
      const w = make();
      const { process, on, device } = w;
      const a = await process.mmap(2 * CHUNK, { align: CHUNK });
      await on[0]!.gst(a, 1);
      await on[1]!.gst(a + CHUNK, 2);
      const before = device.tiles.map((tile) => tile.tlbInvalidations);
      expect(await process.ld(a)).toBe(1);
      expect(device.tiles.map((tile, i) => tile.tlbInvalidations - before[i]!)).toEqual([1, 0]);
      expect(mappedOn(w, a)).toEqual([]);
      expect(mappedOn(w, a + CHUNK)).toEqual([1]);
    });

    test("a page that is read-only is mapped so on every tile", async () => {
      const w = make();
      const { process, on } = w;
      const a = await process.mmap(4 * PAGE);
      await process.st(a, 3);
      await process.mprotect(a, 4 * PAGE, "R");
      for (const vm of on) expect(await vm.gld(a)).toBe(3);
      for (const vm of on) await expect(vm.gst(a, 4)).rejects.toMatchObject({ code: "GPUFAULT" });
      await process.mprotect(a, 4 * PAGE, "RW");
      for (const vm of on) await vm.ginc(a);
      expect(await process.ld(a)).toBe(5);
    });

    test("system memory in place: both tiles reach the same place of the window", async () => {
      const w = make();
      const { process, on } = w;
      const a = await process.mmap(4 * PAGE);
      await on[0]!.attr(a, 4 * PAGE, { loc: "SYS" });
      for (let i = 0; i < 3; i++) {
        for (const vm of on) await vm.ginc(a);
        await process.inc(a);
      }
      expect(await process.ld(a)).toBe(9);
      expect(tileOf(w, a)).toBe(null);
    });
  });

  describe("buffer objects", () => {
    test.each([0, 1])("one in tile %i's memory is bound on all tiles by one call", async (tile) => {
      const w = make();
      const { device, on } = w;
      const bo = await Bo.create(device, CHUNK, "VRAM", { tile });
      expect(device.tiles.map((t) => t.vramUsed)).toEqual([0, 1].map((t) => (t === tile ? CHUNK : 0)));
      const va = 0x100_0000_0000;
      await on[0]!.bind(va, CHUNK, bo);
      for (const vm of on) await vm.ginc(va + 8);
      expect(mappedOn(w, va)).toEqual([0, 1]);
      expect(await bo.ld(8)).toBe(2);
      await on[0]!.unbind(va, CHUNK / 2);
      expect(mappedOn(w, va)).toEqual([]);
      expect(mappedOn(w, va + CHUNK / 2)).toEqual([0, 1]);
      await on[0]!.bind(va, PAGE, NULL);
      for (const vm of on) expect(await vm.gld(va)).toBe(0);
      await bo.close();
    });

    test("bound on one tile, nothing is there on the other; its pieces stay so", async () => {
      const w = make();
      const { device, on, process } = w;
      const bo = await Bo.create(device, CHUNK, "VRAM");
      const user = await process.mmap(4 * PAGE);
      const va = 0x100_0000_0000;
      await on[0]!.bind(va, CHUNK, bo, 0, { tiles: [1] });
      await on[0]!.bind(va + CHUNK, 4 * PAGE, new UserPtr(process, user), 0, { tiles: [0] });
      expect(mappedOn(w, va)).toEqual([1]);
      expect(mappedOn(w, va + CHUNK)).toEqual([0]);
      expect(await on[1]!.ginc(va + 4)).toBe(0);
      const missing = { code: "GPUFAULT", fault: { kind: "INVAL" } };
      await expect(on[0]!.gld(va + 4)).rejects.toMatchObject(missing);
      await expect(on[1]!.gld(va + CHUNK)).rejects.toMatchObject(missing);
      // A piece is cut out: what is left of the mapping keeps its tiles.
      await on[0]!.unbind(va + PAGE, PAGE);
      expect(mappedOn(w, va)).toEqual([1]);
      expect(mappedOn(w, va + 2 * PAGE)).toEqual([1]);
      // The CPU takes the memory behind the other away, and its fault brings it back.
      await on[0]!.gst(va + CHUNK, 5);
      await process.dontneed(user, 4 * PAGE);
      expect(mappedOn(w, va + CHUNK)).toEqual([]);
      expect(await on[0]!.gld(va + CHUNK)).toBe(0);
      expect(mappedOn(w, va + CHUNK)).toEqual([0]);
      await expect(on[0]!.bind(va, PAGE, bo, 0, { tiles: [2] })).rejects.toMatchObject({ code: "EINVAL" });
      await expect(on[0]!.bind(va, PAGE, bo, 0, { tiles: [] })).rejects.toMatchObject({ code: "EINVAL" });
      // On all again.
      await on[0]!.bind(va, CHUNK, bo);
      expect(await on[0]!.gld(va + 4)).toBe(1);
      await bo.close();
    });

    test("one that is evicted is taken from all tiles and comes back", async () => {
      const w = make();
      const { device, on, process } = w;
      const bo = await Bo.create(device, 2 * CHUNK, "VRAM", { tile: 1 });
      const va = 0x100_0000_0000;
      await on[1]!.bind(va, 2 * CHUNK, bo);
      for (const vm of on) await vm.ginc(va);
      const a = await process.mmap(2 * CHUNK, { align: CHUNK });
      for (let i = 0; i < 2; i++) await on[1]!.gst(a + i * CHUNK, 9);
      expect(mappedOn(w, va)).toEqual([]);
      for (const vm of on) await vm.ginc(va);
      expect(await bo.ld(0)).toBe(4);
      await bo.close();
    });
  });

  test("kernels on both tiles over one process, more data than fits either", async () => {
    const { process, on } = make();
    const words = (5 * CHUNK) / 4;
    const a = await process.mmap(5 * CHUNK, { align: CHUNK });
    await process.write(
      a,
      Uint32Array.from({ length: words }, (_, i) => i),
    );
    const half = words / 2 / 1024;
    const kernel = (vm: Vm, first: number) =>
      vm.kernel(ADD_PAGE, {
        items: half,
        args: [...split(a + first * PAGE), vm.tile + 1],
        reference: (item, m) => {
          const at = m.translate(m.args[0]! + m.args[1]! * 2 ** 32 + item * PAGE, 1);
          if (m.missed) return;
          for (let i = 0; i < 1024; i++) m.store(at + i, m.load(at + i) + m.args[2]!);
        },
      });
    await Promise.all([kernel(on[0]!, 0), kernel(on[1]!, half)]);
    const got = new Uint32Array((await process.read(a, 5 * CHUNK)).buffer);
    expect(got.findIndex((word, i) => word !== i + (i < words / 2 ? 1 : 2))).toBe(-1);
  });

  test("the example of Vm.onTile", async () => {
    const { process, on, machine } = make();
    const [vm] = on;
    const a = await process.mmap(PAGE);
    await vm!.gst(a, 7);
    expect(await vm!.onTile(1).ginc(a)).toBe(7);
    expect(machine.tileOf(process, a)).toBe(1);
  });

  test("each tile's launches count on it", async () => {
    const { process, on, device } = make();
    const a = await process.mmap(PAGE);
    await on[1]!.gld(a);
    await on[1]!.gld(a);
    await on[0]!.gld(a);
    expect(device.tiles.map(({ rounds }) => rounds)).toEqual([2, 3]);
    expect(device.stats.get("wgsvm_round_count")).toBe(5);
  });

  test.each(seeds)("CPU and both tiles add to the same words at once, and nothing is lost (seed %i)", async (seed) => {
    const w = make();
    const { machine, process, on } = w;
    const a = await process.mmap(2 * CHUNK, { align: CHUNK });
    const each = 8;
    const adds = (add: (at: number) => Promise<unknown>) => async () => {
      for (let i = 0; i < each; i++) await add(a + (i % 2) * CHUNK + 64);
    };
    await machine.sched.race(seed, [
      adds((at) => on[0]!.ginc(at)),
      adds((at) => on[1]!.ginc(at)),
      adds((at) => process.inc(at)),
    ]);
    for (const at of [a + 64, a + CHUNK + 64]) expect(await process.ld(at)).toBe((3 * each) / 2);
  });

  test("a device that is unbound brings home what lies on any tile", async () => {
    const { process, on, device } = make();
    const a = await process.mmap(2 * CHUNK, { align: CHUNK });
    await on[0]!.gst(a, 1);
    await on[1]!.gst(a + CHUNK, 2);
    expect((await device.unbind()).isEmpty).toBe(true);
    expect(await process.ld(a)).toBe(1);
    expect(await process.ld(a + CHUNK)).toBe(2);
  });

  test("closing one view of an address space closes it", async () => {
    const { on, device, process } = make();
    await on[1]!.close();
    expect(device.vms.size).toBe(0);
    const again = device.vm(process).onTile(1);
    expect(again.tile).toBe(1);
    expect(again.onTile(1)).toBe(again);
  });

  test.each([
    [{ tiles: 0 }, "device.tiles"],
    [{ tiles: 5 }, "device.tiles"],
    [{ tiles: 2, p2p: true }, "device.tiles"],
    [{ tiles: 2, writeBack: {} }, "device.writeBack"],
  ])("%o is refused", (options, path) => {
    expect(() => make(options)).toThrow(expect.objectContaining({ path }));
  });

  test("a tile that there is not", async () => {
    const { on, device, process } = make();
    expect(() => on[0]!.onTile(2)).toThrow(expect.objectContaining({ path: "vm.tile" }));
    const a = await process.mmap(PAGE);
    await expect(on[0]!.attr(a, PAGE, { loc: device, tile: 2 })).rejects.toMatchObject({ code: "EINVAL" });
    await expect(Bo.create(device, PAGE, "VRAM", { tile: 2 })).rejects.toMatchObject({ code: "EINVAL" });
  });

  test("one tile", () => {
    const { device, on } = make({ tiles: 1 });
    expect(device.tiles).toMatchObject([{ heapBytes: 4 * MIB }]);
    expect(() => on[0]!.onTile(1)).toThrow(expect.objectContaining({ path: "vm.tile" }));
  });
}

const ADD_PAGE = `
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * 4096u));
  if (svm_missed()) { return; }
  for (var w = 0u; w < 1024u; w++) { svm_store(at + w, svm_load(at + w) + arg(2u)); }
}`;

function split(va: number): [number, number] {
  return [va % 2 ** 32, Math.floor(va / 2 ** 32)];
}
