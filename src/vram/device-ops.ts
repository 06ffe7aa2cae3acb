import type { Errno } from "../base/errno.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { BuddyBlock } from "./buddy.ts";
import type { Fence, Resv } from "./fence.ts";
import type { TtmPlace, TtmPlacement } from "./place.ts";
import type { TtmResource } from "./resource.ts";
import type { TtmBo } from "./ttm-bo.ts";

/** There is no direct way there: go to `place` first. @kernel EMULTIHOP */
export class Multihop {
  readonly place: TtmPlace;

  constructor(place: TtmPlace) {
    this.place = place;
  }
}

/** Work on the device: done (null), queued (its fence), or refused. */
export type Work = Fence | null | Errno;

/**
 * What a driver does for the device's memory. The reservation of the buffer is held in every call but `releaseNotify`.
 * A copy and a clear must begin after what the reservation's fences stand for; the queue order of one device does that.
 * @kernel ttm_device_funcs
 */
export interface TtmDeviceOps<Owner = unknown> {
  /** Where a victim goes. Empty: its content is not wanted any more. @kernel evict_flags */
  evictFlags(bo: TtmBo<Owner>): TtmPlacement;
  /** Whether evicting `bo` would help; default `TtmDevice.evictionValuable`. @kernel eviction_valuable */
  evictionValuable?(bo: TtmBo<Owner>, place: TtmPlace): boolean;
  /**
   * The order in which buffers give way to one that is placed; `byUse`: those of the place's memory, in the order of its LRU
   * list, which is the default (null).
   */
  evictionOrder?(place: TtmPlace, byUse: Iterable<TtmBo<Owner>>): readonly TtmBo<Owner>[] | null;
  /**
   * The pages are about to change, or (`to` null) to go: takes them away from who has them mapped. An error stops the
   * move. @kernel move_notify, delete_mem_notify
   */
  moveNotify?(bo: TtmBo<Owner>, to: TtmResource<Owner> | null): MaybePromise<0 | Errno>;
  /** Copies the content from `bo.resource` to `to`. @kernel move */
  move(bo: TtmBo<Owner>, to: TtmResource<Owner>, isEviction: boolean): MaybePromise<Work | Multihop>;
  /** Zeroes blocks of a buffer that has no content yet, before anybody can read what the last tenant left there. */
  clear(bo: TtmBo<Owner>, blocks: readonly BuddyBlock[]): MaybePromise<Work>;
  /** Host pages for the buffer, all zero. -ENOMEM. @kernel ttm_tt_populate */
  populate?(bo: TtmBo<Owner>): object | Errno;
  /** @kernel ttm_tt_unpopulate */
  unpopulate?(pages: object): void;
  /** The last reference has gone. May queue a fill, add its fence, and call the content zero. @kernel release_notify */
  releaseNotify?(bo: TtmBo<Owner>): void;
  /** A reservation for one buffer. */
  newResv(name: string): Resv;
}
