import { currentCause } from "./cause.ts";

/**
 * Events: what happened, where, and because of what.
 *
 * Memory layout. The ring is one `Float64Array` of `TRACE_STRIDE` numbers per event, so that a frame of events crosses
 * to the page as one transferred buffer and recording allocates nothing:
 *
 *     [0] sequence number, from 1     [1] kind (index into EVENT_KINDS)   [2] cause: sequence number, 0 none
 *     [3] time, ms                    [4] subject: VM (ASID) or process   [5] start address
 *     [6] end address, exclusive      [7] detail, by kind (see EVENT_KINDS)
 */
export const TRACE_STRIDE = 8;

/** Name and meaning of the detail number, in order of kind number. Append only: the numbers are recorded. */
export const EVENT_KINDS = [
  ["launch", "items"],
  ["round", "undone items"],
  ["gpu-fault", "access: 0 read, 1 write, 2 atomic"],
  ["notifier-create", ""],
  ["range-create", "flags of the range"],
  ["migrate-decide", "1 to device memory, 0 stay"],
  ["migrate-to-devmem", "pages"],
  ["get-pages", "errno or 0"],
  ["bind", "leaf entries written"],
  ["retry", "errno"],
  ["invalidate", "MMU notifier event"],
  ["evict", "pages"],
  ["migrate-to-ram", "pages"],
  ["cpu-fault", "1 write, 0 read"],
  ["collect", "1 partial unmap"],
  ["tlb-invalidate", "sequence number"],
  ["mmap", ""],
  ["munmap", ""],
  ["launch-end", "rounds"],
  ["fault-error", "errno"],
  ["prefetch", "1 to device memory, 0 to system memory"],
  ["vm-close", ""],
  ["write-back", "pages"],
  ["advise", "atomic access, -1 where the advice is about something else"],
  ["vram", "bytes of VRAM that data holds"],
  ["window-reclaim", "pages"],
  ["mprotect", "0 no access, 1 read, 2 read and write"],
  ["madvise", "1 what was there is discarded, 0 it is kept"],
  ["mremap", "new address, 0 where it stays"],
  ["fork", "number of the child"],
  ["exit", ""],
  ["table-reclaim", "pages"],
  ["stream-pass", "items"],
] as const;
export type EventKind = (typeof EVENT_KINDS)[number][0];

const KIND_NUMBER = new Map<EventKind, number>(EVENT_KINDS.map(([name], i) => [name, i]));

export class TraceRing {
  readonly #words: Float64Array;
  readonly #capacity: number;
  #next = 1;
  #now: () => number;

  /** `capacity` events are kept; older ones are overwritten. */
  constructor(capacity: number, now: () => number) {
    this.#capacity = capacity;
    this.#words = new Float64Array(capacity * TRACE_STRIDE);
    this.#now = now;
  }

  /** Sequence number of the next event; `next - 1` events have been recorded. */
  get next(): number {
    return this.#next;
  }

  /** Its sequence number. The cause is what the running activity goes back to (cause.ts), unless given. */
  record(kind: EventKind, subject: number, start: number, end: number, detail: number, cause = currentCause()): number {
    const seq = this.#next++;
    const at = ((seq - 1) % this.#capacity) * TRACE_STRIDE;
    const w = this.#words;
    w[at] = seq;
    w[at + 1] = KIND_NUMBER.get(kind)!;
    w[at + 2] = cause;
    w[at + 3] = this.#now();
    w[at + 4] = subject;
    w[at + 5] = start;
    w[at + 6] = end;
    w[at + 7] = detail;
    return seq;
  }

  /** Events with sequence number `from` and up that are still kept, copied, at most `limit`. */
  since(from: number, limit = this.#capacity): Float64Array {
    const first = Math.max(from, this.#next - this.#capacity, 1);
    const count = Math.max(0, Math.min(limit, this.#next - first));
    const out = new Float64Array(count * TRACE_STRIDE);
    for (let i = 0; i < count; i++) {
      const at = ((first + i - 1) % this.#capacity) * TRACE_STRIDE;
      out.set(this.#words.subarray(at, at + TRACE_STRIDE), i * TRACE_STRIDE);
    }
    return out;
  }
}
