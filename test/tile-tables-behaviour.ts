import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { PAGE_SIZE, SZ_1G, SZ_2M, SZ_64K } from "../src/base/addr.ts";
import { ENOMEM, isErr } from "../src/base/errno.ts";
import { PTE_AE, PTE_DM, PTE_W } from "../src/abi/pte.ts";
import { tileBase, tileOf } from "../src/abi/tiles.ts";
import { PageRuns } from "../src/driver/page-table-runs.ts";
import { TilePageTables } from "../src/driver/page-table-tiles.ts";
import type { TileBits } from "../src/driver/page-table-tiles.ts";
import type { PageTableOptions } from "../src/driver/page-tables.ts";
import { DmaResv } from "../src/gpuvm/dma-resv.ts";
import { AP_HOST, AP_VRAM, ASID_FAULT_MODE, ASID_SCRATCH, ASID_VALID, PageList } from "../src/hal/gpu.ts";
import type { Gpu } from "../src/hal/gpu.ts";
import { HostManager } from "../src/vram/host-manager.ts";
import { PL_SYSTEM, PL_VRAM } from "../src/vram/place.ts";
import { PtAperture } from "../src/vram/pt-aperture.ts";
import type { TtmResource } from "../src/vram/resource.ts";
import { TtmBo } from "../src/vram/ttm-bo.ts";
import { TtmDevice } from "../src/vram/ttm-device.ts";
import { VramManager } from "../src/vram/vram-manager.ts";
import { requestWords } from "./gpu/support.ts";
import { TILE_BYTES } from "./tile-behaviour.ts";

/** An address space over three tiles, and memory of each from its own manager, as the driver has them; on any engine. */
const ASID = 200;
const VA = 0x7f00_0040_0000;
const RW = PTE_W | PTE_AE | PTE_DM;
const SIZES = [PAGE_SIZE, SZ_64K, SZ_2M, SZ_1G];
const TILES = [0, 1, 2];

