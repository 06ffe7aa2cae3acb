/** Launches without fault mode, which hold all that they need until they end, beside others that want the same room. */
import { describe, expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { assert } from "../../src/base/assert.ts";
import { isErr } from "../../src/base/errno.ts";
import { KernelError } from "../../src/base/errors.ts";
import { mapBo, mapUserptr } from "../../src/driver/bind-ops.ts";
import { readBo } from "../../src/driver/bo-access.ts";
import { Bo } from "../../src/driver/bo.ts";
import { REFERENCE_ENGINE } from "../../src/machine/engine.ts";
import { VRAM, WINDOW, add, expectAdded } from "../launch-turns-behaviour.ts";
import { openResident } from "../resident-vm.ts";
import { CHUNK, closeWorld, makeStreamWorld } from "../stream-world.ts";
import type { StreamWorld } from "../stream-world.ts";
import type { Vm } from "../../src/machine/vm.ts";

const SEEDS = Array.from({ length: 8 }, (_, i) => i + 1);
const AT = 2 ** 41;

/** What a launch without fault mode works on. */
interface Work {
  run(): Promise<unknown>;
  /** Nothing but what `runs` launches have left there. */
  expectDone(runs: number): Promise<void>;
  close(): void;
}

/** Of two pieces, side by side: with one of them each, two launches would have nothing to go on with. */
const PIECES = [0, 1] as const;

/** Process memory in the system window. */
async function inWindow(m: StreamWorld, pages: number): Promise<Work> {
  const vm = openResident(m.vm.device, m.process);
  const bytes = pages * PAGE_SIZE;
  const user = await m.process.mmap(bytes);
  for (const piece of PIECES) {
    const from = (piece * bytes) / 2;
    expect(await vm.svm.binds.bind([mapUserptr(AT + from, bytes / 2, user + from)])).toBe(0);
  }
  return {
    run: () => add(vm, AT, pages, 1, PAGE_SIZE),
    async expectDone(runs) {
      for (let i = 0; i < pages; i++) expect(await m.process.ld(user + i * PAGE_SIZE + 4)).toBe(runs * (i + 1));
    },
    close: () => undefined,
  };
}

/** Objects in VRAM. */
async function inVram(m: StreamWorld, bytes: number): Promise<Work> {
  const vm = openResident(m.vm.device, m.process);
  const bos: Bo[] = [];
  for (const piece of PIECES) {
    const bo = await Bo.create(m.vm.device.driver, { size: bytes / 2, placement: "vram" });
    assert(!isErr(bo), "there is room for an object");
    expect(await vm.svm.binds.bind([mapBo(AT + (piece * bytes) / 2, bytes / 2, bo)])).toBe(0);
    bos.push(bo);
  }
  const pages = bytes / PAGE_SIZE;
  return {
    run: () => add(vm, AT, pages, 1, PAGE_SIZE),
    async expectDone(runs) {
      for (const piece of PIECES) {
        const read = await readBo(bos[piece]!, 0, bytes / 2);
        const words = new Uint32Array((read as Uint8Array).slice().buffer);
        const first = (piece * pages) / 2;
        for (let i = 0; i < pages / 2; i++) expect(words[i * 1024 + 1]).toBe(runs * (first + i + 1));
      }
    },
    close: () => bos.forEach((bo) => bo.close()),
  };
}

const PLACES = [
  { place: WINDOW, per: 14, open: (m: StreamWorld) => inWindow(m, 12) },
  { place: VRAM, per: 2, open: (m: StreamWorld) => inVram(m, 2 * CHUNK) },
] as const;
/** Launches without fault mode, and with it. */
const COMPANIES = [
  [2, 0],
  [1, 1],
  [3, 0],
  [2, 2],
] as const;
const RACES = PLACES.flatMap((where) => COMPANIES.map(([resident, faulting]) => ({ ...where, resident, faulting })));
const RUNS = 2;

describe("each fits alone, and all of them end", () => {
  test.each(
    RACES.map(
      (race) => [`${race.place.name}: ${race.resident} without fault mode, ${race.faulting} with it`, race] as const,
    ),
  )("%s", { timeout: 30000 }, async (_, { place, per, open, resident, faulting }) => {
    for (const seed of SEEDS) {
      const m = makeStreamWorld(REFERENCE_ENGINE, place);
      const works: Work[] = [];
      for (let i = 0; i < resident; i++) works.push(await open(m));
      const areas: number[] = [];
      for (let i = 0; i < faulting; i++) areas.push(await m.process.mmap(place.places * place.step, { align: CHUNK }));
      await m.machine.sched.race<unknown>(seed, [
        ...works.map((work) => async () => {
          for (let i = 0; i < RUNS; i++) await work.run();
        }),
        ...areas.map((a) => () => add(m.vm, a, place.places, per, place.step)),
      ]);
      for (const work of works) await work.expectDone(RUNS);
      for (const a of areas) await expectAdded(m, a, place, per);
      for (const work of works) work.close();
      await closeWorld(m);
    }
  });
});

test("what does not fit alone fails, with the reason, when the others have ended", async () => {
  for (const seed of SEEDS) {
    const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
    const vm = openResident(m.vm.device, m.process);
    const user = await m.process.mmap(CHUNK);
    for (const half of [0, 1]) {
      const bound = await vm.svm.binds.bind([
        mapUserptr(AT + half * CHUNK, 10 * PAGE_SIZE, user + half * 10 * PAGE_SIZE),
      ]);
      expect(bound).toBe(0);
    }
    const [fits, a] = [await inWindow(m, 12), await m.process.mmap(CHUNK, { align: CHUNK })];
    const [error] = await m.machine.sched.race<unknown>(seed, [
      () => add(vm, AT, 1, 1, PAGE_SIZE).catch((reason: unknown) => reason),
      () => fits.run(),
      () => add(m.vm, a, WINDOW.places, 4, PAGE_SIZE),
    ]);
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).message).toMatch(/could not all be made resident/);
    await fits.expectDone(1);
    await expectAdded(m, a, WINDOW, 4);
    await closeWorld(m);
  }
});

