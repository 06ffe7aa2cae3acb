/**
 * Exploration on machines of two devices and of two tiles: what `npm run explore` runs there at length is in
 * explore.test.ts; here that such a machine is what it says, and that its checks see what they are for.
 */
import { afterEach, describe, expect, test, vi } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { type Mutation, mutate } from "../../src/base/mutation.ts";
import { tileOf } from "../../src/abi/tiles.ts";
import { perform } from "../../src/explore/actors.ts";
import { CARDS_CASES } from "../../src/explore/cards-cases.ts";
import type { Cards } from "../../src/explore/cards.ts";
import { CASES } from "../../src/explore/cases.ts";
import { checkWorld } from "../../src/explore/invariants.ts";
import { NO_FAILURES, type Op, type Program, describeProgram } from "../../src/explore/program.ts";
import { type Host, Rig } from "../../src/explore/rig.ts";
import { Explorer } from "../../src/explore/schedule.ts";
import { explore, findMutation } from "../../src/explore/search.ts";
import { World } from "../../src/explore/world.ts";
import { INTERCONNECT_P2P } from "../../src/driver/peer-links.ts";

vi.setConfig({ testTimeout: 30_000 });

const host: Host = { tick: (f) => process.nextTick(f) };
const PAIRS = ["apart", "linked", "tiles"] as const satisfies readonly Cards[];
const FILL: Op = { op: "fill", who: 0, page: 0, pages: 16 };

afterEach(() => mutate(null));

/** One address space on each device, or one for both tiles. */
function programOn(cards: Cards, setup: readonly Op[]): Program {
  const two = cards === "apart" || cards === "linked";
  return {
    pages: 16,
    inHuge: 0,
    vms: two ? 2 : 1,
    vmDevices: two ? [0, 1] : [0],
    cards,
    vram: 32,
    migrate: true,
    failures: NO_FAILURES,
    setup,
    activities: [[]],
  };
}

/** A load of all pages by the second device or tile, or the first. */
function look(cards: Cards, place: number): Op {
  return { op: "gread", page: 0, pages: 16, word: 0, ...(cards === "tiles" ? { vm: 0, tile: place } : { vm: place }) };
}

/** The world after the operations, with nothing under way. */
async function worldOf(cards: Cards, setup: readonly Op[]): Promise<World> {
  const rig = new Rig(32 * PAGE_SIZE, false, host, cards);
  const world = new World(programOn(cards, setup), rig, checkWorld);
  await world.map();
  for (const op of setup) await perform(world, op);
  return world;
}

/** Where the first page of the area lies: number of its device, and of its tile there. */
function placeOf(world: World): { device: number; tile: number } | "RAM" {
  const { mm } = world.processes[0]!;
  for (const [index, { device }] of world.rig.devices.entries()) {
    const tile = device.tileAt(mm, world.base);
    if (tile !== null) return { device: index, tile };
  }
  return "RAM";
}

