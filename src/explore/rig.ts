import { PAGE_SIZE } from "../base/addr.ts";
import { type Platform, Scheduler } from "../base/scheduler.ts";
import { TraceRing } from "../base/trace.ts";
import { PeerLinks } from "../driver/peer-links.ts";
import { PhysMemory } from "../mm/phys-mem.ts";
import { type Cards, ExploredDevice, gpusOf } from "./cards.ts";
import { type CopyFailures, NO_FAILURES } from "./program.ts";

/** How much of everything a machine has; page counts, of window and tables for each device or tile. */
export interface RigSize {
  readonly ram: number;
  readonly window: number;
  readonly tables: number;
}

/** As small as the races allow, because checks look at all of it. */
const SMALL: RigSize = { ram: 192, window: 96, tables: 32 };
/** Room for some folios of 2 MiB, with the heap at a border of as much. */
const HUGE: RigSize = { ram: 5 * 512, window: 3 * 512, tables: 512 };
const SWAP_PAGES = 64;

/** What the explorer needs of its host: `tick` calls back when every promise chain has run until it waits. */
export interface Host {
  readonly tick: (f: () => void) => void;
}

/**
 * A machine as small as the races allow: RAM, and one or two devices. It outlives schedules that leave nothing behind,
 * since to make one takes longer than to run one.
 */
export class Rig {
  readonly sched: Scheduler;
  readonly phys: PhysMemory;
  readonly devices: readonly ExploredDevice[];
  /** RAM frames that are free when nothing runs. */
  readonly freeAtRest: number;
  /** Schedules that it has gone through. */
  uses = 0;
  /** One of its devices has been unbound. */
  isSpent = false;
  /** Asked after every scheduling step, when nothing can go on by itself: false stops everything for good. */
  onStep: () => boolean = () => true;
  readonly #host: Host;
  /** Milliseconds outside of races, which have a clock of their own and must not end in the future. */
  #time = 0;
  #failures = NO_FAILURES;
  #copies = { toDevice: 0, toRam: 0 };

  /** `heapBytes`: of VRAM for data, on each device or tile. */
  constructor(heapBytes: number, isHuge: boolean, host: Host, cards: Cards = "one") {
    const size = isHuge ? HUGE : SMALL;
    this.#host = host;
    this.sched = new Scheduler(this.#platform());
    this.phys = new PhysMemory({
      ram: new Uint8Array(size.ram * PAGE_SIZE),
      sched: this.sched,
      poisonFreed: true,
      swapPages: SWAP_PAGES,
    });
    const ptBytes = size.tables * PAGE_SIZE;
    const gpus = gpusOf(cards, { heapBytes, ptBytes, windowBytes: size.window * PAGE_SIZE }, this.phys.ram);
    const { phys, sched } = this;
    const shared = { heapBytes, phys, sched, trace: new TraceRing(16, () => sched.now()), links: new PeerLinks() };
    this.devices = gpus.map((gpu) => new ExploredDevice({ gpu, ...shared }));
    for (const each of this.devices) {
      if (cards === "linked") each.peers.push(...this.devices.filter((other) => other !== each));
      each.watchCopies((direction) => this.#failures[direction].includes(++this.#copies[direction]));
    }
    this.freeAtRest = this.phys.freePages;
  }

  /** Resolves when nothing can go on by itself; see `Host`. */
  turn(): Promise<void> {
    return new Promise<void>((resume) => {
      this.#host.tick(() => {
        this.#time = Math.max(this.#time, this.sched.now());
        if (this.onStep()) resume();
      });
    });
  }

  #platform(): Platform {
    return {
      turn: () => this.turn(),
      now: () => this.#time,
      sleep: (ms) => {
        this.#time += ms;
        return this.turn();
      },
    };
  }

  /** Which copies fail from now on. */
  failCopies(failures: CopyFailures): void {
    this.#failures = failures;
    this.#copies = { toDevice: 0, toRam: 0 };
  }
}
