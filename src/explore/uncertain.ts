/**
 * A value that several activities change at once: what it may be, as far as an onlooker can tell.
 *
 * Overview. A change takes effect at some instant between its beginning and its end; an observation sees the value of
 * some instant between its own. So a change adds its value while it is under way; when it has ended, what is left is its
 * value and those of the changes that overlapped with it. An observation gathers all that the value may have been
 * meanwhile, and what it saw must be among that.
 *
 *     possible     {a}    {a, b}        {a, b, c}        {b, c}
 *     change to b         begin ---------------------- end
 *     change to c                       begin -----------------------
 */
export interface Change<T> {
  readonly value: T;
  /** Of changes that were under way together with this one. */
  readonly overlapped: Set<T>;
}

export class Uncertain<T> {
  #possible: Set<T>;
  readonly #open = new Set<Change<T>>();
  readonly #observers = new Set<Set<T>>();

  constructor(...possible: readonly T[]) {
    this.#possible = new Set(possible);
  }

  begin(value: T): Change<T> {
    const change: Change<T> = { value, overlapped: new Set() };
    for (const other of this.#open) {
      other.overlapped.add(value);
      change.overlapped.add(other.value);
    }
    this.#open.add(change);
    this.#possible.add(value);
    for (const seen of this.#observers) seen.add(value);
    return change;
  }

  /** The change was made. */
  end(change: Change<T>): void {
    this.#open.delete(change);
    this.#possible = new Set(change.overlapped);
    this.#possible.add(change.value);
  }

  /** It may have been made or not. */
  endUnsure(change: Change<T>): void {
    this.#open.delete(change);
  }

  /** What the value may be from now on gathers in the result, until it is given to `unobserve`. */
  observe(): Set<T> {
    const seen = new Set(this.#possible);
    this.#observers.add(seen);
    return seen;
  }

  unobserve(seen: Set<T>): void {
    this.#observers.delete(seen);
  }

  /** Of an instant at which nothing is under way. */
  get possible(): ReadonlySet<T> {
    return this.#possible;
  }
}
