import { PAGE_SIZE } from "../../base/addr.ts";
import { STAGING_PAGES } from "./copy-staging.ts";
import type { CopyStaging } from "./copy-staging.ts";
import type { Fetch, PageKernel, WayContext } from "./way.ts";

/** A buffer copy per run. */
export class CopyFetch implements Fetch {
  readonly #c: WayContext;

  constructor(context: WayContext) {
    this.#c = context;
  }

  take(bank: number, page: number, pages: number, slot: GPUBuffer, at: number): void {
    const { banks, commands } = this.#c;
    commands.encoder().copyBufferToBuffer(banks[bank]!, page * PAGE_SIZE, slot, at, pages * PAGE_SIZE);
  }

  flush(): void {}
}

/** A kernel packs the pages into the staging buffer, which goes to the slot as a whole. */
export class GatherFetch implements Fetch {
  readonly #c: WayContext;
  readonly #staging: CopyStaging;
  readonly #kernel: PageKernel;
  #gathered = 0;
  #slot: GPUBuffer | null = null;
  #at = 0;

  constructor(context: WayContext, staging: CopyStaging, kernel: PageKernel) {
    this.#c = context;
    this.#staging = staging;
    this.#kernel = kernel;
  }

  take(bank: number, page: number, pages: number, slot: GPUBuffer, at: number): void {
    const kernel = this.#kernel;
    const { downloadBank } = kernel;
    for (let i = 0; i < pages; i++) {
      if (this.#gathered === STAGING_PAGES) this.flush();
      if (this.#gathered === 0) {
        this.#slot = slot;
        this.#at = at + i * PAGE_SIZE;
      }
      kernel.copy(bank, page + i, downloadBank, this.#gathered);
      this.#gathered += 1;
    }
  }

  flush(): void {
    if (this.#gathered === 0) return;
    this.#kernel.flush();
    const bytes = this.#gathered * PAGE_SIZE;
    this.#c.commands.encoder().copyBufferToBuffer(this.#staging.download, 0, this.#slot!, this.#at, bytes);
    this.#gathered = 0;
  }
}
