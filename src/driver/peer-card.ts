import { SZ_2M } from "../base/addr.ts";
import { MAX_TILES } from "../abi/tiles.ts";
import type { Gpu, GpuConfig, Kernel, KernelSource } from "../hal/gpu.ts";
import { PeerGpu } from "./peer-gpu.ts";

/** What a device that wants to reach others, and be reached by them, asks for. */
export interface PeerRequest {
  /** Bytes of VRAM for data, a multiple of 2 MiB. */
  readonly heapBytes: number;
  /** Bytes for page tables, as the device would have them for itself: a power of two. */
  readonly ptBytes: number;
  /** Bytes of system window; whole pages, 0 for none. */
  readonly windowBytes: number;
  readonly faultQueueCapacity: number;
  readonly hostMemory: Uint8Array;
}

export interface PeerCardOptions {
  /** Makes the GPU that carries all; once. */
  readonly create: (config: GpuConfig) => Gpu;
  /** Whether the adapter could bind so much memory together. */
  readonly fits: (config: GpuConfig) => boolean;
}

/** Heap that page tables of one byte are still made for: entries of 4 KiB pages take 1/512, upper tables little more. */
const HEAP_PER_TABLE_BYTE = 128;

/**
 * Devices with a fast link: the tiles of one hardware GPU, of which each plays a device of its own.
 *
 * Why. A kernel reaches the memory that its shader binds. Peer access that costs no copy therefore means shaders that bind
 * the peers' buffers too, which is what several tiles are: each has its VRAM, page-table aperture, address spaces, TLB and
 * fault queue, and the leaves of its tables may name memory of any tile. So a peer's page is mapped where it lies, by its
 * physical address, and one queue orders what all of them do.
 *
 * The shaders are composed for the memory that there is, so a card is open until one of its devices is first used: the
 * memory of those that have joined by then is all that it will ever have. Who comes later opens another card, and between
 * two cards data goes through RAM. How many fit is the adapter's to say: a segment of each is a storage buffer of every
 * kernel, and every further one is paid on every access (spec/device.md 3.8).
 */
export class PeerCard {
  readonly #options: PeerCardOptions;
  readonly #members: PeerGpu[] = [];
  /** Text that ran through the compiler for one of the devices is good for all. */
  readonly #kernels = new WeakMap<KernelSource, Promise<Kernel>>();
  #config: GpuConfig | null = null;
  #gpu: Gpu | null = null;

  constructor(options: PeerCardOptions) {
    this.#options = options;
  }

  /** By tile. */
  get members(): readonly PeerGpu[] {
    return this.#members;
  }
  /** It has been used: nobody can join any more. */
  get isSealed(): boolean {
    return this.#gpu !== null;
  }

  /** One more device; null where there is no room for it on this card. */
  join(request: PeerRequest): PeerGpu | null {
    const config = this.isSealed ? null : grown(this.#config, request);
    if (config === null || !this.#options.fits(config)) return null;
    const windowBase = this.#config?.syswBytes ?? 0;
    this.#config = config;
    const member = new PeerGpu(this, {
      tile: this.#members.length,
      vramBytes: tileBytes(request.heapBytes, config.ptBytes),
      ptBytes: config.ptBytes,
      windowBase,
      syswBytes: request.windowBytes,
    });
    this.#members.push(member);
    return member;
  }

  // For the members

  /** The hardware, made when it is first asked for. Throws as the engine's `createGpu`. */
  hardware(): Gpu {
    if (this.#gpu === null) {
      this.#gpu = this.#options.create(this.#config!);
      const { lost } = this.#gpu;
      for (const member of this.#members) void lost.then((loss) => member.onLoss(loss));
    }
    return this.#gpu;
  }

  compile(source: KernelSource): Promise<Kernel> {
    let kernel = this.#kernels.get(source);
    if (kernel === undefined) {
      kernel = this.hardware().compile(source);
      this.#kernels.set(source, kernel);
      kernel.catch(() => this.#kernels.delete(source));
    }
    return kernel;
  }

  /** A device went: with the last one the hardware goes. */
  leave(): void {
    if (this.#members.every((member) => member.isLost)) this.#gpu?.destroy();
  }
}

/** What the card must be made of with one more device; null if it cannot be. */
function grown(config: GpuConfig | null, request: PeerRequest): GpuConfig | null {
  const { heapBytes, windowBytes, faultQueueCapacity, hostMemory } = request;
  if (config === null) {
    const { ptBytes } = request;
    const vramBytes = tileBytes(heapBytes, ptBytes);
    return { vramBytes, ptBytes, syswBytes: windowBytes, faultQueueCapacity, hostMemory };
  }
  // All tiles have the first one's room for tables.
  const { ptBytes, moreTiles = [], syswBytes } = config;
  if (moreTiles.length + 1 >= MAX_TILES || heapBytes > ptBytes * HEAP_PER_TABLE_BYTE) return null;
  return {
    ...config,
    moreTiles: [...moreTiles, tileBytes(heapBytes, ptBytes)],
    syswBytes: syswBytes + windowBytes,
    faultQueueCapacity: Math.max(config.faultQueueCapacity, faultQueueCapacity),
  };
}

/** The aperture may be a quarter of the memory at most; where that is more than was asked for, the rest lies idle. */
export function tileBytes(heapBytes: number, ptBytes: number): number {
  return Math.ceil(Math.max(heapBytes + ptBytes, 4 * ptBytes) / SZ_2M) * SZ_2M;
}
