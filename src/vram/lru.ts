import { assert } from "../base/assert.ts";

/** Priorities of buffers; lower ones are evicted first. @kernel TTM_MAX_BO_PRIORITY */
export const LRU_PRIORITIES = 4;

/** What the lists need to know of a member. */
export interface LruMember {
  /** 0..3. Not changed while on a list. */
  readonly priority: number;
}

/**
 * Least-recently-used lists, one per priority, and the list of members that may not be evicted (spec/device.md 6.2). A
 * member is on exactly one of them. A Set keeps the order of insertion and survives changes during a walk.
 * @kernel ttm_resource_manager.lru, ttm_device.unevictable
 */
export class Lru<T extends LruMember> {
  readonly #lists: readonly Set<T>[] = Array.from({ length: LRU_PRIORITIES }, () => new Set<T>());
  readonly #unevictable = new Set<T>();

  /** At the tail: the most recently used of its priority. */
  add(member: T): void {
    assert(!this.has(member), "on an LRU list twice");
    this.#listOf(member).add(member);
  }

  /** To the tail of its list; without effect on an unevictable one. @kernel ttm_resource_move_to_lru_tail */
  touch(member: T): void {
    const list = this.#listOf(member);
    if (list.delete(member)) list.add(member);
  }

  remove(member: T): void {
    assert(this.#listOf(member).delete(member) || this.#unevictable.delete(member), "on no LRU list");
  }

  /** Takes it out of reach of eviction. @kernel ttm_resource_move_to_lru_tail for a pinned one */
  makeUnevictable(member: T): void {
    assert(this.#listOf(member).delete(member), "on no LRU list");
    this.#unevictable.add(member);
  }

  /** Back, at the tail. */
  makeEvictable(member: T): void {
    assert(this.#unevictable.delete(member), "not unevictable");
    this.#listOf(member).add(member);
  }

  has(member: T): boolean {
    return this.#listOf(member).has(member) || this.#unevictable.has(member);
  }

  /** Evictable members in the order of eviction: lowest priority, then oldest first. */
  *walk(): Generator<T> {
    for (const list of this.#lists) yield* list;
  }

  /** Every member. */
  *all(): Generator<T> {
    yield* this.walk();
    yield* this.#unevictable;
  }

  #listOf(member: T): Set<T> {
    const list = this.#lists[member.priority];
    assert(list !== undefined, () => `priority ${member.priority}`);
    return list;
  }
}
