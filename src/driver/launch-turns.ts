import { currentActivity } from "../base/lock-order.ts";
import { WaitQueue } from "../base/locks.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { SvmDevice } from "./device.ts";

/**
 * Who goes first when launches find no room because of each other.
 *
 * Pins keep what a launch's next round needs (round-pins.ts). So launches that fit alone may together fill VRAM, the system
 * window or the page-table aperture, and then none of them gets the next page. A launch that finds no room is *short*. It
 * waits until another one has let something go, and tries again, until there is room, or until it has failed while nobody
 * else held anything: then what it wants does not fit.
 *
 *     A, older    serve ---- round ---- short  ..waits..  serve ---- round ----
 *     B, younger  serve ------------- round | lets go, waits ......| serve ---- round
 *
 * Order. Launches are served in the order in which they began. While one is short, younger ones let go what they hold as soon
 * as their round has run, and serve nothing until it has found room; older ones go on. So the oldest launch that is short waits
 * for nobody who waits, the oldest of all waits for nobody in the end, and since launches end, each one's turn comes. Where
 * nobody is short nobody waits.
 *
 * A launch without fault mode (bind-exec.ts) has its turn before it runs: it gets all that it needs, or lets go what it has
 * got of it and is short. From then on it holds that until its end, and never waits; nor does a prefetch.
 *
 * Locking. None may be held by who waits: the others need them to get on.
 */
export class LaunchTurns {
  /** From the oldest to the youngest. */
  readonly #launches = new Set<LaunchTurn>();
  readonly #waiting = new WaitQueue();
  #changes = 0;

  /** Of all devices that reach each other's memory, for there the launches of one may pin what those of another want. */
  static of(device: SvmDevice): LaunchTurns {
    const owner = device.region.pgmap.owner as object;
    let turns = byOwner.get(owner);
    if (turns === undefined) {
      turns = new LaunchTurns();
      byOwner.set(owner, turns);
    }
    return turns;
  }

  /** A launch begins. `holdsAlways`: it may have what others want until its end, and never waits. */
  join(pins: TurnPins, holdsAlways: boolean): LaunchTurn {
    const turn = new LaunchTurn(this, pins, holdsAlways);
    this.#launches.add(turn);
    return turn;
  }

  // For the turns.

  /** Times that anybody has let something go. */
  get changes(): number {
    return this.#changes;
  }

  leave(turn: LaunchTurn): void {
    this.#launches.delete(turn);
    this.changed();
  }

  changed(): void {
    this.#changes += 1;
    this.#waiting.wakeAll();
  }

  /** Others must look again. */
  wake(): void {
    this.#waiting.wakeAll();
  }

  sleep(): Promise<void> {
    // It is waited for as an outermost lock is: with nothing held.
    currentActivity()?.waitingFor(THE_TURN);
    return this.#waiting.sleep();
  }

  isOlderShort(turn: LaunchTurn): boolean {
    for (const other of this.#launches) {
      if (other === turn) return false;
      if (other.isShort) return true;
    }
    return false;
  }

  doOthersHold(turn: LaunchTurn): boolean {
    for (const other of this.#launches) if (other !== turn && other.holds) return true;
    return false;
  }
}

const byOwner = new WeakMap<object, LaunchTurns>();

/** For the lock order. */
const THE_TURN = { name: "launch turn", lockClass: "device", order: null } as const;

/** What a launch has pinned. */
export interface TurnPins {
  readonly isEmpty: boolean;
  /** How often something has been let go. */
  readonly released: number;
  /** Lets go all of it. */
  clear(): void;
}

/**
 * The turn of one launch: `begin`, service, then `waitForRoom` or `served`, or `keepAll`; `letGo` when a round has run; `end`.
 */
export class LaunchTurn {
  readonly #turns: LaunchTurns;
  readonly #pins: TurnPins;
  #holdsAlways: boolean;
  #isServing = false;
  #isShort = false;
  /** `LaunchTurns.changes` when its service began. */
  #seen = 0;
  /** `TurnPins.released` when it last told the others. */
  #told = 0;

  constructor(turns: LaunchTurns, pins: TurnPins, holdsAlways: boolean) {
    this.#turns = turns;
    this.#pins = pins;
    this.#holdsAlways = holdsAlways;
  }

  /** It has found no room, and has not been served since. */
  get isShort(): boolean {
    return this.#isShort;
  }
  /** It may have memory that others cannot have. */
  get holds(): boolean {
    return this.#holdsAlways || this.#isServing || !this.#pins.isEmpty;
  }

  /** Before it is served. Older launches that are short come first. */
  begin(): MaybePromise<void> {
    return this.#mustWait ? this.#beginLater() : this.#beginNow();
  }

  async #beginLater(): Promise<void> {
    while (this.#mustWait) await this.#giveWay();
    this.#beginNow();
  }

  #beginNow(): void {
    this.#isServing = true;
    this.#seen = this.#turns.changes;
  }

  get #mustWait(): boolean {
    return !this.#holdsAlways && this.#turns.isOlderShort(this);
  }

  #giveWay(): Promise<void> {
    this.#pins.clear();
    this.letGo();
    return this.#turns.sleep();
  }

  /** It has been served, or has given up. */
  served(): void {
    this.#isServing = false;
    this.#isShort = false;
    this.#turns.wake();
  }

  /** It has been served with all that it needs until its end, and waits for nobody from now on. */
  keepAll(): void {
    this.#holdsAlways = true;
    this.served();
  }

  /** It holds nothing any more, and may wait. */
  keepNothing(): void {
    this.#holdsAlways = false;
  }

  /**
   * It was served and found no room. True: others have let something go since, so it may try again. False: nobody else has
   * held anything all the while.
   */
  async waitForRoom(): Promise<boolean> {
    const turns = this.#turns;
    this.#isServing = false;
    const isNews = turns.changes !== this.#seen;
    if (this.#holdsAlways || (!isNews && !turns.doOthersHold(this))) return false;
    this.#isShort = true;
    // What it has let go itself is news to the others alone.
    this.letGo();
    if (!isNews) this.#seen = turns.changes;
    // Who is younger and waits itself lets go.
    turns.wake();
    for (;;) {
      if (turns.isOlderShort(this)) await this.#giveWay();
      else if (turns.changes === this.#seen && turns.doOthersHold(this)) await turns.sleep();
      else return true;
    }
  }

  /** Others may have what it has let go since it last said so. */
  letGo(): void {
    if (this.#pins.released === this.#told) return;
    this.#told = this.#pins.released;
    this.#turns.changed();
  }

  /** The launch is over, and its pins are gone. */
  end(): void {
    this.#isShort = false;
    this.#isServing = false;
    this.#turns.leave(this);
  }
}
