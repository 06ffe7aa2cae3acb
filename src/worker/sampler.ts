import { TRACE_STRIDE } from "../base/trace.ts";
import { FrozenView } from "./machine-view.ts";
import type { MachineView } from "./machine-view.ts";
import { COUNTERS, ROUND_STRIDE } from "./protocol.ts";
import type { Frame, RunState } from "./protocol.ts";

/** Events that one frame carries at most; what is older than the ring is lost and shows as a gap in the numbers. */
const EVENTS_PER_FRAME = 20_000;

/** Turns one machine into frames, and remembers what has been sent. */
export class Sampler {
  #view: MachineView | null;
  readonly #now: () => number;
  readonly #began: number;
  #nextEvent = 1;
  #rounds: number[] = [];
  readonly #before = new Float64Array(COUNTERS.length);
  readonly #after = new Float64Array(COUNTERS.length);

  constructor(view: MachineView | null, now: () => number) {
    this.#view = view;
    this.#now = now;
    this.#began = now();
  }

  get isLost(): boolean {
    return this.#view !== null && this.#view.isLost;
  }

  get hasNews(): boolean {
    return this.#view !== null && this.#view.events.next > this.#nextEvent;
  }

  /** Keeps showing the machine as it is now, whatever becomes of it. */
  freeze(): void {
    if (this.#view === null) return;
    this.round();
    this.#view = new FrozenView(this.#view);
  }

  /** Closes a round: the increase of every counter since the last call becomes one record. */
  round(): void {
    if (this.#view === null) return;
    this.#view.counters(this.#after);
    if (!this.#after.some((total, i) => total !== this.#before[i])) return;
    this.#rounds.push(this.#now() - this.#began);
    for (let i = 0; i < COUNTERS.length; i++) this.#rounds.push(this.#after[i]! - this.#before[i]!);
    this.#before.set(this.#after);
  }

  frame(run: RunState, recycled: ArrayBuffer | null): Frame {
    const view = this.#view;
    const rounds = Float64Array.from(this.#rounds.splice(0, 4096 * ROUND_STRIDE));
    const counters = new Float64Array(COUNTERS.length);
    if (view === null) {
      const none = () => new Float64Array(0);
      return {
        run,
        counters,
        rounds,
        events: none(),
        vmas: none(),
        ranges: none(),
        devices: [],
        vram: new Uint8Array(0),
        blocks: none(),
      };
    }
    view.counters(counters);
    const events = view.events.since(this.#nextEvent, EVENTS_PER_FRAME);
    if (events.length > 0) this.#nextEvent = events[events.length - TRACE_STRIDE]! + 1;
    const fits = recycled !== null && recycled.byteLength === view.vramPages;
    const vram = fits ? new Uint8Array(recycled) : new Uint8Array(view.vramPages);
    view.vram(vram);
    const [vmas, ranges, devices, blocks] = [view.vmas(), view.ranges(), view.devices(), view.blocks()];
    return { run, counters, rounds, events, vmas, ranges, devices, vram, blocks };
  }
}
