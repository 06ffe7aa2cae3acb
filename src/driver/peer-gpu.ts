import { DeviceLostError } from "../base/errors.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import { E_CANCELED, reportJobs } from "../hal/copy-job.ts";
import type { JobBatch, JobResult } from "../hal/copy-job.ts";
import type {
  Gpu,
  GpuCounters,
  GpuInfo,
  Kernel,
  KernelLaunch,
  KernelSource,
  LaunchOptions,
  PageList,
  RoundResult,
} from "../hal/gpu.ts";
import type { PeerCard } from "./peer-card.ts";

/** Where on its card a device is. */
export interface PeerPlace {
  readonly tile: number;
  /** Bytes of its VRAM, and of the page-table aperture in it. */
  readonly vramBytes: number;
  readonly ptBytes: number;
  /** Its part of the card's system window: first byte, and bytes. */
  readonly windowBase: number;
  readonly syswBytes: number;
}

interface Loss {
  readonly reason: string;
  readonly message: string;
}

const NO_COUNTERS: GpuCounters = {
  submissions: 0,
  readbacks: 0,
  rounds: 0,
  uploadBytes: 0,
  downloadBytes: 0,
  fillBytes: 0,
  pteWrites: 0,
  tlbInvalidations: 0,
};

/**
 * One tile of a card as a GPU of its own. Physical addresses and pages of the window are the card's, so that what one
 * device says of its memory is good for its peers.
 *
 * It can go alone: what is asked of it then is refused, as of any lost device, while its peers go on. The hardware, its
 * counters and what the adapter says are shared; asking for those, or for any work, ends the time in which devices can join.
 */
export class PeerGpu implements Gpu {
  readonly card: PeerCard;
  readonly place: PeerPlace;
  readonly info: GpuInfo;
  readonly lost: Promise<Loss>;
  #loss: Loss | null = null;
  #announce: (loss: Loss) => void = () => undefined;

  constructor(card: PeerCard, place: PeerPlace) {
    this.card = card;
    this.place = place;
    this.info = new PeerInfo(card, place);
    this.lost = new Promise((resolve) => {
      this.#announce = resolve;
    });
  }

  /** Whether each reaches the memory of the other where it lies. */
  isLinkedWith(other: Gpu): boolean {
    return other instanceof PeerGpu && other.card === this.card;
  }

  get isLost(): boolean {
    return this.#loss !== null || (this.card.isSealed && this.#hardware.isLost);
  }
  get counters(): GpuCounters {
    return this.card.isSealed ? this.#hardware.counters : NO_COUNTERS;
  }

  get dropTlbInvalidations(): boolean {
    return this.#hardware.dropTlbInvalidations;
  }
  set dropTlbInvalidations(drop: boolean) {
    this.#hardware.dropTlbInvalidations = drop;
  }

  ptWrite(pa: number, words: Uint32Array): void {
    if (this.#loss === null) this.#hardware.ptWrite(pa, words);
  }

  asidSet(asid: number, root: number, flags: number): void {
    if (this.#loss === null) this.#hardware.asidSet(asid, root, flags, this.place.tile);
  }

  tlbInvalidate(asid: number, start: number, last: number): number {
    return this.#hardware.tlbInvalidate(asid, start, last, this.place.tile);
  }

  tlbInvalidateAsid(asid: number): number {
    return this.#hardware.tlbInvalidateAsid(asid, this.place.tile);
  }

  copy(list: PageList): Promise<void> | null {
    if (this.#loss !== null) return list.reachesHost ? Promise.reject(this.#error(this.#loss)) : null;
    const arrived = this.#hardware.copy(list);
    return arrived === null ? null : this.#whileHere(arrived);
  }

  async submitJobs(batch: JobBatch): Promise<JobResult[]> {
    if (this.#loss !== null) return reportJobs(batch, new Array<number>(batch.count).fill(E_CANCELED), []);
    return this.#hardware.submitJobs(batch, this.place.tile);
  }

  async readEngines(): Promise<Uint32Array> {
    this.#checkHere();
    return this.#hardware.readEngines(this.place.tile);
  }

  async compile(source: KernelSource): Promise<Kernel> {
    this.#checkHere();
    return this.card.compile(source);
  }

  launch(kernel: Kernel, options: LaunchOptions): KernelLaunch {
    this.#checkHere();
    const launch = this.#hardware.launch(kernel, { ...options, tile: this.place.tile });
    return {
      ready: () => launch.ready(),
      round: () => this.#whileHere(launch.round()),
      pass: (first, count) => this.#whileHere(launch.pass(first, count)),
      setSpan: (items) => launch.setSpan(items),
      readOut: () => this.#whileHere(launch.readOut()),
      end: () => launch.end(),
    };
  }

  async translate(requests: Uint32Array): Promise<Uint32Array> {
    this.#checkHere();
    return this.#whileHere(this.#hardware.translate(requests, this.place.tile));
  }

  async drainFaults(): Promise<RoundResult> {
    this.#checkHere();
    return this.#whileHere(this.#hardware.drainFaults(this.place.tile));
  }

  async readVram(pa: number, bytes: number): Promise<Uint8Array> {
    this.#checkHere();
    return this.#whileHere(this.#hardware.readVram(pa, bytes));
  }

  uploadReady(bytes: number): Promise<void> | undefined {
    return this.#loss === null ? this.#hardware.uploadReady(bytes) : undefined;
  }

  flush(): void {
    if (this.#loss === null) this.#hardware.flush();
  }

  idle(): MaybePromise<void> {
    this.#checkHere();
    return this.#hardware.idle();
  }

  destroy(): void {
    this.onLoss({ reason: "destroyed", message: "the device was shut down" });
    this.card.leave();
  }

  /** For the card. */
  onLoss(loss: Loss): void {
    if (this.#loss !== null) return;
    this.#loss = loss;
    this.#announce(loss);
  }

  get #hardware(): Gpu {
    return this.card.hardware();
  }

  /** What the hardware still does for a device that has gone meanwhile reaches nobody. */
  async #whileHere<T>(result: Promise<T>): Promise<T> {
    const value = await result;
    this.#checkHere();
    return value;
  }

  #checkHere(): void {
    if (this.#loss !== null) throw this.#error(this.#loss);
  }

  #error({ reason, message }: Loss): DeviceLostError {
    return new DeviceLostError(reason, message);
  }
}

/** Its own sizes; the rest is the hardware's. */
class PeerInfo implements GpuInfo {
  readonly vramBytes: number;
  readonly tileBytes: readonly number[];
  readonly ptBytes: number;
  readonly syswBytes: number;
  readonly #card: PeerCard;

  constructor(card: PeerCard, place: PeerPlace) {
    this.#card = card;
    this.vramBytes = place.vramBytes;
    this.tileBytes = [place.vramBytes];
    this.ptBytes = place.ptBytes;
    this.syswBytes = place.syswBytes;
  }

  get engine(): string {
    return this.#card.hardware().info.engine;
  }
  get adapter(): GpuInfo["adapter"] {
    return this.#card.hardware().info.adapter;
  }
  get limits(): GpuInfo["limits"] {
    return this.#card.hardware().info.limits;
  }
  get features(): GpuInfo["features"] {
    return this.#card.hardware().info.features;
  }
  get systemAtomics(): boolean {
    return this.#card.hardware().info.systemAtomics;
  }
  /** Of all segments of the card. */
  get segBytes(): number {
    return this.#card.hardware().info.segBytes;
  }
  get nseg(): number {
    return this.#card.hardware().info.nseg;
  }
}
