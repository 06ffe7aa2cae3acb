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
    this.src.fill(0);
    this.dst.fill(0);
    this.pages.fill(0);
    this.from.fill(0);
    this.addrs.fill(0);
    return this;
  }
}

/** Of one length are kept as many as evictions are under way at once, or so. */
const KEEP = 32;

/**
 * Arrays of migrations that are over, for those to come. A browser takes longer to make and collect 12 KiB of typed arrays than
 * a chunk of 2 MiB that is one folio takes in all.
 */
export class MigrationArrayPool {
  readonly #free = new Map<number, MigrationArrays[]>();

  /** All zero. */
  take(npages: number): MigrationArrays {
    return this.#free.get(npages)?.pop()?.clear() ?? new MigrationArrays(npages);
  }

  /** Nobody looks at them any more. */
  give(arrays: MigrationArrays): void {
    const npages = arrays.src.length;
    const free = this.#free.get(npages);
    if (free === undefined) this.#free.set(npages, [arrays]);
    else if (free.length < KEEP) free.push(arrays);
  }
}
