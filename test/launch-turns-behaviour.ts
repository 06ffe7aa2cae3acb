import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { PAGE_SIZE, hi32, lo32 } from "../src/base/addr.ts";
import { KernelError } from "../src/base/errors.ts";
import type { Engine } from "../src/machine/machine.ts";
import type { Vm } from "../src/machine/vm.ts";
import { CHUNK, addressOf, closeWorld, makeStreamWorld, windowOf } from "./stream-world.ts";
import type { StreamWorld, WorldShape } from "./stream-world.ts";

/** Launches that together want more than there is room for (src/driver/launch-turns.ts), on any engine. */
const WINDOW_PAGES = 16;
const IN_PLACE = { chunks: [PAGE_SIZE], checkPages: 0, migrate: false };

interface Place extends WorldShape {
  readonly name: string;
  /** Bytes from one place that an item touches to the next. */
  readonly step: number;
  /** Places of an area. */
  readonly places: number;
  /** Of an item; the most that there is room for comes last. */
  readonly perItem: readonly number[];
}

export const WINDOW: Place = {
  name: "the system window",
  config: IN_PLACE,
  device: { window: windowOf(WINDOW_PAGES * PAGE_SIZE) },
  step: PAGE_SIZE,
  places: 3 * WINDOW_PAGES,
  perItem: [1, 4, 14, WINDOW_PAGES],
};
export const VRAM: Place = {
  name: "VRAM, where nothing can stay in place",
  device: { vram: 2 * CHUNK, window: 0 },
  step: CHUNK,
  places: 4,
  perItem: [1, 2],
};
/** The aperture has 512 pages, which also hold the other tables. */
export const TABLES: Place = {
  name: "the page-table aperture",
  config: { chunks: [PAGE_SIZE] },
  step: CHUNK,
  places: 600,
  perItem: [300],
};

/** Item i adds i + 1 to word 1 of each of its places, `per` of them in a row. */
const ADD = `fn kernel(item: u32) {
  let first = item * arg(2u);
  for (var i = 0u; i < arg(2u); i++) { _ = svm_write(addr_add(arg64(0u), (first + i) * arg(3u) + 4u)); }
  if (svm_missed()) { return; }
  for (var i = 0u; i < arg(2u); i++) {
    let at = svm_write(addr_add(arg64(0u), (first + i) * arg(3u) + 4u));
    svm_store(at, svm_load(at) + item + 1u);
  }
}`;

export function add(vm: Vm, a: number, places: number, per: number, step: number): Promise<unknown> {
  return vm.kernel(ADD, {
    items: Math.floor(places / per),
    args: [lo32(a), hi32(a), per, step],
    reference(item, c) {
      const at = Array.from({ length: per }, (_, i) => c.translate(addressOf(c, 0) + (item * per + i) * step + 4, 1));
      if (!c.missed) for (const place of at) c.store(place, c.load(place) + item + 1);
    },
  });
}

export async function expectAdded(
  { process }: StreamWorld,
  a: number,
  { places, step }: Place,
  per: number,
): Promise<void> {
  const items = Math.floor(places / per);
  for (let place = 0; place < places; place++) {
    const item = Math.floor(place / per);
    expect(await process.ld(a + place * step + 4)).toBe(item < items ? item + 1 : 0);
  }
}

export interface Race {
  readonly place: Place;
  readonly per: number;
  readonly launches: number;
  readonly vms: number;
}

/** Launches over an area each, in the order of `seed`. */
export async function raceLaunches(engine: Engine, { place, per, launches, vms }: Race, seed: number): Promise<void> {
  const m = makeStreamWorld(engine, place);
  const spaces = [m.vm, ...Array.from({ length: vms - 1 }, () => m.vm.device.vm(m.process))];
  const { places, step } = place;
  const areas: number[] = [];
  for (let i = 0; i < launches; i++) areas.push(await m.process.mmap(places * step, { align: CHUNK }));
  await m.machine.sched.race(
    seed,
    areas.map((a, i) => () => add(spaces[i % vms]!, a, places, per, step)),
  );
  for (const a of areas) await expectAdded(m, a, place, per);
  await closeWorld(m);
}

export const RACES: readonly Race[] = [WINDOW, VRAM, TABLES].flatMap((place) =>
  place.perItem.flatMap((per) => [
    { place, per, launches: 2, vms: 1 },
    { place, per, launches: 2, vms: 2 },
    ...(place === TABLES ? [] : [{ place, per, launches: 3, vms: 2 }]),
  ]),
);
export const nameOf = ({ place, per, launches, vms }: Race): string =>
  `${place.name}: ${launches} launches of ${vms} address spaces, ${per} pieces for an item`;

export function describeLaunchTurns(prepare: () => Promise<Engine>): void {
  let engine: Engine;
  beforeAll(async () => {
    engine = await prepare();
  });
  afterAll(() => engine.destroy());

  describe("each fits alone, and all of them end", () => {
    test.each(RACES.map((race) => [nameOf(race), race] as const))("%s", { timeout: 60000 }, async (_, race) => {
      await raceLaunches(engine, race, 1);
    });
  });

  test.each([13, 14, 15, WINDOW_PAGES])(
    "alone: items of %i pages in a window of 16 are done one by one",
    async (per) => {
      const m = makeStreamWorld(engine, WINDOW);
      const a = await m.process.mmap(4 * per * PAGE_SIZE, { align: CHUNK });
      await add(m.vm, a, 4 * per, per, PAGE_SIZE);
      await expectAdded(m, a, { ...WINDOW, places: 4 * per }, per);
      await closeWorld(m);
    },
  );

  test("what does not fit alone fails, with the reason, and those beside it end", async () => {
    const m = makeStreamWorld(engine, WINDOW);
    const per = WINDOW_PAGES + 1;
    const [a, b] = [await m.process.mmap(CHUNK, { align: CHUNK }), await m.process.mmap(CHUNK, { align: CHUNK })];
    const refused = (work: Promise<unknown>) =>
      work.then(
        () => null,
        (error: unknown) => error,
      );
    const [error] = await m.machine.sched.race<unknown>(1, [
      () => refused(add(m.vm, a, per, per, PAGE_SIZE)),
      () => add(m.vm, b, WINDOW.places, 4, PAGE_SIZE),
    ]);
    expect(error).toBeInstanceOf(KernelError);
    expect((error as KernelError).message).toMatch(/its working set does not fit into the system window \(ENOSPC\)/);
    await expectAdded(m, b, WINDOW, 4);
    // The place is free for others.
    await add(m.vm, a, WINDOW_PAGES, WINDOW_PAGES, PAGE_SIZE);
    await closeWorld(m);
  });
}