test("what the process takes away from one that runs is waited for too", { timeout: 30000 }, async () => {
  for (const seed of SEEDS) {
    const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
    // The last page is mapped, and not used.
    const pages = 12;
    const vm = openResident(m.vm.device, m.process);
    const user = await m.process.mmap(pages * PAGE_SIZE);
    expect(await vm.svm.binds.bind([mapUserptr(AT, pages * PAGE_SIZE, user)])).toBe(0);
    const areas = [await m.process.mmap(CHUNK, { align: CHUNK }), await m.process.mmap(CHUNK, { align: CHUNK })];
    await m.machine.sched.race<unknown>(seed, [
      async () => {
        for (let i = 0; i < 6; i++) await add(vm, AT, pages - 1, 1, PAGE_SIZE);
      },
      ...areas.map((a) => () => add(m.vm, a, WINDOW.places, 14, PAGE_SIZE)),
      async () => {
        for (let i = 0; i < 40; i++) await m.process.dontneed(user + (pages - 1) * PAGE_SIZE, PAGE_SIZE);
      },
    ]);
    for (let i = 0; i < pages - 1; i++) expect(await m.process.ld(user + i * PAGE_SIZE + 4)).toBe(6 * (i + 1));
    for (const a of areas) await expectAdded(m, a, WINDOW, 14);
    await closeWorld(m);
  }
});

test("who waits tries again when another has let something go, and not before", async () => {
  const m = makeStreamWorld(REFERENCE_ENGINE, WINDOW);
  const vms: Vm[] = [];
  for (let i = 0; i < 2; i++) {
    const vm = openResident(m.vm.device, m.process);
    const user = await m.process.mmap(12 * PAGE_SIZE);
    expect(await vm.svm.binds.bind([mapUserptr(AT, 12 * PAGE_SIZE, user)])).toBe(0);
    vms.push(vm);
  }
  await Promise.all(vms.map((vm) => add(vm, AT, 12, 1, PAGE_SIZE)));
  const waits = vms.map((vm) => vm.stats.get("wgsvm_turn_wait_count"));
  expect(waits).toEqual([0, 1]);
  await closeWorld(m);
});
