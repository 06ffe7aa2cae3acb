import { DrmPagemapOwnerList, DrmPagemapPeer, drmPagemapReleaseOwner } from "../pagemap/owner.ts";
import type { DrmPagemapOwner } from "../pagemap/owner.ts";
import { DRM_INTERCONNECT_DRIVER } from "../pagemap/pagemap-addr.ts";
import type { SvmDevice } from "./device.ts";
import { PeerGpu } from "./peer-gpu.ts";

/** Own memory, by its physical address. @kernel XE_INTERCONNECT_VRAM */
export const INTERCONNECT_VRAM = DRM_INTERCONNECT_DRIVER;
/** A peer's memory, by its physical address: the link carries addresses of the card. @kernel XE_INTERCONNECT_P2P */
export const INTERCONNECT_P2P = DRM_INTERCONNECT_DRIVER + 1;

const NONE: readonly SvmDevice[] = [];

/**
 * The devices of one machine, and which of them reach each other's memory where it lies.
 *
 * Devices on one card share an owner (pagemap/owner.ts): pages in the memory of one are looked up by the others as usable,
 * mapped by the page map that they lie in, and moved from memory to memory without RAM. Between others everything goes
 * through RAM. Difference: the kernel gives a membership to each address space and to each memory, here a device has one for
 * both. @kernel xe_has_interconnect, xe_owner_list
 */
export class PeerLinks {
  readonly #owners = new DrmPagemapOwnerList();
  readonly #members = new Map<SvmDevice, DrmPagemapPeer>();

  join(device: SvmDevice): DrmPagemapOwner {
    const peer = new DrmPagemapPeer(device);
    this.#members.set(device, peer);
    return this.#owners.acquireOwner(peer, (a, b) => isLinked(a.private as SvmDevice, b.private as SvmDevice));
  }

  /** Its page map is gone, or nothing can be put into it any more. */
  leave(device: SvmDevice): void {
    const peer = this.#members.get(device);
    if (peer !== undefined) drmPagemapReleaseOwner(peer);
    this.#members.delete(device);
  }

  /** All of them, linked or not. */
  get devices(): Iterable<SvmDevice> {
    return this.#members.keys();
  }

  /** The others of its group. */
  peersOf(device: SvmDevice): readonly SvmDevice[] {
    if (this.#members.size <= 1) return NONE;
    const owner = this.#members.get(device)?.owner;
    if (owner === undefined || owner === null) return NONE;
    const peers: SvmDevice[] = [];
    for (const [other, peer] of this.#members) if (other !== device && peer.owner === owner) peers.push(other);
    return peers;
  }

  /**
   * The protocol by which `dev`, the DMA port or the memory of a device, reaches the memory of `device`; null: not at all.
   */
  protocol(device: SvmDevice, dev: unknown): number | null {
    if (isPartOf(device, dev)) return INTERCONNECT_VRAM;
    for (const other of this.peersOf(device)) if (isPartOf(other, dev)) return INTERCONNECT_P2P;
    return null;
  }
}

function isPartOf(device: SvmDevice, dev: unknown): boolean {
  return dev === device.dma || device.regions.some((region) => dev === region);
}

function isLinked(a: SvmDevice, b: SvmDevice): boolean {
  return a.gpu instanceof PeerGpu && a.gpu.isLinkedWith(b.gpu);
}
