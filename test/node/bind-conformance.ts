/** The bind pipeline driven to page tables (spec/device.md section 9, X9), for any engine. */
import { expect } from "vitest";
import { PAGE_SIZE, SZ_2M } from "../../src/base/addr.ts";
import { EINVAL, isErr } from "../../src/base/errno.ts";
import { Random } from "../../src/base/random.ts";
import type { BindVa } from "../../src/driver/bind-va.ts";
import type { Bo } from "../../src/driver/bo.ts";
import { VM_BIND_NULL } from "../../src/gpuvm/bind-args.ts";
import type { BindStep } from "../../src/gpuvm/bind-step.ts";
import type { GemObject } from "../../src/gpuvm/gem-object.ts";
import { GPUVA_OP_MAP, GPUVA_OP_PREFETCH, GPUVA_OP_UNMAP } from "../../src/gpuvm/steps.ts";
import type { MapPiece } from "../../src/gpuvm/steps.ts";
import type { Engine } from "../../src/machine/machine.ts";
import type { FailSite } from "../../src/mm/phys-mem.ts";
import { BindSpace } from "./bind-space.ts";
import type { PageOp } from "./bind-space.ts";
import { EXAMPLES } from "./gpuvm-worked-examples.ts";
import type { Example } from "./gpuvm-worked-examples.ts";

const MIB = 1 << 20;

/** Units of the examples below the reserved ones: here the address space ends where those begin. */
const UNITS = 90;
const NAMES = ["A", "B", "C", "D", "E"];

/** Mappings without memory and not sparse are not a kind of the driver's, and it has no insertion without a bind. */
export const BIND_EXAMPLES = EXAMPLES.filter(
  ([, , before, request]) => !`${before} ${request}`.includes("N[") && !request.startsWith("insert B"),
);

/** The worked examples on one address space, `unit` pages to each of their units. */
export class ExampleSpace {
  readonly space: BindSpace;
  readonly #unit: number;
  readonly #bos = new Map<string, Bo>();

  private constructor(space: BindSpace, unit: number) {
    this.space = space;
    this.#unit = unit;
  }

  static async create(engine: Engine, unit: number, vaBits: 48 | 57 = 48, tiles = 1): Promise<ExampleSpace> {
    const pages = UNITS * unit;
    const base = vaBits === 48 ? 2 ** 48 - pages * PAGE_SIZE : 2 ** 53 - PAGE_SIZE - pages * PAGE_SIZE;
    const vram = Math.ceil((NAMES.length * 100 * unit * PAGE_SIZE) / SZ_2M) * SZ_2M + 2 * SZ_2M;
    const space = new BindSpace(engine, { base, pages, vram, tiles, vm: { vaBits } });
    const examples = new ExampleSpace(space, unit);
    for (const name of NAMES) {
      examples.#bos.set(name, await space.bo({ size: 100 * unit * PAGE_SIZE, name }));
    }
    return examples;
  }

