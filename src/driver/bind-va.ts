import type { Va } from "../base/addr.ts";
import { BIND_VA_CPU_MIRROR, BIND_VA_READ_ONLY } from "../gpuvm/bind-step.ts";
import { GPUVA_SPARSE, GpuVa } from "../gpuvm/gpuva.ts";
import type { MapPiece } from "../gpuvm/steps.ts";
import { Bo } from "./bo.ts";
import type { Userptr } from "./userptr.ts";
import type { VmBinds } from "./vm-binds.ts";

/**
 * A mapping of a GPU address space, of one of five kinds: a buffer object, memory of the process (userptr), sparse (NULL),
 * reserved without memory, or a mirror of the CPU's addresses, whose entries belong to its SVM ranges.
 *
 * `isBound` and `invalidated` change under what guards the mapping's memory: the reservation of its object, the notifier
 * lock for memory of the process, else the VM's lock.
 * @kernel xe_vma
 */
export class BindVa extends GpuVa {
  /** Its entries have been written; they stand unless it was invalidated since. @kernel xe_vma.tile_present */
  isBound = false;
  /** Tiles that it is bound on, bit t for tile t; the others have nothing there. @kernel xe_vma.tile_mask */
  tileMask: number;
  /** Index of the memory attributes of its entries; of a mirror, of those of ranges without advice about it. @kernel xe_vma.attr.pat_index */
  pat = 0;
  /** For memory of the process, which `offset` is a CPU address of. Shared by the pieces of one mapping. */
  userptr: Userptr | null = null;

  readonly binds: VmBinds;

  constructor(binds: VmBinds, piece: MapPiece<number>) {
    super(piece.addr, piece.range, piece.obj, piece.offset);
    this.binds = binds;
    this.tileMask = binds.vm.tables.allTiles;
  }

  get end(): Va {
    return this.addr + this.range;
  }
  get bo(): Bo | null {
    return this.obj instanceof Bo ? this.obj : null;
  }
  get isMirror(): boolean {
    return (this.flags & BIND_VA_CPU_MIRROR) !== 0;
  }
  get isNull(): boolean {
    return (this.flags & GPUVA_SPARSE) !== 0;
  }
  get isReadOnly(): boolean {
    return (this.flags & BIND_VA_READ_ONLY) !== 0;
  }
  /** The GPU can reach all of it now. */
  get isValid(): boolean {
    return this.isBound && !this.invalidated;
  }
}
