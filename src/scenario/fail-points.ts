import { KernelError } from "../base/errors.ts";
import { FAIL_SITES, type FailSite, type PhysMemory } from "../mm/phys-mem.ts";

/** An armed failure: `fired` once it has happened. */
export interface Failure {
  readonly fired: boolean;
  cancel(): void;
}

interface Armed {
  readonly site: FailSite;
  /** Only calls for so many bytes count; null: all. */
  readonly size: number | null;
  left: number;
  fired: boolean;
}

/** Fallible steps that a scenario makes fail, each once. */
export class FailPoints {
  readonly #phys: PhysMemory;
  readonly #armed = new Set<Armed>();

  constructor(phys: PhysMemory) {
    this.#phys = phys;
  }

  sites(): string[] {
    return [...FAIL_SITES];
  }

  /** The `n`-th next call at `site` fails once. Throws KernelError EINVAL for a site that there is none of. */
  arm(site: string, n: number, size: number | null): Failure {
    const known = FAIL_SITES.find((s) => s === site);
    if (known === undefined) {
      throw new KernelError("EINVAL", `fail: ${JSON.stringify(site)} is none of ${FAIL_SITES.join(", ")}`);
    }
    if (!Number.isSafeInteger(n) || n < 1) throw new KernelError("EINVAL", `fail: 1 or more is wanted, not ${n}`);
    const armed: Armed = { site: known, size, left: n, fired: false };
    this.#armed.add(armed);
    this.#phys.failpoint = (at, bytes) => this.#fails(at, bytes);
    return {
      get fired() {
        return armed.fired;
      },
      cancel: () => this.#disarm(armed),
    };
  }

  #fails(site: FailSite, bytes: number): boolean {
    let fails = false;
    for (const armed of this.#armed) {
      if (armed.site !== site || (armed.size !== null && armed.size !== bytes)) continue;
      armed.left -= 1;
      if (armed.left > 0) continue;
      armed.fired = true;
      fails = true;
      this.#disarm(armed);
    }
    return fails;
  }

  #disarm(armed: Armed): void {
    this.#armed.delete(armed);
    if (this.#armed.size === 0) this.#phys.failpoint = null;
  }
}
