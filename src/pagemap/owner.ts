/**
 * Owner groups: which devices may use each other's memory where it lies.
 *
 * A device page is used in place by whoever names its owner, and faulted home by everybody else. Devices between which
 * there is a fast link share one owner, so that pages of one are mapped by the others through the page map they lie in
 * (`deviceMap` with the protocol of the link) instead of bouncing through RAM.
 *
 * A group is a clique: a newcomer joins the first group with all of whose members it has a link, else opens one of its
 * own. Links are not transitive, so the outcome depends on the order of arrival.
 */
import { assert } from "../base/assert.ts";

/** The token that the members of a group share: `DevPagemap.owner`, and the ctx owner of a look-up. @kernel drm_pagemap_owner */
export class DrmPagemapOwner {
  /** Members. @kernel drm_pagemap_owner.kref */
  refcount = 0;
}

/** A device, or a part of one, as a member of a group. @kernel drm_pagemap_peer */
export class DrmPagemapPeer {
  /** Of the driver. @kernel drm_pagemap_peer.private */
  readonly private: unknown;
  /** While it is a member. @kernel drm_pagemap_peer.list, drm_pagemap_peer.link */
  list: DrmPagemapOwnerList | null = null;
  /** While it is a member. @kernel drm_pagemap_peer.owner */
  owner: DrmPagemapOwner | null = null;

  constructor(driverPrivate: unknown) {
    this.private = driverPrivate;
  }
}

/**
 * All groups of a driver. The kernel's list has a mutex; nothing here waits, so nothing can come in between.
 * @kernel DRM_PAGEMAP_OWNER_LIST_DEFINE, drm_pagemap_owner_list, drm_pagemap_owner_list.lock
 */
export class DrmPagemapOwnerList {
  /** Members of one group stand side by side, groups in the order in which they were opened. @kernel drm_pagemap_owner_list.peers */
  readonly peers: DrmPagemapPeer[] = [];

  /**
   * Puts the peer in a group and returns the group's token. `hasInterconnect(peer, member)` says whether there is a fast
   * link between the two. @kernel drm_pagemap_acquire_owner
   */
  acquireOwner(
    peer: DrmPagemapPeer,
    hasInterconnect: (peer: DrmPagemapPeer, member: DrmPagemapPeer) => boolean,
  ): DrmPagemapOwner {
    assert(peer.owner === null, "a peer joined a second group");
    const owner = this.#groupFor(peer, hasInterconnect) ?? new DrmPagemapOwner();
    const last = this.peers.findLastIndex((member) => member.owner === owner);
    this.peers.splice(last < 0 ? this.peers.length : last + 1, 0, peer);
    owner.refcount += 1;
    peer.owner = owner;
    peer.list = this;
    return owner;
  }

  #groupFor(
    peer: DrmPagemapPeer,
    hasInterconnect: (peer: DrmPagemapPeer, member: DrmPagemapPeer) => boolean,
  ): DrmPagemapOwner | null {
    for (let from = 0; from < this.peers.length;) {
      const { owner } = this.peers[from];
      const end = this.#groupEnd(from);
      if (this.peers.slice(from, end).every((member) => hasInterconnect(peer, member))) return owner;
      from = end;
    }
    return null;
  }

  /** One past the last member of the group whose first is at `from`. */
  #groupEnd(from: number): number {
    const { owner } = this.peers[from];
    let end = from + 1;
    while (end < this.peers.length && this.peers[end].owner === owner) end += 1;
    return end;
  }
}

/** Leaves the group; a peer that is in none stays in none. Its page maps are gone before. @kernel drm_pagemap_release_owner */
export function drmPagemapReleaseOwner(peer: DrmPagemapPeer): void {
  const { list, owner } = peer;
  if (list === null || owner === null) return;
  list.peers.splice(list.peers.indexOf(peer), 1);
  owner.refcount -= 1;
  peer.owner = null;
  peer.list = null;
}
