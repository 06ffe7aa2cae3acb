import { PAGE_SIZE } from "../../base/addr.ts";
import type { Commands } from "../commands.ts";

const STAGING_BYTES = 4 << 20;
export const STAGING_PAGES = STAGING_BYTES / PAGE_SIZE;

/** Buffers in which scattered pages lie packed on their way. Made on first use. */
export class CopyStaging {
  readonly #commands: Commands;
  #upload: GPUBuffer | null = null;
  #download: GPUBuffer | null = null;
  #bounce: GPUBuffer | null = null;

  constructor(commands: Commands) {
    this.#commands = commands;
  }

  /** Filled by the host, read by a kernel that scatters. */
  get upload(): GPUBuffer {
    this.#upload ??= this.#make("upload staging", GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST);
    return this.#upload;
  }

  /** Filled by a kernel that gathers, copied to a mappable slot. */
  get download(): GPUBuffer {
    this.#download ??= this.#make("download staging", GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC);
    return this.#download;
  }

  /** Between two places of one buffer, for which WebGPU has no copy command. */
  get bounce(): GPUBuffer {
    this.#bounce ??= this.#make("copy bounce", GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST);
    return this.#bounce;
  }

  destroy(): void {
    this.#upload?.destroy();
    this.#download?.destroy();
    this.#bounce?.destroy();
  }

  #make(label: string, usage: number): GPUBuffer {
    return this.#commands.createBuffer({ label, size: STAGING_BYTES, usage });
  }
}
