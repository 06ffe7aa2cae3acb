import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Random } from "../../src/base/random.ts";
import { AP_HOST, AP_VRAM, AP_WINDOW, PageList } from "../../src/hal/gpu.ts";
import { LAYOUTS, MIB, bootGpu } from "./support.ts";
import type { TestGpu } from "./support.ts";

const PAGE_WORDS = 1024;
const NAMES = ["VRAM", "window", "RAM"];

/**
 * A flat model of all memory: every page of RAM, VRAM's heap and the window holds a pattern of its own, so that a byte
 * out of place shows wherever it lands.
 */
class World {
  readonly t: TestGpu;
  readonly pages: readonly number[];
  readonly first: readonly number[];
  readonly model: Uint32Array[];

  private constructor(t: TestGpu, model: Uint32Array[]) {
    this.t = t;
    this.model = model;
    const ptPages = t.gpu.info.ptBytes / 4096;
    this.first = [ptPages, 0, 0];
    this.pages = [t.gpu.info.vramBytes / 4096 - ptPages, t.gpu.info.syswBytes / 4096, t.host.byteLength / 4096];
  }

  static async create(t: TestGpu): Promise<World> {
    const { vramBytes, syswBytes, ptBytes } = t.gpu.info;
    const sizes = [vramBytes - ptBytes, syswBytes, t.host.byteLength];
    const world = new World(
      t,
      sizes.map((bytes) => new Uint32Array(bytes / 4)),
    );
    await world.poison();
    return world;
  }

  /** Every word tells where it belongs. */
  async poison(): Promise<void> {
    for (const ap of [AP_VRAM, AP_WINDOW]) {
      const words = this.model[ap]!;
      for (let i = 0; i < words.length; i++) words[i] = (0x10000000 * (ap + 1)) ^ i;
      // Through RAM, in pieces that fit it.
      const piece = this.pages[AP_HOST]!;
      for (let page = 0; page < this.pages[ap]!; page += piece) {
        const n = Math.min(piece, this.pages[ap]! - page);
        this.t.hostWords.set(words.subarray(page * PAGE_WORDS, (page + n) * PAGE_WORDS));
        const list = new PageList();
        list.push(AP_HOST, 0, ap, this.first[ap]! + page, n);
        this.t.gpu.copy(list);
      }
    }
    const host = this.model[AP_HOST]!;
    for (let i = 0; i < host.length; i++) host[i] = 0x70000000 ^ i;
    this.t.hostWords.set(host);
  }

  /** The same runs in the model; pages count from the first usable one of an aperture. */
  move(list: PageList, from: number, source: number, to: number, target: number, n: number): void {
    list.push(from, this.first[from]! + source, to, this.first[to]! + target, n);
    const words = this.model[from]!.slice(source * PAGE_WORDS, (source + n) * PAGE_WORDS);
    this.model[to]!.set(words, target * PAGE_WORDS);
  }

  clear(list: PageList, to: number, target: number, n: number): void {
    list.pushClear(to, this.first[to]! + target, n);
    this.model[to]!.fill(0, target * PAGE_WORDS, (target + n) * PAGE_WORDS);
  }

  /** Where memory differs from the model: the first wrong word, or null. */
  async difference(): Promise<string | null> {
    const ram = differ("RAM", this.t.hostWords, this.model[AP_HOST]!);
    if (ram !== null) return ram;
    const vram = await this.t.gpu.readVram(this.first[AP_VRAM]! * 4096, this.pages[AP_VRAM]! * 4096);
    const inVram = differ("VRAM", new Uint32Array(vram.buffer), this.model[AP_VRAM]!);
    if (inVram !== null || this.pages[AP_WINDOW] === 0) return inVram;
    const saved = this.t.hostWords.slice();
    const list = new PageList();
    list.push(AP_WINDOW, 0, AP_HOST, 0, this.pages[AP_WINDOW]!);
    await this.t.gpu.copy(list);
    const window = differ("window", this.t.hostWords.slice(0, this.model[AP_WINDOW]!.length), this.model[AP_WINDOW]!);
    this.t.hostWords.set(saved);
    return window;
  }
}

function differ(name: string, words: Uint32Array, expected: Uint32Array): string | null {
  for (let i = 0; i < expected.length; i++) {
    if (words[i] !== expected[i])
      return `${name} page ${i >> 10} word ${i & 1023}: ${words[i]} instead of ${expected[i]}`;
  }
  return null;
}

/** `n` different numbers below `limit`. */
function sample(random: Random, n: number, limit: number): number[] {
  const all = Array.from({ length: limit }, (_, i) => i);
  for (let i = 0; i < n; i++) {
    const k = i + random.below(limit - i);
    [all[i], all[k]] = [all[k]!, all[i]!];
  }
  return all.slice(0, n);
}

