import { PAGE_SIZE, SZ_1G, SZ_2M, alignUp } from "../base/addr.ts";
import type { Pa, Va } from "../base/addr.ts";
import { isErr } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_DM, PTE_W } from "../abi/pte.ts";
import { TILE_STRIDE } from "../abi/tiles.ts";
import { ASID_VALID } from "../hal/gpu.ts";
import { PageRuns } from "./page-table-runs.ts";
import { GpuPageTables } from "./page-tables.ts";
import type { VramRegion } from "./vram-region.ts";

/** The address space of the driver's own jobs. */
export const KERNEL_ASID = 1;
/** Where it shows VRAM. */
const VRAM_AT = 256 * SZ_1G;

/**
 * The kernel's address space (spec/device.md 4.6): all of VRAM at a fixed place, in leaves of 1 GiB, writable and never
 * invalidated. Copy jobs in their VA form reach physical memory through it as ordinary kernels would. The last leaf may stick
 * out of the memory; what it translates to there does not exist. It holds two pages of the aperture. Each tile has one, which
 * shows its own memory.
 * @kernel xe_migrate.vm, xe_migrate_prepare_vm
 */
export class KernelVm {
  readonly #tables: GpuPageTables;

  private constructor(tables: GpuPageTables) {
    this.#tables = tables;
  }

  /** -ENOMEM: no room for its tables. */
  static create(region: VramRegion, tile = 0): KernelVm | Errno {
    const { gpu } = region;
    const source = { alloc: () => region.allocTable(), free: (pa: Pa) => region.freeTable(pa) };
    const tables = GpuPageTables.create(gpu, source, [PAGE_SIZE, SZ_2M, SZ_1G]);
    if (isErr(tables)) return tables;
    const runs = new PageRuns();
    runs.push(alignUp(gpu.info.tileBytes[tile]!, SZ_1G) / PAGE_SIZE, region.base, PTE_W | PTE_DM);
    const mapped = tables.mapRuns(VRAM_AT, runs);
    if (mapped !== 0) {
      tables.destroy();
      return mapped;
    }
    gpu.asidSet(KERNEL_ASID, tables.root, ASID_VALID, tile);
    return new KernelVm(tables);
  }

  /** The address of VRAM's byte at `pa`. @kernel xe_migrate_vram_ofs */
  static vaOf(pa: Pa): Va {
    return VRAM_AT + (pa % TILE_STRIDE);
  }

  /** Bytes of VRAM that its tables hold. */
  get tableBytes(): number {
    return this.#tables.bytes;
  }
}
