import { describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_2M, SZ_64K } from "../../src/base/addr.ts";
import { ENOMEM, isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { PTE_AE, PTE_DM, PTE_NULL, PTE_W } from "../../src/abi/pte.ts";
import { PageRuns } from "../../src/driver/page-table-runs.ts";
import { GPUVA_SPARSE } from "../../src/gpuvm/gpuva.ts";
import { smMapOpsCreate, smUnmapOpsCreate } from "../../src/gpuvm/ops.ts";
import { GPUVA_OP_MAP, GPUVA_OP_REMAP, GPUVA_OP_UNMAP, remapToUnmapRange } from "../../src/gpuvm/steps.ts";
import type { MapPiece, Step } from "../../src/gpuvm/steps.ts";
import { Model } from "./gpuvm-model.ts";
import { EXAMPLES } from "./gpuvm-worked-examples.ts";
import { TableSpace } from "./page-tables-model.ts";

/**
 * The worked examples of the VA manager driven to page tables, a unit being a page, a 64 KiB page, or a part of a 2 MiB
 * leaf: every page must translate as the manager's view says (spec/device.md X9).
 */
const V = 0x7f00_0000_0000;
const RW = PTE_W | PTE_AE | PTE_DM;
const WINDOW_UNITS = 90;

class Driver {
  readonly model = new Model();
  readonly space = new TableSpace();
  readonly unit: number;

  constructor(unit: number, before: string) {
    this.unit = unit;
    this.model.insertAll(before);
    for (const va of this.model.vm.vas()) {
      if (va !== this.model.vm.kernelNode) expect(this.#map(va, (va.flags & GPUVA_SPARSE) !== 0)).toBe(0);
    }
    this.space.flush();
  }

  /** Objects stand 64 GiB apart, aligned to 2 MiB. */
  #pa(piece: MapPiece<number>): number {
    return piece.obj === null ? 0 : (1 + "ABCDE".indexOf(piece.obj.name)) * 2 ** 36 + piece.offset * this.unit;
  }

  /** Neither object nor sparse: nothing to write. */
  #map(piece: MapPiece<number>, sparse: boolean): 0 | Errno {
    if (piece.obj === null && !sparse) return 0;
    const runs = new PageRuns();
    runs.push((piece.range * this.unit) / PAGE_SIZE, this.#pa(piece), piece.obj === null ? PTE_NULL | PTE_W : RW);
    return this.space.tables.mapRuns(V + piece.addr * this.unit, runs);
  }

  /** Cuts all that the steps cut before anything goes; after that only the last step, the new mapping, can fail. */
  execute(steps: readonly Step[], sparse: boolean): 0 | Errno {
    const { tables } = this.space;
    const gone = steps.flatMap((step) => {
      if (step.kind === GPUVA_OP_UNMAP) return [{ addr: step.va.addr, range: step.va.range }];
      if (step.kind !== GPUVA_OP_REMAP) return [];
      const { start, range } = remapToUnmapRange(step);
      return [{ addr: start, range }];
    });
    const bounds = gone.map(({ addr, range }) => [V + addr * this.unit, V + (addr + range) * this.unit] as const);
    for (const [start, end] of bounds) {
      const ret = tables.split(start, end);
      if (isErr(ret)) return ret;
    }
    // The new mapping replaces what it covers, which is all that goes.
    const made = steps.find((step) => step.kind === GPUVA_OP_MAP);
    if (made !== undefined) {
      const ret = this.#map(made, sparse);
      if (isErr(ret)) return ret;
      if (made.obj !== null || sparse) return 0;
    }
    for (const [start, end] of bounds) tables.unmap(start, end);
    return 0;
  }

  request(text: string): Step[] {
    const [kind, what] = text.split(" ") as [string, string];
    const req = this.model.parse(what);
    const ops =
      kind === "map" ? smMapOpsCreate(this.model.vm, req) : smUnmapOpsCreate(this.model.vm, req.addr, req.range);
    return isErr(ops) ? [] : Array.from(ops, (op) => op.step);
  }

  /** What the walker says of each page, and what the manager's view says. */
  async check(): Promise<void> {
    const walk = await this.space.walker();
    const wanted = new Map<number, string>();
    for (const va of this.model.vm.vas()) {
      const sparse = (va.flags & GPUVA_SPARSE) !== 0;
      if (va === this.model.vm.kernelNode || (va.obj === null && !sparse)) continue;
      for (let i = 0; i < va.range * this.unit; i += PAGE_SIZE) {
        const text = sparse ? "NULL" : (this.#pa(va) + i).toString(16);
        wanted.set(V + va.addr * this.unit + i, text);
      }
    }
    for (let at = V; at < V + WINDOW_UNITS * this.unit; at += PAGE_SIZE) {
      const found = walk(at);
      const text = !found.present ? undefined : (found.flags & PTE_NULL) !== 0 ? "NULL" : found.pa.toString(16);
      if (text !== wanted.get(at)) expect.fail(`${at.toString(16)}: ${text} instead of ${wanted.get(at)}`);
    }
  }
}

const DRIVEN = EXAMPLES.filter(([, , , request]) => /^(un)?map /.test(request));

describe.each([
  ["4 KiB", PAGE_SIZE],
  ["64 KiB", SZ_64K],
  ["192 KiB, unaligned to any leaf above 64 KiB", 3 * SZ_64K],
  ["516 KiB, parts of 2 MiB leaves", SZ_2M / 4 + PAGE_SIZE],
])("a unit of %s", (_name, unit) => {
  test.each(DRIVEN)("%i %s: %s; %s", async (_id, _name2, before, request) => {
    const driver = new Driver(unit, before);
    await driver.check();
    const steps = driver.request(request);
    const sparse = request.includes(" S[");
    for (let n = 0; ; n++) {
      driver.space.failAt = n;
      const ret = driver.execute(steps, sparse);
      const injected = driver.space.failAt < 0;
      driver.space.failAt = -1;
      if (!injected) {
        expect(ret).toBe(0);
        break;
      }
      // An allocation failed: the manager's view has not changed, and neither has a translation.
      expect(ret).toBe(ENOMEM);
      await driver.check();
    }
    for (const step of steps) driver.model.apply(step, sparse);
    await driver.check();
    driver.space.tables.unmap(V, V + WINDOW_UNITS * unit);
    driver.space.flush();
    expect(driver.space.tables.bytes).toBe(PAGE_SIZE);
  });
});
