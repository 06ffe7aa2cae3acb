/** Random use of the VRAM manager against a flat model: an array of victims, and a number for the bytes of each buffer. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { PAGE_SIZE } from "../../src/base/addr.ts";
import { E2BIG, ENOMEM } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { DmaResv } from "../../src/gpuvm/dma-resv.ts";
import { LruBulkMove } from "../../src/vram/lru.ts";
import { PL_VRAM } from "../../src/vram/place.ts";
import type { TtmPlacement } from "../../src/vram/place.ts";
import { Rig, SYSTEM, SZ_2M, SZ_64K, TT, VRAM } from "./vram-rig.ts";
import type { Bo } from "./vram-rig.ts";

const PLACEMENTS: readonly TtmPlacement[] = [[VRAM], [VRAM, TT], [TT], [SYSTEM], [VRAM], [VRAM], []];
const BUDGET = 800 * PAGE_SIZE;

class Model {
  readonly rig = new Rig({ vramBytes: 2 * SZ_2M, ptBytes: SZ_64K, budget: BUDGET, ttBytes: 400 * PAGE_SIZE });
  readonly live: Bo[] = [];
  /** VRAM's residents per priority, least recently used first; the bulk's members stand together. */
  readonly lru: Bo[][] = [[], [], [], []];
  readonly value = new Map<Bo, number>();
  readonly bulk = new LruBulkMove();
  readonly bulkResv = new DmaResv("vm");
  #made = 0;

  create(pages: number, priority: number, inBulk: boolean): void {
    this.#made += 1;
    const init = { priority, ...(inBulk ? { resv: this.bulkResv } : {}) };
    const bo = this.rig.bo(`${this.#made}`, pages * PAGE_SIZE, init);
    if (inBulk) this.rig.locked(bo, () => this.rig.ttm.setBulkMove(bo, this.bulk));
    this.live.push(bo);
    this.value.set(bo, 0);
  }

  /** Validates, and says what had to leave for it. */
  validate(bo: Bo, placement: TtmPlacement): void {
    const before = bo.resource?.memType ?? -1;
    const victims = this.#evictable().filter((other) => other !== bo && other.resv !== bo.resv);
    const freeable = victims.reduce((sum, other) => sum + other.size, this.rig.vram.available);
    this.rig.evicted.length = 0;
    this.rig.moves.length = 0;
    const err = this.rig.validate(bo, placement) as 0 | Errno;
    const left = this.rig.moves.filter((move) => move.includes(`:${PL_VRAM}>`) && !move.startsWith(`${bo.owner}:`));
    // Those who left are the first victims in order, all of them needed.
    const names = left.map((move) => move.slice(0, move.indexOf(":")));
    expect(names).toEqual(victims.slice(0, names.length).map((other) => other.owner));
    for (const other of victims.slice(0, names.length)) this.#forget(other);
    if (err === E2BIG) expect(bo.size).toBeGreaterThan(BUDGET);
    else if (err !== 0) {
      expect(err).toBe(placement.length === 0 || bo.pinCount > 0 ? -22 : ENOMEM);
      if (placement[0] === VRAM && bo.pinCount === 0) expect(freeable).toBeLessThan(bo.size);
    } else if (placement.length === 0) {
      if (before >= 0) this.value.set(bo, 0);
      expect(bo.resource).toBeNull();
    } else expect(placement.map((place) => place.memType)).toContain(bo.resource!.memType);
    const after = bo.resource?.memType ?? -1;
    if (before === PL_VRAM && after !== PL_VRAM) this.#forget(bo);
    if (before !== PL_VRAM && after === PL_VRAM) this.#arrive(bo);
  }

  evict(bo: Bo): void {
    const err = this.rig.ttm.evict(bo);
    if (bo.pinCount > 0) expect(err).toBe(-22);
    else {
      expect(err).toBe(0);
      this.#forget(bo);
    }
  }

  touch(bo: Bo): void {
    this.rig.ttm.touch(bo);
    if (bo.resource?.memType === PL_VRAM && bo.pinCount === 0) this.#arriveAgain(bo);
  }

  pin(bo: Bo): void {
    if (bo.resource === null) return;
    expect(this.rig.pin(bo)).toBe(0);
    this.#forget(bo);
  }

  unpin(bo: Bo): void {
    if (bo.pinCount === 0) return;
    this.rig.unpin(bo);
    if (bo.pinCount === 0 && bo.resource!.memType === PL_VRAM) this.#arrive(bo);
  }

  write(bo: Bo, value: number): void {
    if (bo.resource === null || (bo.resource.memType !== PL_VRAM && bo.hostPages === null)) return;
    this.rig.fill(bo, value);
    this.value.set(bo, value);
  }

  moveBulk(): void {
    this.bulk.moveToTail();
    for (const [i, list] of this.lru.entries()) {
      this.lru[i] = [...list.filter((bo) => !this.#isBulky(bo)), ...list.filter((bo) => this.#isBulky(bo))];
    }
  }

  free(bo: Bo): void {
    if (bo.pinCount > 0) return;
    this.#forget(bo);
    this.rig.ttm.put(bo);
    this.live.splice(this.live.indexOf(bo), 1);
  }

  check(): void {
    const { vram, tt } = this.rig;
    expect([...vram.evictable()].map((res) => res.bo.owner)).toEqual(this.#evictable(true).map((bo) => bo.owner));
    const resident = this.live.filter((bo) => bo.resource?.memType === PL_VRAM);
    expect(new Set([...vram.resources()].map((res) => res.bo))).toEqual(new Set(resident));
    const blocks = resident.flatMap((bo) => [...bo.resource!.blocks]).sort((a, b) => a.offset - b.offset);
    let end = SZ_64K;
    let sum = 0;
    for (const block of blocks) {
      expect(block.offset).toBeGreaterThanOrEqual(end);
      end = block.offset + block.size;
      sum += block.size;
    }
    expect(vram.usage).toBe(sum);
    expect(vram.usage).toBeLessThanOrEqual(BUDGET);
    expect(tt.usage).toBeLessThanOrEqual(tt.size);
    expect(vram.pinnedBytes).toBe(resident.reduce((pinned, bo) => pinned + (bo.pinCount > 0 ? bo.size : 0), 0));
    for (const bo of this.live) {
      if (bo.resource === null || (bo.resource.memType !== PL_VRAM && bo.hostPages === null)) continue;
      expect(this.rig.contentOf(bo).every((page) => page === this.value.get(bo))).toBe(true);
    }
  }

  #evictable(withRoundPins = false): Bo[] {
    return this.lru.flat().filter((bo) => withRoundPins || bo.roundPins === 0);
  }
  #isBulky(bo: Bo): boolean {
    return bo.bulkMove !== null;
  }
  #arrive(bo: Bo): void {
    const list = this.lru[bo.priority]!;
    const last = this.#isBulky(bo) ? list.findLastIndex((other) => this.#isBulky(other)) : -1;
    list.splice(last >= 0 ? last + 1 : list.length, 0, bo);
  }
  #arriveAgain(bo: Bo): void {
    const list = this.lru[bo.priority]!;
    const isAlone = this.#isBulky(bo) && list.filter((other) => this.#isBulky(other)).length === 1;
    if (isAlone) return;
    this.#forget(bo);
    this.#arrive(bo);
  }
  #forget(bo: Bo): void {
    const list = this.lru[bo.priority]!;
    if (list.includes(bo)) list.splice(list.indexOf(bo), 1);
  }
}

