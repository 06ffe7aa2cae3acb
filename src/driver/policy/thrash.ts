import type { Va } from "../../base/addr.ts";
import type { ThrashName, ThrashPolicy, ThrashVerdict } from "./policy.ts";

/** Bounces in a row that make a chunk a thrashing one. @kernel uvm_perf_thrashing_threshold */
export const THRASH_THRESHOLD = 3;
/** GPU faults of the address space between two bounces that still follow each other. Stands for uvm_perf_thrashing_lapse_usec. */
export const THRASH_LAPSE = 64;
/** GPU faults for which a chunk stays pinned. Stands for uvm_perf_thrashing_pin. */
export const THRASH_PIN = 256;
/** Times that a pin may run out; then it is for good. @kernel uvm_perf_thrashing_max_resets */
export const THRASH_MAX_RESETS = 4;
/** First time slice, and the longest; each bounce doubles it. Milliseconds. @kernel xe_device.atomic_svm_timeslice_ms */
const FIRST_SLICE_MS = 5;
const LONGEST_SLICE_MS = 80;

const MOVE: ThrashVerdict = { pin: false, timesliceMs: 0 };
const PIN: ThrashVerdict = { pin: true, timesliceMs: 0 };

export function thrashPolicy(name: ThrashName): ThrashPolicy {
  switch (name) {
    case "none":
      return NONE;
    case "timeslice":
      return new TimesliceThrash();
    case "pin":
      return new PinThrash();
  }
}

const NONE: ThrashPolicy = {
  name: "none",
  onGpuFault: () => MOVE,
  onPlacement: () => MOVE,
  onCpuFault: () => undefined,
  released: () => [],
};

/** How often each chunk has bounced lately. The clock is the number of GPU faults. */
class Bounces {
  readonly #byChunk = new Map<Va, { count: number; at: number }>();
  now = 0;

  /** A CPU fault took it home; the number of bounces in a row. */
  add(start: Va): number {
    const known = this.#byChunk.get(start);
    const count = known !== undefined && this.now - known.at <= THRASH_LAPSE ? known.count + 1 : 1;
    this.#byChunk.set(start, { count, at: this.now });
    return count;
  }

  /** 0 when the last one is too long ago. */
  of(start: Va): number {
    const known = this.#byChunk.get(start);
    if (known === undefined) return 0;
    if (this.now - known.at <= THRASH_LAPSE) return known.count;
    this.#byChunk.delete(start);
    return 0;
  }

  forget(start: Va): void {
    this.#byChunk.delete(start);
  }
}

/** A chunk that bounces stays a while on the device before the CPU gets it back, longer each time. */
class TimesliceThrash implements ThrashPolicy {
  readonly name = "timeslice";
  readonly #bounces = new Bounces();

  onGpuFault(start: Va): ThrashVerdict {
    this.#bounces.now += 1;
    return this.onPlacement(start);
  }

  onPlacement(start: Va): ThrashVerdict {
    const count = this.#bounces.of(start);
    if (count === 0) return MOVE;
    return { pin: false, timesliceMs: Math.min(LONGEST_SLICE_MS, FIRST_SLICE_MS * 2 ** (count - 1)) };
  }

  onCpuFault(start: Va): void {
    this.#bounces.add(start);
  }

  released(): Va[] {
    return [];
  }
}

interface Pin {
  /** The clock at which it runs out; Infinity: never. */
  until: number;
  resets: number;
}

/** A chunk that has bounced often stays in RAM, where CPU and device both reach it, for some time. */
class PinThrash implements ThrashPolicy {
  readonly name = "pin";
  readonly #bounces = new Bounces();
  readonly #pins = new Map<Va, Pin>();
  /** The clock before which no pin runs out. */
  #nextRelease = Infinity;

  onGpuFault(start: Va): ThrashVerdict {
    this.#bounces.now += 1;
    const { now } = this.#bounces;
    const pin = this.#pins.get(start);
    if (pin !== undefined && now < pin.until) return PIN;
    if (this.#bounces.of(start) < THRASH_THRESHOLD) return MOVE;
    this.#bounces.forget(start);
    const resets = pin?.resets ?? 0;
    const until = resets >= THRASH_MAX_RESETS ? Infinity : now + THRASH_PIN;
    this.#pins.set(start, { until, resets: resets + 1 });
    this.#nextRelease = Math.min(this.#nextRelease, until);
    return PIN;
  }

  onPlacement(start: Va): ThrashVerdict {
    const pin = this.#pins.get(start);
    return pin !== undefined && this.#bounces.now < pin.until ? PIN : MOVE;
  }

  onCpuFault(start: Va): void {
    this.#bounces.add(start);
  }

  released(): Va[] {
    const { now } = this.#bounces;
    if (now < this.#nextRelease) return [];
    const over: Va[] = [];
    this.#nextRelease = Infinity;
    for (const [start, pin] of this.#pins) {
      if (pin.until <= now && pin.until > 0) {
        over.push(start);
        // The count of resets stays.
        pin.until = 0;
      } else if (pin.until > 0) this.#nextRelease = Math.min(this.#nextRelease, pin.until);
    }
    return over;
  }
}
