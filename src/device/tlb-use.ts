/**
 * Whether batches look into the TLB before they walk. "auto": as long as that pays. The results are the same either way
 * (spec/device.md 3.1).
 */
export type TlbSetting = "auto" | "on" | "off";

/** Batches below this size say little about how many hit; they always look. */
const BIG_BATCH = 1024;
/** Share of misses from which a look is a loss: it costs about as much as the walk that it saves. */
const MOST_MISSES = 1 / 4;
/** Batches in a row that must miss so much: the first of a new working set always does. */
const BAD_BATCHES = 2;
const FIRST_PAUSE = 8;
const LONGEST_PAUSE = 128;

/**
 * When the batch translator of a tile looks into the TLB.
 *
 * Why. A look touches about as many words as a walk of four levels. On a software adapter batches that hit are as fast as
 * ones that walk or a little faster (0.87 and 0.8 of the raw loads: `npm run bench -- --filter kernels/translate`), and
 * batches that miss pay for both and for the fill (0.3). So what matters is whether they hit, and that is counted:
 * where two batches in a row have missed a quarter, the next eight walk, then two look again, and so on with pauses that
 * double. No clock is read, so a run is the same every time.
 */
export class TlbUse {
  readonly setting: TlbSetting;
  /** Bit c: entries of class c may be in the TLB, as far as the host has heard. What is not looked for is walked. */
  classes = 0;
  #bad = 0;
  #pause = FIRST_PAUSE;
  /** Big batches that still walk. */
  #walking = 0;

  constructor(setting: TlbSetting) {
    this.setting = setting;
  }

  /** Whether a batch that is about to be recorded looks. */
  next(requests: number): boolean {
    if (this.setting !== "auto") return this.setting === "on";
    if (requests < BIG_BATCH || this.#walking === 0) return true;
    this.#walking -= 1;
    return false;
  }

  /** A batch that looked has found all but `misses`. */
  note(requests: number, misses: number): void {
    if (this.setting !== "auto" || requests < BIG_BATCH) return;
    if (misses < requests * MOST_MISSES) {
      this.#bad = 0;
      this.#pause = FIRST_PAUSE;
      return;
    }
    this.#bad += 1;
    if (this.#bad < BAD_BATCHES) return;
    this.#bad = 0;
    this.#walking = this.#pause;
    this.#pause = Math.min(this.#pause * 2, LONGEST_PAUSE);
  }
}
