import { COUNTERS } from "./protocol.ts";
import type { DeviceSize } from "./protocol.ts";

/** What the frames are made from: one running machine, seen as packed numbers. */
export interface MachineView {
  readonly events: { readonly next: number; since(from: number, limit?: number): Float64Array };
  /** Totals since the machine began, in the order of COUNTERS, into `out`. */
  counters(out: Float64Array): void;
  /** VMA_STRIDE numbers per VMA. */
  vmas(): Float64Array;
  /** RANGE_STRIDE numbers per range. */
  ranges(): Float64Array;
  /** BLOCK_STRIDE numbers per allocated run of VRAM pages, ascending. */
  blocks(): Float64Array;
  devices(): readonly DeviceSize[];
  /** Of all devices. */
  readonly vramPages: number;
  /** Its device is gone. */
  readonly isLost: boolean;
  /** Class of every VRAM page into `out`, device behind device. */
  vram(out: Uint8Array): void;
}

/** The machine as it is now, for looking at when it is gone. */
export class FrozenView implements MachineView {
  readonly events: MachineView["events"];
  readonly vramPages: number;
  readonly isLost = false;
  readonly #counters = new Float64Array(COUNTERS.length);
  readonly #vmas: Float64Array;
  readonly #ranges: Float64Array;
  readonly #blocks: Float64Array;
  readonly #devices: readonly DeviceSize[];
  readonly #vram: Uint8Array;

  constructor(view: MachineView) {
    const { events } = view;
    const next = events.next;
    this.events = {
      next,
      since: (from, limit = next) => events.since(from, Math.max(0, Math.min(limit, next - from))),
    };
    this.vramPages = view.vramPages;
    this.#vmas = view.vmas();
    this.#ranges = view.ranges();
    this.#blocks = view.blocks();
    this.#devices = view.devices();
    this.#vram = new Uint8Array(view.vramPages);
    view.vram(this.#vram);
    view.counters(this.#counters);
  }

  counters(out: Float64Array): void {
    out.set(this.#counters);
  }
  vmas(): Float64Array {
    return this.#vmas.slice();
  }
  ranges(): Float64Array {
    return this.#ranges.slice();
  }
  blocks(): Float64Array {
    return this.#blocks.slice();
  }
  devices(): readonly DeviceSize[] {
    return this.#devices;
  }
  vram(out: Uint8Array): void {
    out.set(this.#vram);
  }
}
