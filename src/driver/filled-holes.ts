import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import { EINVAL } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { PTE_AE, PTE_NULL, PTE_W } from "../abi/pte.ts";
import type { SvmVm } from "./vm.ts";

/**
 * Scratch in fault mode: where nothing is mapped, the first access to a page maps it to nothing, so that loads read 0 and
 * stores vanish. What is bound there later takes the place of such pages.
 *
 * Without faults the tables are full of scratch from the start (page-table-sink.ts); here every page costs a fault, as a
 * mirror's do. Locking: the VM's lock for write.
 * @kernel DRM_XE_VM_CREATE_FLAG_SCRATCH_PAGE
 */
export class FilledHoles {
  readonly #vm: SvmVm;
  readonly #pages = new Set<Va>();

  constructor(vm: SvmVm) {
    this.#vm = vm;
  }

  /** Serves a fault where nothing is mapped. -EINVAL: it stays an error. -ENOMEM: no room for page tables. */
  fill(page: Va): 0 | Errno {
    const vm = this.#vm;
    if (vm.options.fillHoles !== true) return EINVAL;
    const mapped = vm.tables.map(page, 1, new Float64Array(1), Uint32Array.of(PTE_NULL | PTE_W | PTE_AE));
    if (mapped !== 0) return mapped;
    vm.flushTables();
    this.#pages.add(page);
    return 0;
  }

  /** Something is mapped at `[start, end)` now. The caller flushes the tables. */
  clear(start: Va, end: Va): void {
    for (const page of this.#pages) {
      if (page < start || page >= end) continue;
      this.#vm.tables.unmap(page, page + PAGE_SIZE);
      this.#pages.delete(page);
    }
  }
}
