import { afterEach, describe, expect, test, vi } from "vitest";
import { REQUEST_NO_RECORD, STATUS_FAULT } from "../../src/abi/tables.ts";
import { tileOf } from "../../src/abi/tiles.ts";
import { KERNEL_ASID } from "../../src/driver/kernel-vm.ts";
import { Bo } from "../../src/machine/bo.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { FILL } from "../../src/machine/kernels.ts";
import { Machine } from "../../src/machine/machine.ts";
import type { DeviceOptions, Engine } from "../../src/machine/machine.ts";
import { leavesOf, snapPages } from "../../src/machine/page-probes.ts";
import { hi32, lo32 } from "../../src/base/addr.ts";
import { REQUEST_WORDS } from "../../src/hal/gpu.ts";
import { firstDifference, makeWorld, namesOf, pattern, placeOf, tearDown } from "../devices-behaviour.ts";
import type { World } from "../devices-behaviour.ts";

vi.setConfig({ testTimeout: 30_000 });

const MIB = 1 << 20;
const PAGE = 4096;
const CHUNK = 2 * MIB;
/** In VRAM. */
const STATUS_OK = 0;

/** Groups of devices that share an owner, by name. */
function groups(machine: Machine): string[] {
  const byOwner = new Map<unknown, string[]>();
  for (const { name, driver } of machine.devices) {
    const { owner } = driver.region.pgmap;
    byOwner.set(owner, [...(byOwner.get(owner) ?? []), name]);
  }
  return [...byOwner.values()].map((names) => names.join(" "));
}

function machineWith(devices: readonly DeviceOptions[], engine: Engine = REFERENCE_ENGINE): Machine {
  const machine = new Machine({ engine, ram: 16 * MIB });
  for (const options of devices) machine.createDevice({ vram: 4 * MIB, window: MIB, ...options });
  return machine;
}

describe("which devices are linked", () => {
  const P2P = { p2p: true };

  test("those with p2p; the others stand alone", async () => {
    const machine = machineWith([P2P, {}, P2P, {}]);
    expect(groups(machine)).toEqual(["gpu0 gpu2", "gpu1", "gpu3"]);
    await machine.close();
  });

  test("four share a card, which has four tiles; the fifth opens another", async () => {
    const machine = machineWith([P2P, P2P, P2P, P2P, P2P, P2P]);
    expect(groups(machine)).toEqual(["gpu0 gpu1 gpu2 gpu3", "gpu4 gpu5"]);
    await machine.close();
  });

  test("a card is closed once one of its devices is used", async () => {
    const machine = machineWith([P2P, P2P]);
    machine.devices[0]!.vm(machine.createProcess());
    machine.createDevice({ vram: 4 * MIB, p2p: true });
    expect(groups(machine)).toEqual(["gpu0 gpu1", "gpu2"]);
    await machine.close();
  });

  test("sizes differ: every device has the VRAM that it asked for, on a card with the first one's room for tables", async () => {
    const machine = machineWith([P2P, { ...P2P, vram: 16 * MIB }, { ...P2P, vram: 512 * MIB }]);
    expect(groups(machine)).toEqual(["gpu0 gpu1", "gpu2"]);
    expect(machine.devices.map((d) => d.driver.heapBytes / MIB)).toEqual([4, 16, 512]);
    await machine.close();
  });

  test("what the adapter cannot bind together goes on cards of its own", async () => {
    const engine = { ...REFERENCE_ENGINE, fits: (config: { moreTiles?: readonly number[] }) => !config.moreTiles?.[0] };
    const machine = machineWith([P2P, P2P], engine);
    expect(groups(machine)).toEqual(["gpu0", "gpu1"]);
    expect(() => machineWith([P2P], { ...REFERENCE_ENGINE, fits: () => false })).toThrow("device.vram");
    await machine.close();
  });

  test("write-back mode wants a device whose memory nobody else writes", () => {
    expect(() => machineWith([{ p2p: true, writeBack: {} }])).toThrow("device.writeBack");
  });
});

