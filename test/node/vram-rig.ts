/**
 * A device for tests of the VRAM manager: one number per page stands for its bytes. Work takes effect when it is queued,
 * as later work in the one queue sees it; its fence signals at once, or when the test says so (`isSlow`).
 */
import { PAGE_SIZE, SZ_2M, SZ_4K, SZ_64K } from "../../src/base/addr.ts";
import { isErr } from "../../src/base/errno.ts";
import type { Errno } from "../../src/base/errno.ts";
import { Completion } from "../../src/base/locks.ts";
import type { Guard } from "../../src/base/locks.ts";
import type { MaybePromise } from "../../src/base/maybe-promise.ts";
import { DmaResv } from "../../src/gpuvm/dma-resv.ts";
import type { BuddyBlock } from "../../src/vram/buddy.ts";
import type { Multihop, TtmDeviceOps, Work } from "../../src/vram/device-ops.ts";
import type { Fence, Resv, TtmOperationCtx } from "../../src/vram/fence.ts";
import { HostManager } from "../../src/vram/host-manager.ts";
import { PL_SYSTEM, PL_TT, PL_VRAM } from "../../src/vram/place.ts";
import type { TtmPlace, TtmPlacement } from "../../src/vram/place.ts";
import type { TtmResource } from "../../src/vram/resource.ts";
import { TtmBo } from "../../src/vram/ttm-bo.ts";
import type { TtmBoInit } from "../../src/vram/ttm-bo.ts";
import { TtmDevice } from "../../src/vram/ttm-device.ts";
import { VramManager } from "../../src/vram/vram-manager.ts";

export const PT = SZ_2M;
export const VRAM: TtmPlace = { memType: PL_VRAM };
export const TT: TtmPlace = { memType: PL_TT };
export const SYSTEM: TtmPlace = { memType: PL_SYSTEM };
/** What a page of VRAM holds that nobody has cleared. */
export const GARBAGE = 0xdead;

export type Bo = TtmBo<string>;

export interface RigOptions {
  readonly vramBytes?: number;
  readonly ptBytes?: number;
  readonly budget?: number;
  readonly pinLimit?: number;
  readonly ttBytes?: number;
  readonly systemBytes?: number;
}

export class Rig implements TtmDeviceOps<string> {
  readonly vram: VramManager<string>;
  readonly tt: HostManager<string>;
  readonly system: HostManager<string>;
  readonly ttm: TtmDevice<string>;
  /** Owners in the order of eviction. */
  readonly evicted: string[] = [];
  readonly moves: string[] = [];
  readonly notified: string[] = [];
  readonly pending: Completion[] = [];
  isSlow = false;
  populated = 0;
  /** Where victims from VRAM go. */
  placement: TtmPlacement = [TT, SYSTEM];
  /** Overrides for single tests. */
  moveInstead: ((bo: Bo, to: TtmResource<string>) => MaybePromise<Work | Multihop>) | null = null;
  moveNotify = (bo: Bo, to: TtmResource<string> | null): MaybePromise<0 | Errno> => {
    this.notified.push(`${bo.owner}${to === null ? "-" : to.memType}`);
    return 0;
  };
  releaseNotify = (_bo: Bo): void => {};
  readonly #pages: Uint16Array;

  constructor(options: RigOptions = {}) {
    const {
      vramBytes = 8 * SZ_2M,
      ptBytes = PT,
      budget,
      pinLimit,
      ttBytes = Infinity,
      systemBytes = Infinity,
    } = options;
    const limits = { ...(budget === undefined ? {} : { budget }), ...(pinLimit === undefined ? {} : { pinLimit }) };
    this.vram = new VramManager({ vramBytes, ptBytes, ...limits });
    this.tt = new HostManager(PL_TT, ttBytes);
    this.system = new HostManager(PL_SYSTEM, systemBytes);
    this.ttm = new TtmDevice<string>(this, [this.system, this.tt, this.vram]);
    this.#pages = new Uint16Array(vramBytes / PAGE_SIZE).fill(GARBAGE);
  }

  evictFlags(bo: Bo): TtmPlacement {
    return bo.resource!.memType === PL_TT ? [SYSTEM] : this.placement;
  }

  move(bo: Bo, to: TtmResource<string>, isEviction: boolean): MaybePromise<Work | Multihop> {
    if (isEviction) this.evicted.push(bo.owner);
    this.moves.push(`${bo.owner}:${bo.resource!.memType}>${to.memType}`);
    if (this.moveInstead !== null) return this.moveInstead(bo, to);
    return this.copy(bo, to);
  }