export function tileTablesBehaviour(boot: () => Promise<{ gpu: Gpu; host: Uint8Array }>): void {
  let gpu: Gpu;
  let host: Uint32Array;
  let apertures: PtAperture[];
  let tables: TilePageTables;
  /** Pages that tile 1's aperture still gives. */
  let left = Infinity;

  beforeAll(async () => {
    const made = await boot();
    gpu = made.gpu;
    host = new Uint32Array(made.host.buffer);
  });
  afterAll(() => gpu.destroy());
  beforeEach(() => {
    left = Infinity;
    tables = open();
  });

  function open(options: PageTableOptions = {}): TilePageTables {
    apertures = TILES.map((tile) => new PtAperture(gpu.info.ptBytes, tileBase(tile)));
    const allocators = apertures.map((aperture, tile) => ({
      alloc: () => (tile === 1 && left-- <= 0 ? ENOMEM : aperture.alloc()),
      free: (pa: number) => aperture.free(pa),
    }));
    const made = TilePageTables.create(gpu, allocators, SIZES, options);
    if (isErr(made)) throw new Error("no tables");
    const mode = options.scratch === true ? ASID_SCRATCH : ASID_FAULT_MODE;
    for (const tile of TILES) {
      gpu.asidSet(ASID, made.root(tile), ASID_VALID | mode, tile);
      gpu.tlbInvalidateAsid(ASID, tile);
    }
    return made;
  }

  const bitsOf = (tileMask: number): TileBits => ({ tileMask, tilePresent: 0, tileInvalidated: 0 });

  function runsTo(pa: number, pages: number): PageRuns {
    const runs = new PageRuns();
    runs.push(pages, pa, RW);
    return runs;
  }

  /** The PA of an address on each tile, -1 where it faults. */
  async function paOn(va: number): Promise<number[]> {
    return Promise.all(
      TILES.map(async (tile) => {
        const out = await gpu.translate(requestWords([{ asid: ASID, va, access: 1, flags: 1 << 5 }]), tile);
        return out[0] === 3 ? -1 : out[2]! * 2 ** 32 + out[1]!;
      }),
    );
  }

  function flush(): number[] {
    const flushed: number[] = [];
    tables.flush((start, end, tile) => {
      flushed.push(tile);
      gpu.tlbInvalidate(ASID, start, end - 1, tile);
    });
    return flushed;
  }

  test("every tile has its root in its own aperture, and nothing is mapped", async () => {
    expect(TILES.map((tile) => tileOf(tables.root(tile)))).toEqual(TILES);
    expect(new Set(TILES.map((tile) => tables.root(tile) % 2 ** 36)).size).toBe(1);
    expect(await paOn(VA)).toEqual([-1, -1, -1]);
    expect(tables.bytes).toBe(3 * PAGE_SIZE);
  });

  test.each([1, 2, 4, 5, 7])("a bind goes to the tiles of mask %i, and says so", async (mask) => {
    const bits = bitsOf(mask);
    const pa = tileBase(2) + 3 * SZ_2M - PAGE_SIZE;
    expect(tables.bind(bits, VA, runsTo(pa, 1))).toBe(0);
    expect(bits).toEqual({ tileMask: mask, tilePresent: mask, tileInvalidated: 0 });
    const expected = TILES.map((tile) => ((mask & (1 << tile)) !== 0 ? pa + 4 : -1));
    expect(await paOn(VA + 4)).toEqual(expected);
    expect(TILES.map((tile) => tables.lookup(VA, tile).kind === "leaf")).toEqual(expected.map((at) => at >= 0));
    // What was absent before needs no flush.
    expect(flush()).toEqual([]);
  });

  test.each([0, 1, 2])("a tile with room for %i more tables: nothing changes on any", async (room) => {
    const bits = bitsOf(7);
    left = room;
    expect(tables.bind(bits, VA, runsTo(SZ_2M, 3))).toBe(ENOMEM);
    expect(bits).toEqual(bitsOf(7));
    expect(await paOn(VA)).toEqual([-1, -1, -1]);
    expect(apertures.map((aperture) => aperture.usage)).toEqual([PAGE_SIZE, PAGE_SIZE, PAGE_SIZE]);
    expect(tables.bytes).toBe(3 * PAGE_SIZE);
    left = Infinity;
    expect(tables.bind(bits, VA, runsTo(SZ_2M, 3))).toBe(0);
    expect(await paOn(VA + PAGE_SIZE)).toEqual([SZ_2M + PAGE_SIZE, SZ_2M + PAGE_SIZE, SZ_2M + PAGE_SIZE]);
  });

  test("a zap takes it from the tiles where it stands and is valid, and only they forget it", async () => {
    const bits = bitsOf(5);
    tables.bind(bits, VA, runsTo(SZ_2M, 2));
    await paOn(VA);
    expect(tables.zap(bits, VA, VA + 2 * PAGE_SIZE, 2)).toBe(5);
    expect(bits).toMatchObject({ tilePresent: 5, tileInvalidated: 5 });
    // In the TLBs it still stands, until they are flushed.
    expect(await paOn(VA)).toEqual([SZ_2M, -1, SZ_2M]);
    expect(flush()).toEqual([0, 2]);
    expect(await paOn(VA)).toEqual([-1, -1, -1]);
    expect(tables.zap(bits, VA, VA + 2 * PAGE_SIZE, 2)).toBe(0);
    expect(flush()).toEqual([]);
    // Bound again: valid again.
    expect(tables.bind(bits, VA, runsTo(SZ_2M + PAGE_SIZE, 2))).toBe(0);
    expect(bits).toMatchObject({ tilePresent: 5, tileInvalidated: 0 });
    expect(await paOn(VA)).toEqual([SZ_2M + PAGE_SIZE, -1, SZ_2M + PAGE_SIZE]);
  });

  test("an unbind takes it from where it stands, tables and all", async () => {
    const [one, all] = [bitsOf(2), bitsOf(7)];
    tables.bind(one, VA, runsTo(tileBase(1) + SZ_2M, 1));
    tables.bind(all, VA + SZ_1G, runsTo(SZ_2M, 1));
    await paOn(VA);
    expect(tables.unbind(one, VA, VA + PAGE_SIZE)).toBe(2);
    expect(one).toEqual(bitsOf(2));
    expect(flush()).toEqual([1]);
    expect(await paOn(VA)).toEqual([-1, -1, -1]);
    expect(tables.unbind(all, VA + SZ_1G, VA + SZ_1G + PAGE_SIZE)).toBe(7);
    flush();
    expect(apertures.map((aperture) => aperture.usage)).toEqual([PAGE_SIZE, PAGE_SIZE, PAGE_SIZE]);
    expect(tables.unbind(all, VA + SZ_1G, VA + SZ_1G + PAGE_SIZE)).toBe(0);
  });

  test("a split is made on all tiles or on none", async () => {
    tables.bind(bitsOf(7), VA, runsTo(SZ_2M, 512));
    left = 0;
    expect(tables.split(VA + PAGE_SIZE, VA + SZ_2M)).toBe(ENOMEM);
    for (const tile of TILES) expect(tables.lookup(VA, tile)).toMatchObject({ size: SZ_2M });
    expect(tables.split(VA + PAGE_SIZE, VA + SZ_2M, 5)).toBe(0);
    left = Infinity;
    expect(tables.split(VA + PAGE_SIZE, VA + SZ_2M)).toBe(0);
    for (const tile of TILES) expect(tables.lookup(VA, tile)).toMatchObject({ size: PAGE_SIZE });
    flush();
    expect(await paOn(VA + PAGE_SIZE)).toEqual([SZ_2M + PAGE_SIZE, SZ_2M + PAGE_SIZE, SZ_2M + PAGE_SIZE]);
  });

  test("scratch is each tile's own", async () => {
    tables = open({ scratch: true });
    expect(await paOn(VA)).toEqual([0, 0, 0]);
    tables.bind(bitsOf(2), VA, runsTo(tileBase(2) + SZ_2M, 1));
    expect(flush()).toEqual([1]);
    expect(await paOn(VA)).toEqual([0, tileBase(2) + SZ_2M, 0]);
    for (const tile of TILES) gpu.asidSet(ASID, 0, 0, tile);
    tables.destroy();
    expect(apertures.map((aperture) => aperture.usage)).toEqual([0, 0, 0]);
  });

  test("no page for one tile's root: no address space, and nothing is kept", () => {
    const fresh = TILES.map((tile) => new PtAperture(gpu.info.ptBytes, tileBase(tile)));
    const allocators = fresh.map((aperture, tile) => ({
      alloc: () => (tile === 2 ? ENOMEM : aperture.alloc()),
      free: (pa: number) => aperture.free(pa),
    }));
    expect(TilePageTables.create(gpu, allocators, SIZES)).toBe(ENOMEM);
    expect(fresh.map((aperture) => aperture.usage)).toEqual([0, 0, 0]);
  });

  describe("memory of each tile", () => {
    type Bo = TtmBo<number>;
    let managers: VramManager<number>[];
    let ttm: TtmDevice<number>;

    const pagesOf = ({ memType, blocks }: TtmResource<number>): number[] =>
      blocks.flatMap((b) => {
        const first = (managers[memType - PL_VRAM]!.base + b.offset) / PAGE_SIZE;
        return Array.from({ length: b.size / PAGE_SIZE }, (_, i) => first + i);
      });

    beforeEach(() => {
      managers = TILE_BYTES.map(
        (vramBytes, tile) =>
          new VramManager({ vramBytes, ptBytes: gpu.info.ptBytes, memType: PL_VRAM + tile, base: tileBase(tile) }),
      );
      ttm = new TtmDevice<number>(
        {
          // From a tile to the next.
          evictFlags: (bo) => [{ memType: bo.resource!.memType + 1 }, { memType: PL_SYSTEM }],
          move: (bo, to) => {
            if (bo.resource !== null && to.memType >= PL_VRAM) {
              const list = new PageList();
              const [from, into] = [pagesOf(bo.resource), pagesOf(to)];
              for (let i = 0; i < from.length; i++) list.push(AP_VRAM, from[i]!, AP_VRAM, into[i]!, 1);
              void gpu.copy(list);
            }
            return null;
          },
          clear: () => null,
          newResv: (name) => new DmaResv(name),
        },
        [...managers, new HostManager<number>(PL_SYSTEM, Infinity)],
      );
    });

    async function place(bo: Bo, ...memTypes: number[]): Promise<number> {
      const guard = await bo.resv.lock();
      const ret = await ttm.validate(
        bo,
        memTypes.map((memType) => ({ memType })),
      );
      guard.release();
      return ret;
    }

    function newBo(owner: number, size: number): Bo {
      return new TtmBo(owner, { size, resv: new DmaResv(`${owner}`) });
    }

    test.each(TILES)("a buffer for tile %i lies behind its aperture, and leaves it free again", async (tile) => {
      const bo = newBo(tile, SZ_2M);
      expect(await place(bo, PL_VRAM + tile)).toBe(0);
      expect(managers.map((man) => man.usage)).toEqual(TILES.map((t) => (t === tile ? SZ_2M : 0)));
      const pages = pagesOf(bo.resource!);
      const [first, last] = [Math.min(...pages) * PAGE_SIZE, Math.max(...pages) * PAGE_SIZE];
      expect([tileOf(first), tileOf(last)]).toEqual([tile, tile]);
      expect(first - tileBase(tile)).toBeGreaterThanOrEqual(gpu.info.ptBytes);
      expect(last - tileBase(tile)).toBeLessThan(TILE_BYTES[tile]!);
      ttm.put(bo);
      expect(managers[tile]!.usage).toBe(0);
    });

    test("a full tile evicts to the next; the bytes and who has them mapped follow", async () => {
      // Tile 0 has a heap of 7 MiB: the fourth buffer of 2 MiB drives the first out.
      const buffers = Array.from({ length: 4 }, (_, i) => newBo(i, SZ_2M));
      for (const bo of buffers) {
        expect(await place(bo, PL_VRAM)).toBe(0);
        host.fill(0xa0 + bo.owner, 0, SZ_2M / 4);
        const list = new PageList();
        for (const [i, page] of pagesOf(bo.resource!).entries()) list.push(AP_HOST, i, AP_VRAM, page, 1);
        void gpu.copy(list);
      }
      expect(buffers.map((bo) => bo.resource!.memType - PL_VRAM)).toEqual([1, 0, 0, 0]);
      for (const bo of buffers) {
        const runs = new PageRuns();
        for (const page of pagesOf(bo.resource!)) runs.push(1, page * PAGE_SIZE, RW);
        expect(tables.bind(bitsOf(7), VA + bo.owner * SZ_2M, runs)).toBe(0);
        const at = await paOn(VA + bo.owner * SZ_2M + 0x1234 * 4);
        expect(new Set(at).size).toBe(1);
        expect((await gpu.readVram(at[0]!, 4))[0]).toBe(0xa0 + bo.owner);
      }
    });
  });
}