describe("linked devices", () => {
  let world: World | null = null;
  const make = (p2p = true): World => {
    world = makeWorld(REFERENCE_ENGINE, { p2p });
    return world;
  };
  afterEach(async () => {
    const used = world;
    world = null;
    if (used !== null) await tearDown(used);
  });

  test("memory may be advised to lie with a peer: faults put it there, and it is mapped over the link", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    const words = pattern(CHUNK / 4);
    await process.write(a, words);
    await vms[1].attr(a, CHUNK, { loc: devices[0] });
    expect(firstDifference(await vms[1].gread(a, CHUNK), words)).toBe(-1);
    expect(placeOf({ machine, process }, a)).toBe("gpu0");
    await vms[1].gst(a + 4, 3);
    const leaf = [...vms[1].svm.tables.forEachLeaf(a, a + PAGE)][0]!;
    expect(tileOf(leaf.pa)).toBe(0);
    expect(vms[1].counters.toDevBytes).toBe(CHUNK);
    expect(await vms[0].gld(a + 4)).toBe(3);
    // It goes home with the address space that put it there, though it lies with another device.
    await vms[1].close();
    expect(placeOf({ machine, process }, a)).toBe("SYS");
    expect(await process.ld(a + 4)).toBe(3);
  });

  test("probes tell a peer's memory from the device's own", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[0].gst(a, 1);
    const there = devices[1].vm(process, { migrate: false });
    await there.gld(a);
    expect(there.svm.ranges(a, a + CHUNK)).toMatchObject([{ inVram: true, isRemote: true, mapped: true }]);
    expect(vms[0].svm.ranges(a, a + CHUNK)).toMatchObject([{ inVram: true, isRemote: false, mapped: true }]);
    const seen = { read: true, write: true, none: false, error: false };
    expect(snapPages(there, a, PAGE)).toMatchObject([{ ...seen, local: false, remote: true }]);
    expect(snapPages(vms[0], a, PAGE)).toMatchObject([{ ...seen, local: true, remote: false }]);
    const leaf = leavesOf(there, a, a + PAGE)[0]!;
    expect(leaf.place).toBe("VRAM");
    expect(machine.deviceAt(devices[1], leaf.pa).name).toBe("gpu0");
    expect(machine.deviceAt(devices[0], leaf.pa).name).toBe("gpu0");
  });

  test("what a launch uses in a peer's memory is not put out of it before the next round", async () => {
    const { process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[0].gst(a, 1);
    const there = devices[1].vm(process, { migrate: false });
    const [bo] = devices[0].driver.buffersIn(process.mm, a, a + CHUNK);
    const pins: number[] = [];
    await there.run(FILL, { items: 1, args: [lo32(a), hi32(a), 64, 0, 5] }, () => void pins.push(bo!.pins));
    expect(pins).toEqual([0, 1]);
    expect(bo!.pins).toBe(0);
    expect(await process.ld(a)).toBe(5);
  });

  test("without a link there is no such advice", async () => {
    const { process, devices, vms } = make(false);
    const a = await process.mmap(PAGE);
    await expect(vms[1].attr(a, PAGE, { loc: devices[0] })).rejects.toMatchObject({ code: "ENOLINK" });
  });

  test("an unbound device takes nothing more: what is advised to lie there stays in RAM", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[1].attr(a, CHUNK, { loc: devices[0] });
    await vms[1].gst(a, 1);
    expect(placeOf({ machine, process }, a)).toBe("gpu0");
    expect(await devices[0].unbind()).toMatchObject({ isEmpty: true });
    expect(await vms[1].ginc(a)).toBe(1);
    expect(placeOf({ machine, process }, a)).toBe("SYS");
    expect(await process.ld(a)).toBe(2);
  });

  test("pages that a fork shares go home from a device that is unbound", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[0].gst(a, 7);
    const child = await process.fork();
    await process.st(a + PAGE, 1);
    await vms[0].toVram(a, CHUNK).catch(() => 0);
    expect(await devices[0].unbind()).toMatchObject({ isEmpty: true });
    for (const p of [process, child]) {
      expect(placeOf({ machine, process: p }, a)).toBe("SYS");
      expect(await p.ld(a)).toBe(7);
    }
    expect(await child.ld(a + PAGE)).toBe(0);
  });

  test("unbinding twice at the same time is unbinding once", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[0].gst(a, 7);
    const reports = await Promise.all([devices[0].unbind(), devices[0].unbind()]);
    expect(reports.map((report) => report.isEmpty)).toEqual([true, true]);
    expect(namesOf(machine.devices)).toEqual(["gpu1"]);
    expect(await process.ld(a)).toBe(7);
  });

  test("a device without address spaces is unbound at once", async () => {
    const { machine, devices, vms } = make();
    for (const vm of vms) await vm.close();
    for (const device of devices) expect(await device.unbind()).toMatchObject({ isEmpty: true });
    await machine.settle();
    expect(namesOf(machine.devices)).toEqual([]);
    expect(devices.map((device) => device.gpu.isLost)).toEqual([true, true]);
    expect(devices[0].driver.region.dpagemap.refcount).toBe(0);
  });

  test("the page map of an unbound device lives as long as pages are left in its memory", async () => {
    const { machine, process, devices, vms } = make();
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[0].gst(a, 7);
    const b = await process.mmap(CHUNK, { align: CHUNK, populate: true });
    await vms[1].attr(b, CHUNK, { loc: devices[0] });
    machine.phys.failpoint = (site) => site === "frame-alloc" || site === "huge-alloc";
    const { dpagemap } = devices[0].driver.region;
    const stuck = await devices[0].unbind();
    expect(stuck.isEmpty).toBe(false);
    expect(dpagemap.refcount).toBeGreaterThan(0);
    machine.phys.failpoint = null;
    // Nothing goes there any more.
    await vms[1].gst(b, 1);
    expect(placeOf({ machine, process }, b)).toBe("SYS");
    // Nobody unbinds again: the CPU fetches them.
    expect(await process.ld(a)).toBe(7);
    await machine.settle();
    expect(dpagemap.refcount).toBe(0);
    expect(devices[0].gpu.isLost).toBe(true);
  });

  test("a page map without users is kept, comes back for the next one, and is made anew if it was freed", async () => {
    const { machine, process, devices, vms } = make();
    const { region } = devices[0].driver;
    const { dpagemap } = region;
    expect(dpagemap.refcount).toBe(1);
    await vms[0].close();
    expect([dpagemap.refcount, region.cache.shrinker.count]).toEqual([0, 1]);
    const again = devices[0].vm(process);
    expect([region.dpagemap === dpagemap, dpagemap.refcount, region.cache.shrinker.count]).toEqual([true, 1, 0]);
    await again.close();
    expect(region.cache.shrinker.scan(1)).toBe(1);
    await machine.settle();
    // Another memory may have its frame numbers meanwhile.
    machine.createDevice({ vram: 4 * MIB }).vm(process);
    const a = await process.mmap(CHUNK, { align: CHUNK });
    await vms[1].attr(a, CHUNK, { loc: devices[0] });
    await vms[1].gst(a, 7);
    expect(region.dpagemap === dpagemap).toBe(false);
    expect(placeOf({ machine, process }, a)).toBe("gpu0");
    expect(await devices[0].vm(process).ginc(a)).toBe(7);
    expect(await process.ld(a)).toBe(8);
  });

  test("what a device has cached of its translations goes when the pages do", async () => {
    const { process, vms } = make();
    const a = await process.mmap(PAGE);
    for (const { svm, device } of vms) {
      const request = new Uint32Array(REQUEST_WORDS);
      request.set([svm.asid, lo32(a), hi32(a), REQUEST_NO_RECORD]);
      const status = async () => (await device.gpu.translate(request))[0];
      await process.st(a, 1);
      expect(await status()).toBe(STATUS_FAULT);
      await vms.find((vm) => vm.svm === svm)!.gld(a);
      // Walked once, and then from the TLB.
      expect([await status(), await status()]).toEqual([STATUS_OK, STATUS_OK]);
      await process.dontneed(a, PAGE);
      expect(await status()).toBe(STATUS_FAULT);
    }
  });

  test("objects and the driver's own address space work on any tile", async () => {
    const { devices, vms } = make();
    expect(devices.map(({ driver }) => tileOf(driver.region.base))).toEqual([0, 1]);
    for (const [i, device] of devices.entries()) {
      const bo = await Bo.create(device, CHUNK, "VRAM");
      await bo.st(8, 5 + i);
      const va = 2 ** 40;
      await vms[i]!.bind(va, CHUNK, bo);
      expect(await vms[i]!.ginc(va + 8, 10)).toBe(5 + i);
      expect([...vms[i]!.svm.tables.forEachLeaf(va, va + PAGE)].map(({ pa }) => tileOf(pa))).toEqual([i]);
      expect(await bo.ld(8)).toBe(15 + i);
      await vms[i]!.unbind(va, CHUNK);
      await bo.close();
      expect(device.driver.kernelVm()).toMatchObject({ tableBytes: 2 * PAGE });
      const request = new Uint32Array(REQUEST_WORDS);
      request.set([KERNEL_ASID, 3 * PAGE, 64, 8]);
      const [status, lo, hi] = await device.gpu.translate(request);
      expect([status, lo! + hi! * 2 ** 32]).toEqual([0, device.driver.region.base + 3 * PAGE]);
    }
  });
});