  copy(bo: Bo, to: TtmResource<string>): Work {
    if (!bo.resource!.manager.useTt || !to.manager.useTt) {
      const content = this.contentOf(bo, bo.resource!);
      this.#put(bo, to, content);
    }
    return this.fence();
  }

  clear(_bo: Bo, blocks: readonly BuddyBlock[]): Work {
    for (const b of blocks) this.#pages.fill(0, b.offset / PAGE_SIZE, (b.offset + b.size) / PAGE_SIZE);
    return this.fence();
  }

  populate(bo: Bo): object {
    this.populated += 1;
    return { pages: new Uint16Array(bo.size / PAGE_SIZE) };
  }

  unpopulate(): void {
    this.populated -= 1;
  }

  newResv(name: string): Resv {
    return new DmaResv(name);
  }

  fence(): Fence | null {
    if (!this.isSlow) return null;
    const fence = new Completion();
    this.pending.push(fence);
    return fence;
  }

  /** All queued work is done. */
  finish(): void {
    for (const fence of this.pending.splice(0)) fence.complete();
  }

  contentOf(bo: Bo, res: TtmResource<string> = bo.resource!): Uint16Array {
    if (res.manager.useTt) return (bo.hostPages as { pages: Uint16Array }).pages;
    const out = new Uint16Array(bo.size / PAGE_SIZE);
    let at = 0;
    for (const b of res.blocks) {
      const first = b.offset / PAGE_SIZE;
      const count = Math.min(b.size / PAGE_SIZE, out.length - at);
      out.set(this.#pages.subarray(first, first + count), at);
      at += count;
    }
    return out;
  }

  /** The user of a buffer writes `value` all over it. */
  fill(bo: Bo, value: number): void {
    this.#put(bo, bo.resource!, new Uint16Array(bo.size / PAGE_SIZE).fill(value));
  }

  #put(bo: Bo, res: TtmResource<string>, content: Uint16Array): void {
    if (res.manager.useTt) {
      (bo.hostPages as { pages: Uint16Array }).pages.set(content);
      return;
    }
    let at = 0;
    for (const b of res.blocks) {
      const count = Math.min(b.size / PAGE_SIZE, content.length - at);
      this.#pages.set(content.subarray(at, at + count), b.offset / PAGE_SIZE);
      at += count;
    }
  }

  // Shorthands

  bo(owner: string, size = SZ_2M, init: Partial<TtmBoInit> = {}): Bo {
    return new TtmBo(owner, { size, resv: new DmaResv(owner), ...init });
  }

  /** A buffer in VRAM, or the error of trying. */
  tryAdd(owner: string, size = SZ_2M, place: TtmPlace = VRAM, init: Partial<TtmBoInit> = {}): Bo | Errno {
    const bo = this.bo(owner, size, init);
    const err = this.validate(bo, [place]);
    return err === 0 ? bo : (err as Errno);
  }

  add(owner: string, size = SZ_2M, place: TtmPlace = VRAM, init: Partial<TtmBoInit> = {}): Bo {
    const bo = this.tryAdd(owner, size, place, init);
    if (isErr(bo)) throw new Error(`${owner}: ${bo}`);
    return bo;
  }

  /** Under its lock, without a promise unless the manager gives one. */
  validate(bo: Bo, placement: TtmPlacement, ctx: TtmOperationCtx = {}): MaybePromise<0 | Errno> {
    return this.locked(bo, () => this.ttm.validate(bo, placement, ctx));
  }

  pin(bo: Bo): 0 | Errno {
    return this.locked(bo, () => this.ttm.pin(bo));
  }

  unpin(bo: Bo): void {
    this.locked(bo, () => this.ttm.unpin(bo));
  }

  locked<T>(bo: Bo, body: () => T): T {
    const guard = bo.resv.tryLock() as Guard;
    const result = body();
    if (result instanceof Promise) {
      void result.finally(() => guard.release()).catch(() => {});
      return result;
    }
    guard.release();
    return result;
  }

  /** Owners of what lies in VRAM, in the order of eviction, pinned ones last. */
  get order(): string {
    return [...this.vram.resources()].map((res) => res.bo.owner).join("");
  }

  /** Owners of those that may be evicted now. */
  get victims(): string {
    return this.ttm
      .pickVictims(VRAM, Infinity)
      .map((bo) => bo.owner)
      .join("");
  }

  /** VRAM full of seven buffers of 2 MiB. */
  filled(): Bo[] {
    return [..."abcdefg"].map((name) => this.add(name));
  }
}

export { SZ_2M, SZ_4K, SZ_64K };