test("under random use the budget holds, victims leave in LRU order, and no page has two owners", () => {
  const step = fc.record({
    what: fc.constantFrom(
      ...([
        "create",
        "create",
        "validate",
        "validate",
        "validate",
        "evict",
        "free",
        "touch",
        "write",
        "write",
      ] as const),
      ...(["pin", "unpin", "unpin", "roundPin", "roundUnpin", "bulk"] as const),
    ),
    pages: fc.integer({ min: 1, max: 300 }),
    pick: fc.nat(),
    priority: fc.nat({ max: 3 }),
    inBulk: fc.boolean(),
    placement: fc.constantFrom(...PLACEMENTS),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100, size: "max" }), (steps) => {
      const model = new Model();
      steps.forEach((s, i) => {
        const bo = model.live[s.pick % Math.max(1, model.live.length)];
        if (s.what === "create") model.create(s.pages, s.priority, s.inBulk);
        else if (s.what === "bulk") model.moveBulk();
        else if (bo === undefined) return;
        else if (s.what === "validate") model.validate(bo, s.placement);
        else if (s.what === "write") model.write(bo, i + 1);
        else if (s.what === "roundPin") bo.roundPin();
        else if (s.what === "roundUnpin") {
          if (bo.roundPins > 0) bo.roundUnpin();
        } else model[s.what](bo);
        model.check();
      });
    }),
    { numRuns: 60 },
  );
});