describe("a machine", () => {
  test.each([
    { cards: "one", devices: 1, tiles: 1 },
    { cards: "apart", devices: 2, tiles: 1 },
    { cards: "linked", devices: 2, tiles: 1 },
    { cards: "tiles", devices: 1, tiles: 2 },
  ] as const)("$cards: $devices devices of $tiles tiles", async ({ cards, devices, tiles }) => {
    const { rig } = await worldOf(cards, []);
    expect(rig.devices.map(({ device }) => device.regions.length)).toEqual(new Array(devices).fill(tiles));
    expect(rig.devices.map(({ hardware }) => hardware.tiles.length)).toEqual(new Array(devices).fill(tiles));
    const isLinked = cards === "linked";
    for (const { device } of rig.devices) expect(device.links.peersOf(device).length).toBe(isLinked ? 1 : 0);
    for (const { peers } of rig.devices) expect(peers.length).toBe(isLinked ? 1 : 0);
  });

  test.each(PAIRS)("%s: pages go to whoever uses them, and can be evicted there", async (cards) => {
    const second = cards === "tiles" ? { device: 0, tile: 1 } : { device: 1, tile: 0 };
    const world = await worldOf(cards, [FILL, look(cards, 0)]);
    expect(placeOf(world)).toEqual({ device: 0, tile: 0 });
    await perform(world, look(cards, 1));
    expect(placeOf(world)).toEqual(second);
    await perform(world, { op: "evict", pages: 16 });
    expect(placeOf(world)).toEqual(second);
    await perform(world, { op: "evict", pages: 16, ...second });
    expect(placeOf(world)).toBe("RAM");
    checkWorld(world);
  });

  test("linked: a device maps what was advised to lie with the other, by the address that it has on the card", async () => {
    const prefer: Op = { op: "prefer", vm: 1, page: 0, pages: 16, loc: 0 };
    const world = await worldOf("linked", [FILL, prefer, look("linked", 1)]);
    expect(placeOf(world)).toEqual({ device: 0, tile: 0 });
    const range = world.vms[1]!.svm.rangeAt(world.base)!;
    const { addr, proto } = { addr: range.pages.dmaAddr!.addr[0]!, proto: range.pages.dmaAddr!.proto(0) };
    expect([proto, tileOf(addr)]).toEqual([INTERCONNECT_P2P, 0]);
    expect(world.rig.devices[1]!.vramPfnAt(proto, addr)).toBe(world.processes[0]!.mm.devicePfnAt(world.base));
    checkWorld(world);
  });

  test("unbind takes one device, and the address spaces on the other go on", async () => {
    const world = await worldOf("apart", [FILL, look("apart", 0), { op: "unbind", device: 0 }]);
    expect(world.vms.map(({ closing }) => closing)).toEqual([true, false]);
    await perform(world, look("apart", 1));
    expect(placeOf(world)).toEqual({ device: 1, tile: 0 });
  });
});

