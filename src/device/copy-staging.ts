import { SG_STRIDE } from "../hal/gpu.ts";
import type { Commands } from "./commands.ts";

export const STAGING_BYTES = 4 << 20;

/**
 * Storage buffers in which scattered pages lie packed on their way between host and device: the compute shader scatters
 * what one `writeBuffer` brought, and gathers what one mapping takes away. Made on first use.
 */
export class CopyStaging {
  readonly #commands: Commands;
  #upload: GPUBuffer | null = null;
  #download: GPUBuffer | null = null;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /** Written by the host. A write takes effect at once: what is recorded on the old content must be submitted before. */
  get upload(): GPUBuffer {
    this.#upload ??= this.#make("upload staging", GPUBufferUsage.COPY_DST);
    return this.#upload;
  }

  /** Written by the copy shader. */
  get download(): GPUBuffer {
    this.#download ??= this.#make("download staging", GPUBufferUsage.COPY_SRC);
    return this.#download;
  }

  destroy(): void {
    this.#upload?.destroy();
    this.#download?.destroy();
  }

  #make(label: string, usage: number): GPUBuffer {
    return this.#commands.createBuffer({ label, size: STAGING_BYTES, usage: GPUBufferUsage.STORAGE | usage });
  }
}

/** Which way a list of runs between host and device goes. */
export interface TransferWays {
  /** Runs below this many pages are packed... */
  readonly shortRun: number;
  /** ...when there are at least this many of them. */
  readonly manyRuns: number;
}

/** Nothing is packed. */
export const NEVER_PACK: TransferWays = { shortRun: 0, manyRuns: Infinity };
/** Everything is: for measurements and tests. */
export const ALWAYS_PACK: TransferWays = { shortRun: Infinity, manyRuns: 0 };

/**
 * The choice, for both directions. Packing buys fewer commands with a pass of the copy shader over all bytes. On a software
 * adapter it never pays: 1024 scattered pages up in 2.9 ms run by run and 22.9 ms packed, down in 2.6 and 16.4 ms; 256 pages
 * 3.3 and 3.5 ms, 3.3 and 4.9 ms (with the upload ring, in Chromium on SwiftShader). On hardware the shader runs at the
 * speed of memory, and a command costs a microsecond or more however few its bytes; there the bounds are an estimate, to be
 * replaced by a measurement of `npm run bench` on such an adapter.
 */
export function transferWays(hardware: boolean): TransferWays {
  return hardware ? { shortRun: 16, manyRuns: 64 } : NEVER_PACK;
}

/** Runs below `limit` pages among those that `counts`. */
export function countShortRuns(
  words: Uint32Array,
  count: number,
  limit: number,
  counts: (at: number) => boolean,
): number {
  let runs = 0;
  for (let at = 0; at < count * SG_STRIDE; at += SG_STRIDE) if (words[at + 2]! < limit && counts(at)) runs += 1;
  return runs;
}
