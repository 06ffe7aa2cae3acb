/**
 * Addresses by which a device reaches memory, and their two layouts.
 *
 * `PagemapAddrArray` is what the stack works with: one entry per mapping, packed, so that a 2 MiB range backed by one
 * huge page has one entry. It is walked by adding up orders, never indexed by page:
 *
 *     for (let i = 0, j = 0; i < npages; i += 2 ** addrs.order(j), j++) use(addrs.addr[j]);
 *
 * `packPagemapAddr` writes the 16 bytes of the kernel's `struct drm_pagemap_addr`, the form for recorded data and GPU
 * buffers: a 64-bit address, then one 64-bit word, least significant bit first:
 *
 *     0                                            53 54      61 62 63
 *     | proto (54 bits)                              | order (8) | dir |
 */
import { assert } from "../base/assert.ts";

/** @kernel dma_data_direction */
export const DMA_BIDIRECTIONAL = 0;
export const DMA_TO_DEVICE = 1;
export const DMA_FROM_DEVICE = 2;
export const DMA_NONE = 3;
export type DmaDirection = typeof DMA_BIDIRECTIONAL | typeof DMA_TO_DEVICE | typeof DMA_FROM_DEVICE | typeof DMA_NONE;

/** A DMA address of system memory. @kernel drm_interconnect_protocol, DRM_INTERCONNECT_SYSTEM */
export const DRM_INTERCONNECT_SYSTEM = 0;
/** The first value whose meaning is the driver's own. @kernel DRM_INTERCONNECT_DRIVER */
export const DRM_INTERCONNECT_DRIVER = 1;

/** One entry in full width. @kernel drm_pagemap_addr, drm_pagemap_device_addr */
export interface DrmPagemapAddr {
  /** @kernel drm_pagemap_device_addr.addr */
  readonly addr: bigint;
  /** @kernel drm_pagemap_device_addr.proto */
  readonly proto: bigint;
  /** The mapping covers `4096 << order` bytes. @kernel drm_pagemap_device_addr.order */
  readonly order: number;
  /** @kernel drm_pagemap_device_addr.dir */
  readonly dir: DmaDirection;
}

/** Fills the fields; checks nothing. @kernel drm_pagemap_addr_encode, drm_pagemap_device_addr_encode */
export function drmPagemapAddrEncode(
  addr: number | bigint,
  proto: number | bigint,
  order: number,
  dir: DmaDirection,
): DrmPagemapAddr {
  return { addr: BigInt(addr), proto: BigInt(proto), order, dir };
}

/** Bytes of a packed entry. */
export const PAGEMAP_ADDR_BYTES = 16;

const PROTO_BITS = 54n;
const PROTO_MASK = (1n << PROTO_BITS) - 1n;
const DIR_SHIFT = 62n;

/** Writes entry `index` of an array of packed entries; fields are cut to their widths. */
export function packPagemapAddr(out: BigUint64Array, index: number, entry: DrmPagemapAddr): void {
  out[index * 2] = entry.addr;
  out[index * 2 + 1] =
    (entry.proto & PROTO_MASK) |
    ((BigInt(entry.order) & 0xffn) << PROTO_BITS) |
    ((BigInt(entry.dir) & 3n) << DIR_SHIFT);
}

export function unpackPagemapAddr(packed: BigUint64Array, index: number): DrmPagemapAddr {
  const meta = packed[index * 2 + 1];
  return {
    addr: packed[index * 2],
    proto: meta & PROTO_MASK,
    order: Number((meta >> PROTO_BITS) & 0xffn),
    dir: Number(meta >> DIR_SHIFT) as DmaDirection,
  };
}

const ORDER_MASK = 0xff;
const META_DIR_SHIFT = 8;
const META_PROTO_SHIFT = 10;
/** Protocols that the packed array of the stack can hold. */
const MAX_PROTO = 2 ** 22;

/** Entries that there is room for at first: mostly an interval is one huge page, or few runs. */
const FIRST_ENTRIES = 4;

/** The mappings of one interval, packed. Address 0 and negative numbers are never valid. */
export class PagemapAddrArray {
  /** The most entries that it can have. */
  readonly capacity: number;
  #addr: Float64Array;
  /** order in bits 0-7, dir in 8-9, proto from 10. */
  #meta: Uint32Array;
  #count = 0;

  /** `npages` is the worst case: every entry of order 0. */
  constructor(npages: number) {
    this.capacity = npages;
    const room = Math.min(npages, FIRST_ENTRIES);
    this.#addr = new Float64Array(room);
    this.#meta = new Uint32Array(room);
  }

  /** Bytes, in the address space that the protocol names. Another array once there are more entries. */
  get addr(): Float64Array {
    return this.#addr;
  }

  /** Entries in use. */
  get count(): number {
    return this.#count;
  }
  order(index: number): number {
    return this.#meta[index] & ORDER_MASK;
  }
  dir(index: number): DmaDirection {
    return ((this.#meta[index] >>> META_DIR_SHIFT) & 3) as DmaDirection;
  }
  proto(index: number): number {
    return this.#meta[index] >>> META_PROTO_SHIFT;
  }

  /** How many entries from `index` on are single pages of its protocol and direction; 0 when that one is none. */
  pageRun(index: number): number {
    const meta = this.#meta[index];
    if ((meta & ORDER_MASK) !== 0) return 0;
    let end = index + 1;
    while (end < this.#count && this.#meta[end] === meta) end += 1;
    return end - index;
  }

  clear(): void {
    this.#count = 0;
  }

  push(addr: number, proto: number, order: number, dir: DmaDirection): void {
    const at = this.#count;
    assert(at < this.capacity && proto < MAX_PROTO, "an address array has too many entries or a protocol out of range");
    if (at === this.#addr.length) this.#grow();
    this.#addr[at] = addr;
    this.#meta[at] = ((proto << META_PROTO_SHIFT) | (dir << META_DIR_SHIFT) | order) >>> 0;
    this.#count = at + 1;
  }

  /** `push` with order 0 for each of the first `count` addresses, which count from `base`. */
  pushPages(addrs: Float64Array, count: number, base: number, proto: number, dir: DmaDirection): void {
    const first = this.#count;
    const end = first + count;
    assert(
      end <= this.capacity && proto < MAX_PROTO,
      "an address array has too many entries or a protocol out of range",
    );
    if (end > this.#addr.length) this.#grow(end);
    const addr = this.#addr;
    for (let i = 0; i < count; i++) addr[first + i] = base + addrs[i];
    this.#meta.fill(((proto << META_PROTO_SHIFT) | (dir << META_DIR_SHIFT)) >>> 0, first, end);
    this.#count = end;
  }

  #grow(wanted = 0): void {
    const room = Math.min(this.capacity, Math.max(wanted, this.#addr.length * 8));
    const [addr, meta] = [new Float64Array(room), new Uint32Array(room)];
    addr.set(this.#addr);
    meta.set(this.#meta);
    this.#addr = addr;
    this.#meta = meta;
  }

  entry(index: number): DrmPagemapAddr {
    return drmPagemapAddrEncode(this.#addr[index], this.proto(index), this.order(index), this.dir(index));
  }
}