describe("the checks see", () => {
  test.each(PAIRS)("%s: an entry that one of two keeps after pages have moved", async (cards) => {
    const world = await worldOf(cards, [FILL, look(cards, 0)]);
    const { svm } = world.vms[0]!;
    const range = svm.rangeAt(world.base)!;
    mutate("zap-skipped");
    await perform(world, look(cards, 1));
    mutate(null);
    expect(range.start).toBe(world.base);
    expect(() => checkWorld(world)).toThrow(/\(I\d+/);
  });

  test("tiles: an entry of one tile that the range does not say", async () => {
    const world = await worldOf("tiles", [FILL, look("tiles", 0)]);
    const { svm } = world.vms[0]!;
    checkWorld(world);
    svm.rangeAt(world.base)!.tilePresent = 0b11;
    expect(() => checkWorld(world)).toThrow("tile 1, which should be");
    svm.rangeAt(world.base)!.tilePresent = 0;
    expect(() => checkWorld(world)).toThrow("tile 0, which should be -1");
  });

  test("a mapping of the window that one of two devices has left", async () => {
    const world = await worldOf("apart", [FILL]);
    const [, { dmaLive }] = world.rig.devices as [unknown, (typeof world.rig.devices)[number]];
    dmaLive.set(PAGE_SIZE, { pfn: 2, count: 1 });
    expect(() => checkWorld(world)).toThrow("1 pages of the window are mapped, the ranges know of 0 (I16)");
  });

  test("an address of VRAM that is no device's to reach", async () => {
    const { rig } = await worldOf("apart", []);
    expect(rig.devices[0]!.vramPfnAt(INTERCONNECT_P2P, PAGE_SIZE)).toBe(-1);
  });

  // What a device is told about its tables and its TLB, and what a page map is told about its pages.
  test.each([
    ["zap-skipped", "share"],
    ["tlb-skipped", "share"],
    ["bind-unchecked", "share"],
    ["zdd-reference-forgotten", "share"],
    ["dma-unmap-forgotten", "in-place"],
    ["unmap-unawaited", "in-place"],
    ["evict-unannounced", "evict"],
    ["vacancy-unawaited", "pressure"],
  ] as const satisfies readonly (readonly [Mutation, string])[])(
    "%s, on each kind of machine (%s)",
    async (name, race) => {
      for (const cards of PAIRS) {
        const of = CARDS_CASES.find((each) => each.name === `${cards}-${race}`)!;
        expect(await findMutation(name, [of], 100, host), `${name} was not found in ${of.name}`).not.toBeNull();
      }
    },
  );
});

describe("the cases", () => {
  test("each race is one on each kind of machine, and all are explored", () => {
    const names = CARDS_CASES.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    const races = (cards: Cards) =>
      names.filter((name) => name.startsWith(`${cards}-`)).map((name) => name.split("-")[1]);
    for (const cards of PAIRS) expect(races(cards)).toEqual(races("apart"));
    expect(names.length).toBe(PAIRS.length * races("apart").length);
    expect(CASES).toEqual(expect.arrayContaining([...CARDS_CASES]));
  });

  test("a machine is kept for programs of its kind only", async () => {
    const explorer = new Explorer(host);
    for (const cards of [...PAIRS, "one", ...PAIRS] as const) {
      const program = programOn(cards, [FILL, look(cards, cards === "one" ? 0 : 1)]);
      expect((await explorer.run(program, 1)).violation).toBeNull();
    }
  });

  test("a program says what it runs on", () => {
    expect(describeProgram(programOn("linked", []))).toContain("cards=linked vmDevices=0,1");
  });

  test("seeds of all kinds one after the other on kept machines", async () => {
    const cases = CARDS_CASES.filter(({ name }) => name.endsWith("-share"));
    const request = { cases, from: 1, end: 13, stride: 1, maxFindings: 1 };
    const { schedules, findings } = await explore(request, host);
    expect(findings.map(({ seed, violation }) => `seed ${seed}: ${violation.message}`)).toEqual([]);
    expect(schedules).toBe(36);
  });
});

/** Each program once ended in a violation, in every order or in that of the first seeds. */
describe("what the cases have found", () => {
  const ofTile = (op: "gread" | "gwrite", tile: number, pages = 16): Op => ({
    op,
    vm: 0,
    tile,
    page: 0,
    pages,
    word: 1,
  });
  const touch: Op = { op: "gwrite", vm: 0, page: 7, pages: 1, word: 1 };
  const tiles = programOn("tiles", [FILL]);
  const found: readonly (readonly [string, Program])[] = [
    [
      "a range that one tile writes in place is read by the other, with the right to write there",
      {
        ...tiles,
        policies: { migrate: "write" },
        activities: [
          [{ op: "pin", who: 0, page: 3, pages: 1, points: 80 }],
          [
            { op: "pause", points: 4 },
            ofTile("gwrite", 0),
            ofTile("gread", 1),
            { op: "read", who: 0, page: 5, word: 1 },
            ofTile("gwrite", 0),
            { op: "read", who: 0, page: 5, word: 1 },
          ],
        ],
      },
    ],
    [
      "a prefetch for one tile makes a mapping of the other, for reading only, count as writable",
      {
        ...tiles,
        policies: { migrate: "write" },
        activities: [
          [
            { op: "toVram", vm: 0, tile: 1, page: 0, pages: 16 },
            ofTile("gread", 0),
            { op: "prefetch", vm: 0, tile: 1, page: 0, pages: 16 },
            ofTile("gwrite", 0),
          ],
        ],
      },
    ],
    [
      "two tiles' prefetchers take from each other what has just been mapped",
      {
        ...programOn("tiles", []),
        policies: { prefetch: "density" },
        activities: [[{ ...touch, tile: 0 }], [{ ...touch, tile: 1 }]],
      },
    ],
    [
      "pages arrive in the memory of a device that has just gone",
      {
        ...programOn("linked", []),
        activities: [
          [
            { op: "pause", points: 1 },
            { op: "unbind", device: 0 },
          ],
          [
            { op: "prefer", vm: 1, loc: 0, tile: 0, page: 0, pages: 2 },
            { op: "gwrite", vm: 1, tile: 0, page: 0, pages: 16, word: 1 },
          ],
        ],
      },
    ],
  ];
  test.each(found)("%s", async (_, program) => {
    for (let seed = 1; seed <= 12; seed++) {
      const { violation } = await new Explorer(host).run(program, seed);
      expect(violation?.message, `seed ${seed}`).toBeUndefined();
    }
  });
});
