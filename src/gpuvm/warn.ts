/**
 * The kernel's WARN: something that should not happen was survived. Every occurrence is counted; the first of each site
 * is reported.
 *
 * @kernel WARN, drm_WARN
 */
export class Warnings {
  readonly #counts = new Map<string, number>();
  readonly #report: (message: string) => void;

  constructor(report: (message: string) => void = () => {}) {
    this.#report = report;
  }

  get count(): number {
    let sum = 0;
    for (const n of this.#counts.values()) sum += n;
    return sum;
  }

  /** Occurrences at one site. */
  countOf(site: string): number {
    return this.#counts.get(site) ?? 0;
  }

  raise(site: string, message: string): void {
    const before = this.countOf(site);
    this.#counts.set(site, before + 1);
    if (before === 0) this.#report(`${site}: ${message}`);
  }
}
