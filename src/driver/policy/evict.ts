import { Random } from "../../base/random.ts";
import type { EvictName, EvictPolicy, Evictable } from "./policy.ts";

/** `seed`: of the random order. */
export function evictPolicy(name: EvictName, seed: number): EvictPolicy {
  switch (name) {
    case "lru":
      return LRU;
    case "fifo":
      return new Fifo();
    case "random":
      return new RandomOrder(seed);
    case "frequency":
      return new Frequency();
  }
}

/** Least recently used first. @kernel ttm_resource_manager.lru */
const LRU: EvictPolicy = {
  name: "lru",
  isOrderOfUse: true,
  arrived: () => undefined,
  used: () => undefined,
  order: (byUse) => byUse,
};

/** First come, first to go. */
class Fifo implements EvictPolicy {
  readonly name = "fifo";
  readonly isOrderOfUse = false;
  readonly #arrivals = new WeakMap<Evictable, number>();
  #count = 0;

  arrived(buffer: Evictable): void {
    this.#arrivals.set(buffer, this.#count++);
  }
  used(): void {}

  /** One whose arrival nobody has told of was there before all others. */
  order<T extends Evictable>(byUse: readonly T[]): readonly T[] {
    return sortedBy(byUse, (buffer) => this.#arrivals.get(buffer) ?? -1);
  }
}

/** Any, drawn from the seed. */
class RandomOrder implements EvictPolicy {
  readonly name = "random";
  readonly isOrderOfUse = false;
  readonly #random: Random;

  constructor(seed: number) {
    this.#random = new Random(seed);
  }

  arrived(): void {}
  used(): void {}

  order<T extends Evictable>(byUse: readonly T[]): readonly T[] {
    const all = [...byUse];
    for (let i = all.length - 1; i > 0; i--) {
      const k = this.#random.below(i + 1);
      [all[i], all[k]] = [all[k]!, all[i]!];
    }
    return all;
  }
}

/** Entries of the history; when it is full, all counts are halved, and what has come to 0 is forgotten. */
const MAX_HISTORY = 65536;

/**
 * Least often used first, and of those the least recently used. Memory is remembered beyond its stay: what keeps coming
 * back is worth keeping.
 */
class Frequency implements EvictPolicy {
  readonly name = "frequency";
  readonly isOrderOfUse = false;
  readonly #uses = new Map<string, number>();

  arrived(): void {}

  used({ identity }: Evictable): void {
    this.#uses.set(identity, (this.#uses.get(identity) ?? 0) + 1);
    if (this.#uses.size > MAX_HISTORY) this.#age();
  }

  order<T extends Evictable>(byUse: readonly T[]): readonly T[] {
    return sortedBy(byUse, ({ identity }) => this.#uses.get(identity) ?? 0);
  }

  #age(): void {
    for (const [identity, uses] of this.#uses) {
      if (uses < 2) this.#uses.delete(identity);
      else this.#uses.set(identity, Math.floor(uses / 2));
    }
  }
}

/** Stable: equal ones stay in the order of use. */
function sortedBy<T>(list: readonly T[], key: (item: T) => number): T[] {
  return list
    .map((item) => ({ item, key: key(item) }))
    .sort((a, b) => a.key - b.key)
    .map(({ item }) => item);
}
