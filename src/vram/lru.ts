import { assert } from "../base/assert.ts";

/** Priorities of buffers; lower ones are evicted first. @kernel TTM_MAX_BO_PRIORITY */
export const LRU_PRIORITIES = 4;

/** A place in a ring: a member, the head of a list, or the mark of a walk. */
export class LruLink {
  prev: LruLink = this;
  next: LruLink = this;
  /** The bulk that it moves with, while it is in one. */
  bulk: LruBulkMove | null = null;
  readonly isMember: boolean;

  constructor(isMember: boolean) {
    this.isMember = isMember;
  }
}

/** A walk's mark in a list: it stands behind the member that was visited last. @kernel ttm_resource_cursor.hitch */
class Hitch extends LruLink {
  /** Bulk of the member before it. A mark within a bulk must not travel with it. */
  near: LruBulkMove | null = null;

  constructor() {
    super(false);
  }
}

/**
 * One list of resources, least recently used first: a ring through the members themselves, so that every operation but a
 * walk takes constant time. Walks survive any change of the list.
 *
 * Locking. None is needed: nothing here waits, so each function is atomic. @kernel ttm_device.lru_lock
 */
export class LruList<T extends LruLink> {
  readonly #head = new LruLink(false);
  readonly #hitches: Hitch[] = [];

  get isEmpty(): boolean {
    return this.#head.next === this.#head;
  }

  /** A link that is on no list, to the tail. */
  add(link: T): void {
    assert(link.next === link, "on an LRU list twice");
    insertAfter(link, this.#head.prev);
  }

  moveToTail(link: T): void {
    unlink(link);
    insertAfter(link, this.#head.prev);
  }

  /** The least recently used; null: the list is empty. */
  get first(): T | null {
    return this.after(this.#head);
  }

  /** The member behind `link`; for loops in which nothing changes. */
  after(link: LruLink): T | null {
    let at = link.next;
    while (!at.isMember && at !== this.#head) at = at.next;
    return at === this.#head ? null : (at as T);
  }

  /** Members from the head. What comes to the tail meanwhile is met too. */
  *walk(): Generator<T> {
    if (this.isEmpty) return;
    const hitch = new Hitch();
    this.#hitches.push(hitch);
    insertAfter(hitch, this.#head);
    try {
      for (let link = hitch.next; link !== this.#head; link = hitch.next) {
        unlink(hitch);
        insertAfter(hitch, link);
        if (!link.isMember) continue;
        hitch.near = link.bulk;
        yield link as T;
      }
    } finally {
      unlink(hitch);
      this.#hitches.splice(this.#hitches.indexOf(hitch), 1);
    }
  }

  /** The links from `first` to `last`, all of `bulk`, to the tail in their order. @kernel list_bulk_move_tail */
  moveRangeToTail(first: T, last: T, bulk: LruBulkMove): void {
    for (const hitch of this.#hitches) {
      if (hitch.near !== bulk) continue;
      unlink(hitch);
      insertAfter(hitch, first.prev);
    }
    const { prev } = first;
    const { next } = last;
    prev.next = next;
    next.prev = prev;
    const tail = this.#head.prev;
    tail.next = first;
    first.prev = tail;
    last.next = this.#head;
    this.#head.prev = last;
  }
}

/** Off whatever list it is on. */
export function removeFromLru(link: LruLink): void {
  assert(link.next !== link, "on no LRU list");
  unlink(link);
}

interface Range {
  first: LruLink;
  last: LruLink;
}

/**
 * Resources that are used together, those of one address space: they stand side by side in each list, so that one splice
 * per list makes all of them the most recently used. Their buffers share a reservation. @kernel ttm_lru_bulk_move
 */
export class LruBulkMove {
  /** First and last per list, that is per type and priority. @kernel ttm_lru_bulk_move_pos */
  readonly #ranges = new Map<LruList<LruLink>, Range>();

  /** A member of `list` joins at the end of the others. @kernel ttm_lru_bulk_move_add */
  add(list: LruList<LruLink>, link: LruLink): void {
    link.bulk = this;
    const range = this.#ranges.get(list);
    if (range === undefined) this.#ranges.set(list, { first: link, last: link });
    else this.#moveBehind(range, link);
  }

  /** A member becomes the most recently used of the bulk. @kernel ttm_lru_bulk_move_pos_tail */
  touch(list: LruList<LruLink>, link: LruLink): void {
    const range = this.#rangeOf(list);
    if (range.last === link) return;
    if (range.first === link) range.first = memberAfter(link);
    this.#moveBehind(range, link);
  }

  /** A member leaves; it stays in its list, behind the others. @kernel ttm_lru_bulk_move_del */
  remove(list: LruList<LruLink>, link: LruLink): void {
    assert(link.bulk === this, "a resource leaves a bulk that it is not in");
    link.bulk = null;
    const range = this.#rangeOf(list);
    if (range.first === range.last) this.#ranges.delete(list);
    else if (range.first === link) range.first = memberAfter(link);
    else if (range.last === link) range.last = memberBefore(link);
    else {
      unlink(link);
      insertAfter(link, range.last);
    }
  }

  /** All of them become the most recently used, in constant time. @kernel ttm_lru_bulk_move_tail */
  moveToTail(): void {
    for (const [list, { first, last }] of this.#ranges) list.moveRangeToTail(first, last, this);
  }

  #moveBehind(range: Range, link: LruLink): void {
    unlink(link);
    insertAfter(link, range.last);
    range.last = link;
  }

  #rangeOf(list: LruList<LruLink>): Range {
    const range = this.#ranges.get(list);
    assert(range !== undefined, "a bulk has nothing in this list");
    return range;
  }
}

function memberAfter(link: LruLink): LruLink {
  let at = link.next;
  while (!at.isMember) at = at.next;
  return at;
}

function memberBefore(link: LruLink): LruLink {
  let at = link.prev;
  while (!at.isMember) at = at.prev;
  return at;
}

function insertAfter(link: LruLink, at: LruLink): void {
  link.prev = at;
  link.next = at.next;
  at.next.prev = link;
  at.next = link;
}

function unlink(link: LruLink): void {
  link.prev.next = link.next;
  link.next.prev = link.prev;
  link.prev = link;
  link.next = link;
}