describe.each(LAYOUTS)("copies on $name", ({ config, options }) => {
  let world: World;
  beforeAll(async () => {
    world = await World.create(
      await bootGpu({ ...config, hostMemory: new Uint8Array(new SharedArrayBuffer(3 * MIB)) }, options),
    );
  });
  afterAll(() => world.t.gpu.destroy());

  const directions = [AP_VRAM, AP_WINDOW, AP_HOST].flatMap((from) =>
    [AP_VRAM, AP_WINDOW, AP_HOST].map((to) => ({ from, to })),
  );
  test.each(directions)("$from to $to (0 VRAM, 1 window, 2 RAM), scattered pages and runs", async ({ from, to }) => {
    const random = new Random(from * 3 + to + 1);
    for (const n of [1, 2, 33, 100]) {
      const list = new PageList();
      // One half of an aperture is copied to the other, so that runs of a list do not depend on each other.
      const half = Math.floor(Math.min(world.pages[from]!, world.pages[to]!) / 2);
      const sources = sample(random, n, half);
      const targets = sample(random, n, half).map((page) => page + world.pages[to]! - half);
      for (let i = 0; i < n; i++) world.move(list, from, sources[i]!, to, targets[i]!, 1);
      await world.t.gpu.copy(list);
    }
    expect(await world.difference()).toBeNull();
  });

  test("runs across segment borders, in every direction", async () => {
    const list = new PageList();
    const far = world.pages[AP_VRAM]! - 600;
    world.move(list, AP_HOST, 0, AP_VRAM, 50, 600);
    await world.t.gpu.copy(list);
    list.clear();
    world.move(list, AP_VRAM, 50, AP_VRAM, far, 600);
    await world.t.gpu.copy(list);
    list.clear();
    world.move(list, AP_VRAM, far, AP_HOST, 10, 600);
    await world.t.gpu.copy(list);
    expect(await world.difference()).toBeNull();
  });

  test.each([1, 5, 32, 33, 200])("%i clears in one list touch nothing else", async (n) => {
    const random = new Random(n);
    for (const to of [AP_VRAM, AP_WINDOW, AP_HOST]) {
      const list = new PageList();
      // Even pages only, so that no two are merged into one run.
      const targets = sample(random, Math.min(n, world.pages[to]! / 2 - 1), world.pages[to]! / 2 - 1);
      for (const page of targets) world.clear(list, to, page * 2, 1);
      world.clear(list, to, world.pages[to]! - 1, 1);
      await world.t.gpu.copy(list);
    }
    expect(await world.difference()).toBeNull();
  });

  test("one list in all directions at once", async () => {
    const list = new PageList();
    world.move(list, AP_HOST, 1, AP_VRAM, 20, 3);
    world.move(list, AP_VRAM, 40, AP_HOST, 500, 3);
    world.move(list, AP_VRAM, 60, AP_VRAM, 80, 3);
    world.move(list, AP_WINDOW, 1, AP_VRAM, 100, 3);
    world.move(list, AP_HOST, 5, AP_HOST, 600, 3);
    world.clear(list, AP_VRAM, 120, 3);
    world.clear(list, AP_HOST, 700, 3);
    await world.t.gpu.copy(list);
    expect(await world.difference()).toBeNull();
  });
});

describe("lists of thousands of pages", () => {
  let world: World;
  beforeAll(async () => {
    const hostMemory = new Uint8Array(new SharedArrayBuffer(40 * MIB));
    world = await World.create(await bootGpu({ vramBytes: 72 * MIB, syswBytes: 0, hostMemory }));
  });
  afterAll(() => world.t.gpu.destroy());

  test.each([
    [AP_HOST, AP_VRAM],
    [AP_VRAM, AP_HOST],
    [AP_VRAM, AP_VRAM],
  ])("from %i to %i, every page scattered: 4096, and more than one dispatch holds", async (from, to) => {
    for (const n of [4096, from === to ? 8500 : 4097]) {
      const random = new Random(n);
      const list = new PageList();
      const half = Math.floor(Math.min(world.pages[from]!, world.pages[to]!) / 2);
      const sources = sample(random, n, half);
      const targets = sample(random, n, half).map((page) => page + half);
      for (let i = 0; i < n; i++) world.move(list, from, sources[i]!, to, targets[i]!, 1);
      expect(list.pages).toBe(n);
      await world.t.gpu.copy(list);
    }
    expect(await world.difference()).toBeNull();
  });
});

describe("what a list may not do", () => {
  let t: TestGpu;
  beforeAll(async () => {
    t = await bootGpu();
  });
  afterAll(() => t.gpu.destroy());

  test.each([
    ["past the end of VRAM", AP_HOST, 0, AP_VRAM, 4095],
    ["past the end of the window", AP_HOST, 0, AP_WINDOW, 255],
    ["past the end of RAM", AP_VRAM, 300, AP_HOST, 2047],
    ["from past the end of RAM", AP_HOST, 2047, AP_VRAM, 300],
  ])("%s: refused before anything is done", (_name, from, source, to, target) => {
    const list = new PageList();
    list.push(from, source, to, target, 2);
    expect(() => t.gpu.copy(list)).toThrow(new RegExp(`leave aperture \\d of \\d+ pages`));
    expect(NAMES[to]).toBeDefined();
  });

  test("an empty list has nothing to wait for", () => {
    expect(t.gpu.copy(new PageList())).toBeNull();
  });
});
