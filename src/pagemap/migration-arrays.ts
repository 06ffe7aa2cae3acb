import { LengthPool, clearArray } from "../base/length-pool.ts";

/** The arrays of one migration, one slot per page. */
export class MigrationArrays {
  /** Migrate words of the sources, and of the destinations. */
  readonly src: Uint32Array;
  readonly dst: Uint32Array;
  /** Device frames of a copy. */
  readonly pages: Uint32Array;
  /** Frames to copy from. */
  readonly from: Uint32Array;
  /** Addresses of the other end of a copy. */
  readonly addrs: Float64Array;

  constructor(npages: number) {
    this.src = new Uint32Array(npages);
    this.dst = new Uint32Array(npages);
    this.pages = new Uint32Array(npages);
    this.from = new Uint32Array(npages);
    this.addrs = new Float64Array(npages);
  }

  /** All zero again. */
  clear(): this {
    clearArray(this.src);
    clearArray(this.dst);
    clearArray(this.pages);
    clearArray(this.from);
    clearArray(this.addrs);
    return this;
  }
}

/** Arrays of migrations that are over, for those to come. */
export class MigrationArrayPool {
  readonly #over = new LengthPool<MigrationArrays>();

  /** All zero. */
  take(npages: number): MigrationArrays {
    return this.#over.take(npages)?.clear() ?? new MigrationArrays(npages);
  }

  /** Nobody looks at them any more. */
  give(arrays: MigrationArrays): void {
    this.#over.give(arrays.src.length, arrays);
  }
}