  async run([, , before, request, ops, after]: Example): Promise<void> {
    const { space } = this;
    for (const text of before.split(" ").filter(Boolean)) expect(await space.bind(this.#map(text))).toBe(0);
    const state = this.#state();
    const performed: BindStep[] = [];
    const ret = await space.bindReporting([this.#request(request)], performed);
    if (ops.endsWith("-EINVAL")) {
      expect(ret).toBe(EINVAL);
      expect(this.#state()).toBe(state);
    } else {
      expect(ret).toBe(0);
      expect(performed.map((step) => this.#stepText(step)).join("; ")).toBe(ops);
      expect(this.#state()).toBe(after === "unchanged" ? before : after);
    }
    expect(await space.differences()).toEqual([]);
    expect(await space.bind({ op: "unmap", at: 0, pages: UNITS * this.#unit })).toBe(0);
    expect(await space.differences()).toEqual([]);
    space.checkQuiet();
  }

  #request(request: string): PageOp {
    const [kind, what] = request.split(" ") as [string, string];
    if (kind === "map" || kind === "insert") return this.#map(what);
    const { at, pages } = this.#extent(what);
    return kind === "unmap" ? { op: "unmap", at, pages } : { op: "prefetch", at, pages, region: 1 };
  }

  #map(text: string): PageOp {
    const { name, at, pages, from } = this.#extent(text);
    return name === "S" ? { op: "null", at, pages } : { op: "map", at, pages, bo: this.#bos.get(name)!, from };
  }

  #extent(text: string): { name: string; at: number; pages: number; from: number } {
    const [, name, start, end, from] = /^([A-Z]?)\[(\d+),(\d+)\)(?:\+(\d+))?$/.exec(text)!;
    const unit = this.#unit;
    return {
      name: name!,
      at: Number(start) * unit,
      pages: (Number(end) - Number(start)) * unit,
      from: Number(from ?? 0) * unit,
    };
  }

  #state(): string {
    const { binds } = this.space.svm;
    return binds
      .vas(0, binds.gpuvm.mmEnd)
      .map((va) => this.#text(va, va.isNull))
      .join(" ");
  }

  #stepText({ step, op }: BindStep): string {
    if (step.kind === GPUVA_OP_MAP) return `M ${this.#text(step, (op.flags & VM_BIND_NULL) !== 0)}`;
    if (step.kind === GPUVA_OP_PREFETCH) return `P ${this.#vaText(step.va as BindVa)}`;
    const { va, keep } = step.kind === GPUVA_OP_UNMAP ? step : step.unmap;
    const what = `${this.#vaText(va as BindVa)} k=${keep ? 1 : 0}`;
    if (step.kind === GPUVA_OP_UNMAP) return `U ${what}`;
    const isNull = (va as BindVa).isNull;
    const [prev, next] = [step.prev, step.next].map((piece) => (piece === null ? "-" : this.#text(piece, isNull)));
    return `R ${what} p=${prev} n=${next}`;
  }

  #vaText(va: BindVa): string {
    return this.#text(va, va.isNull);
  }

  #text(
    {
      addr,
      range,
      obj,
      offset,
    }: MapPiece<number> | { obj: GemObject | null; addr: number; range: number; offset: number },
    isNull: boolean,
  ): string {
    const unit = this.#unit * PAGE_SIZE;
    const start = (addr - this.space.base) / unit;
    const where = `[${start},${start + range / unit})`;
    return isNull ? `S${where}` : `${obj!.name}${where}+${offset / unit}`;
  }
}

/** The steps of a bind that can fail. */
export const BIND_SITES: readonly FailSite[] = [
  "bind-commit",
  "va-alloc",
  "notifier-insert",
  "hmm-fault",
  "dma-map",
  "vram-alloc",
  "copy-submit",
  "table-alloc",
];

/** Where a call passes a site often, it is enough to try some of the times. */
const STRIDE: Partial<Record<FailSite, number>> = { "dma-map": 7, "table-alloc": 7, "va-alloc": 3 };

/** Pages of the region of the random sequences: two leaves of 2 MiB. */
const REGION = 1024;
const USER_PAGES = 64;

/** An address space for random sequences, with objects in VRAM and in the window, and process memory. */
export class RandomSpace {
  readonly space: BindSpace;
  readonly #random: Random;
  readonly #bos: Bo[] = [];
  #calls = 0;

  private constructor(space: BindSpace, seed: number) {
    this.space = space;
    this.#random = new Random(seed);
  }

  static async create(engine: Engine, seed: number, vaBits: 48 | 57 = 48, tiles = 1): Promise<RandomSpace> {
    const base = (vaBits === 48 ? 2 ** 46 : 3 * 2 ** 48) - SZ_2M;
    const random = new RandomSpace(
      new BindSpace(engine, { base, pages: REGION, vram: 16 * MIB, tiles, vm: { vaBits } }),
      seed,
    );
    const bos = random.#bos;
    bos.push(await random.space.bo({ size: 4 * MIB, contiguous: true, name: "large" }));
    bos.push(await random.space.bo({ size: 3 * MIB, name: "vram" }));
    bos.push(await random.space.bo({ size: MIB, placement: "system", name: "system" }));
    bos.push(await random.space.bo({ size: MIB, placement: "both", vm: random.space.svm, name: "private" }));
    await random.space.withUserMemory(USER_PAGES);
    return random;
  }

  /** A call of one to four operations. */
  call(): PageOp[] {
    return Array.from({ length: 1 + this.#random.below(4) }, () => this.#op());
  }

  /** Now and then, a step of the next call will fail. */
  maybeFail(): boolean {
    const random = this.#random;
    this.#calls += 1;
    if (this.#calls < 5 || random.below(3) === 0) return false;
    this.space.failAt(BIND_SITES[random.below(BIND_SITES.length)]!, 1 + random.below(2));
    return true;
  }

  #op(): PageOp {
    const random = this.#random;
    const readOnly = random.below(4) === 0;
    const kind = random.below(16);
    if (kind === 0) return { op: "unmapAll", bo: this.#bo() };
    if (kind <= 3) return { op: "unmap", ...this.#extent(REGION) };
    if (kind <= 5) return { op: "null", ...this.#extent(REGION), readOnly };
    if (kind <= 7) {
      const { at, pages } = this.#extent(USER_PAGES);
      return { op: "user", at, pages, from: random.below(USER_PAGES - pages + 1), readOnly };
    }
    const bo = this.#bo();
    const total = bo.size / PAGE_SIZE;
    const { at, pages, unit } = this.#extent(total);
    const from = Math.min(total - pages, random.below(Math.floor(total / unit)) * unit);
    return { op: "map", at, pages, bo, from, readOnly };
  }

  #bo(): Bo {
    return this.#bos[this.#random.below(this.#bos.length)]!;
  }

  /** At most `most` pages, aligned to a page, to 64 KiB or to 2 MiB. */
  #extent(most: number): { at: number; pages: number; unit: number } {
    const random = this.#random;
    const unit = [1, 16, 512].filter((n) => n <= most)[random.below(most >= 512 ? 3 : most >= 16 ? 2 : 1)]!;
    const at = random.below(REGION / unit) * unit;
    const pages = (1 + random.below(Math.min(Math.floor(most / unit), unit === 1 ? 40 : 8))) * unit;
    return { at, pages: Math.min(pages, REGION - at), unit };
  }
}

const NO_TABLES = new Uint8Array(0);

/** Random calls, some of which fail: a call shows as a whole in every page, or leaves view and page tables as they were. */
export async function randomCalls(
  random: RandomSpace,
  calls: number,
  check = async (): Promise<void> => {},
): Promise<number> {
  const { space } = random;
  let failed = 0;
  for (let i = 0; i < calls; i++) {
    const ops = random.call();
    const isArmed = random.maybeFail();
    const [view, tables] = [space.view(), isArmed ? await space.tables() : NO_TABLES];
    const ret = await space.bind(...ops);
    space.checkQuiet();
    if (isErr(ret)) {
      failed += 1;
      expect(space.view()).toBe(view);
      expect(sameBytes(await space.tables(), tables)).toBe(true);
    }
    expect(await space.differences(), `call ${i}: ${JSON.stringify(ops.map(({ op }) => op))}`).toEqual([]);
    await check();
  }
  return failed;
}

/**
 * A call of many kinds of operations, each of whose steps is made to fail in turn: then every page, the view and the page
 * tables are as they were, byte by byte. The number of failures by site.
 */
export async function failEverywhere(engine: Engine, tiles = 1): Promise<Map<FailSite, number>> {
  const space = new BindSpace(engine, { base: 2 ** 40, pages: REGION, vram: 16 * MIB, tiles });
  try {
    const [large, small] = [await space.bo({ size: 4 * MIB, contiguous: true }), await space.bo({ size: MIB })];
    const away = await space.bo({ size: MIB });
    await space.withUserMemory(USER_PAGES);
    const before: PageOp[] = [
      { op: "map", at: 0, pages: 1024, bo: large, from: 0 },
      { op: "map", at: 700, pages: 100, bo: small, from: 8 },
      { op: "user", at: 820, pages: 40, from: 0 },
      { op: "null", at: 900, pages: 60 },
    ];
    const call: PageOp[] = [
      { op: "map", at: 100, pages: 30, bo: small, from: 3 },
      { op: "unmap", at: 300, pages: 250 },
      { op: "user", at: 310, pages: 20, from: 30, readOnly: true },
      { op: "unmap", at: 830, pages: 10 },
      { op: "null", at: 20, pages: 17, readOnly: true },
      { op: "map", at: 600, pages: 128, bo: away, from: 128 },
      { op: "unmapAll", bo: small },
      { op: "prefetch", at: 0, pages: 50, region: 1 },
      { op: "map", at: 0, pages: 16, bo: large, from: 512 },
    ];
    expect(await space.bind(...before)).toBe(0);
    const failures = new Map<FailSite, number>();
    for (const site of BIND_SITES) {
      const [view, tables] = [space.view(), await space.tables()];
      for (let n = 1; ; n += STRIDE[site] ?? 1) {
        // Out of VRAM, so that the call has to bring it back.
        await space.device.driver.evictBuffers([away]);
        await space.process.dontneed(space.user + 40 * PAGE_SIZE, 24 * PAGE_SIZE);
        const state = space.failAt(site, n);
        const ret = await space.bind(...call);
        space.checkQuiet();
        if (!state.fired) {
          expect(ret).toBe(0);
          break;
        }
        expect(isErr(ret)).toBe(true);
        failures.set(site, (failures.get(site) ?? 0) + 1);
        expect(space.view()).toBe(view);
        expect(sameBytes(await space.tables(), tables)).toBe(true);
      }
      // Back to the beginning, for the next site.
      space.model.fill(null);
      expect(await space.bind({ op: "unmap", at: 0, pages: REGION }, ...before)).toBe(0);
      expect(await space.differences()).toEqual([]);
    }
    return failures;
  } finally {
    await space.close();
  }
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  const [left, right] = [a, b].map((bytes) => new Uint32Array(bytes.slice().buffer));
  for (let i = 0; i < left!.length; i++) if (left![i] !== right![i]) return false;
  return a.length === b.length;
}
