import { type Pa, type Pfn, SZ_2M, alignUp } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { EIO, isErr } from "../base/errno.ts";
import { SvmDevice, type SvmDeviceOptions } from "../driver/device.ts";
import { PeerCard } from "../driver/peer-card.ts";
import { INTERCONNECT_P2P, INTERCONNECT_VRAM } from "../driver/peer-links.ts";
import type { Gpu, GpuConfig } from "../hal/gpu.ts";
import { createReferenceGpu } from "../reference/reference-gpu.ts";
import { Hardware } from "./hardware.ts";

/**
 * Which devices a machine has.
 *
 *     one      one device of one tile
 *     apart    two devices: what one has and the other wants goes through RAM
 *     linked   two devices of one card: each reaches the memory of the other where it lies, and pages go over the link
 *     tiles    one device of two tiles
 */
export type Cards = "one" | "apart" | "linked" | "tiles";

/** What each device, and each tile, has: bytes. */
export interface CardSize {
  readonly heapBytes: number;
  readonly ptBytes: number;
  readonly windowBytes: number;
}

/** Page tables take at most this part of VRAM. */
const TABLE_SHARE = 4;
const FAULT_QUEUE_CAPACITY = 64;

/** The GPUs of a machine, one for each device. */
export function gpusOf(cards: Cards, size: CardSize, hostMemory: Uint8Array): readonly Gpu[] {
  const { heapBytes, ptBytes, windowBytes } = size;
  const vramBytes = alignUp(Math.max(ptBytes + heapBytes, TABLE_SHARE * ptBytes), SZ_2M);
  const config: GpuConfig = {
    vramBytes,
    ptBytes,
    syswBytes: windowBytes,
    faultQueueCapacity: FAULT_QUEUE_CAPACITY,
    hostMemory,
  };
  switch (cards) {
    case "one":
      return [create(config)];
    case "apart":
      return [create(config), create(config)];
    case "tiles":
      return [create({ ...config, moreTiles: [vramBytes] })];
    case "linked": {
      const card = new PeerCard({ create, fits: () => true });
      const join = () =>
        card.join({ heapBytes, ptBytes, windowBytes, faultQueueCapacity: FAULT_QUEUE_CAPACITY, hostMemory });
      const [first, second] = [join(), join()];
      if (first === null || second === null) throw new InvariantError("no room on the card");
      return [first, second];
    }
  }
}

function create(config: GpuConfig): Gpu {
  return createReferenceGpu(config, { systemAtomics: true });
}

/** One device of a machine, as its driver says and as its hardware has been told. */
export class ExploredDevice {
  readonly device: SvmDevice;
  readonly hardware: Hardware;
  /** By address in the window: which frame, and how often. */
  readonly dmaLive = new Map<number, { readonly pfn: Pfn; count: number }>();
  /** Whose memory it reaches by link. */
  readonly peers: ExploredDevice[] = [];

  constructor(options: SvmDeviceOptions) {
    this.hardware = new Hardware(options.gpu);
    const device = SvmDevice.create(options);
    if (isErr(device)) throw new InvariantError("no device");
    this.device = device;
    this.#watchDma();
  }

  /** Calls `fails` before each copy, which then fails if that says so. */
  watchCopies(fails: (direction: "toDevice" | "toRam") => boolean): void {
    for (const { ops } of this.device.regions) {
      const toDevice = ops.copyToDevmem.bind(ops);
      const toRam = ops.copyToRam.bind(ops);
      ops.copyToDevmem = (...args) => (fails("toDevice") ? EIO : toDevice(...args));
      ops.copyToRam = (...args) => (fails("toRam") ? EIO : toRam(...args));
    }
  }

  /** The device page at an address of VRAM that its ranges may have, own or a peer's; -1: they may not have it. */
  vramPfnAt(proto: number, pa: Pa): Pfn {
    if (proto === INTERCONNECT_VRAM) return this.device.pfnAt(pa) ?? -1;
    if (proto !== INTERCONNECT_P2P) return -1;
    for (const { device } of this.peers) {
      const pfn = device.pfnAt(pa);
      if (pfn !== null) return pfn;
    }
    return -1;
  }

  #watchDma(): void {
    const { dma } = this.device;
    const map = dma.dmaMapPage.bind(dma);
    dma.dmaMapPage = (pfn, order, dir) => {
      const addr = map(pfn, order, dir);
      if (!isErr(addr)) this.#noteMapped(addr, pfn);
      return addr;
    };
    const unmap = dma.dmaUnmapPage.bind(dma);
    dma.dmaUnmapPage = (addr, order, dir) => {
      this.#noteUnmapped(addr);
      return unmap(addr, order, dir);
    };
    const mapPages = dma.dmaMapPages!.bind(dma);
    dma.dmaMapPages = (pfns, first, count, dir, out) => {
      const before = out.count;
      const mapped = mapPages(pfns, first, count, dir, out);
      for (let i = 0; i < mapped; i++) this.#noteMapped(out.addr[before + i]!, pfns[first + i]!);
      return mapped;
    };
    const unmapPages = dma.dmaUnmapPages!.bind(dma);
    dma.dmaUnmapPages = (addrs, first, count, dir) => {
      for (let i = first; i < first + count; i++) this.#noteUnmapped(addrs[i]!);
      return unmapPages(addrs, first, count, dir);
    };
  }

  #noteMapped(addr: number, pfn: Pfn): void {
    const live = this.dmaLive.get(addr);
    if (live === undefined) this.dmaLive.set(addr, { pfn, count: 1 });
    else live.count += 1;
  }

  #noteUnmapped(addr: number): void {
    const live = this.dmaLive.get(addr);
    if (live === undefined) throw new InvariantError(`window address ${addr} was unmapped but not mapped (I16)`);
    live.count -= 1;
    if (live.count === 0) this.dmaLive.delete(addr);
  }
}
