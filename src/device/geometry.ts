import { PAGE_SIZE, SZ_2M, SZ_64K, isAligned, isPowerOfTwo } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import type { DeviceShape } from "../abi/preamble.ts";
import { MAX_TILES } from "../abi/tiles.ts";
import type { GpuConfig } from "../hal/gpu.ts";
import type { BankLayout } from "./banks.ts";

/** The limits that decide how memory is laid out over buffers. */
export interface MemoryLimits {
  readonly maxBufferSize: number;
  readonly maxStorageBufferBindingSize: number;
  readonly maxStorageBuffersPerShaderStage: number;
}

export interface Geometry extends BankLayout {
  readonly shape: DeviceShape;
  /** Bytes of each segment's buffer: its memory, a carved-out window, a guard page where there is room. */
  readonly bufferBytes: readonly number[];
}

/** For tests: layouts that the adapter would not call for. */
export interface GeometryOptions {
  /** Bound on the bytes of a segment, a power of two. */
  readonly maxSegBytes?: number;
  /** VRAM is cut into at least so many segments, where its size permits (2 MiB each, page tables in one). */
  readonly minSegments?: number;
  /** The window gets a buffer of its own even where it would fit segment 0's. */
  readonly separateWindow?: boolean;
}

/** A segment is at most this big, so that no adapter is asked for all it has. */
const MAX_SEG_BYTES = 512 * 1024 * 1024;
/** Storage buffers of a user kernel besides its banks: ctl, faultq and its private buffer. */
const OTHER_STORAGE_BUFFERS = 3;

/**
 * Lays VRAM and the window out over as few buffers as the limits allow: each further bank is paid on every access
 * (spec/device.md 3.8).
 */
export function planGeometry(config: GpuConfig, limits: MemoryLimits, options: GeometryOptions = {}): Geometry {
  checkConfig(config);
  const { maxSegBytes = MAX_SEG_BYTES, minSegments = 1, separateWindow = false } = options;
  const tileBytes = [config.vramBytes, ...(config.moreTiles ?? [])];
  const largestTile = Math.max(...tileBytes);
  const wanted = Math.max(largestTile / minSegments, config.ptBytes, SZ_2M);
  const largest = Math.min(
    limits.maxBufferSize,
    limits.maxStorageBufferBindingSize,
    maxSegBytes,
    MAX_SEG_BYTES,
    minSegments === 1 ? MAX_SEG_BYTES : wanted,
  );
  const segBytes = Math.min(2 ** Math.ceil(Math.log2(largestTile)), 2 ** Math.floor(Math.log2(largest)));
  const segments = tileBytes.flatMap((bytes) => cut(bytes, segBytes));
  const nseg = segments.length;
  const seg0Bytes = Math.min(segBytes, config.vramBytes);
  const bindable = Math.min(limits.maxBufferSize, limits.maxStorageBufferBindingSize);
  const carveOut = !separateWindow && config.syswBytes > 0 && seg0Bytes + config.syswBytes <= bindable;
  if (config.ptBytes > segBytes) {
    throw new ConfigError("ptBytes", `page tables of ${config.ptBytes} bytes do not fit a segment of ${segBytes}`);
  }
  const banks = nseg + (config.syswBytes > 0 && !carveOut ? 1 : 0);
  const allowed = limits.maxStorageBuffersPerShaderStage - OTHER_STORAGE_BUFFERS;
  if (banks > allowed) {
    const most = (allowed - (banks - nseg)) * segBytes;
    const asked = tileBytes.join(" + ");
    throw new ConfigError("vramBytes", `this adapter has room for ${most} bytes of VRAM, not ${asked}`);
  }
  if (config.syswBytes > bindable) {
    throw new ConfigError("syswBytes", `a system window of at most ${bindable} bytes is possible here`);
  }
  const bufferBytes = segments.map((segment, i) => {
    const bytes = segment + (i === 0 && carveOut ? config.syswBytes : 0);
    // A store past the end of a binding lands in its last word: better in a page that nobody owns.
    return bytes + PAGE_SIZE <= bindable ? bytes + PAGE_SIZE : bytes;
  });
  return {
    carveOut,
    bufferBytes,
    shape: {
      tileBytes,
      ptBytes: config.ptBytes,
      syswBytes: config.syswBytes,
      segShift: Math.log2(segBytes),
      nseg,
      faultQueueCapacity: config.faultQueueCapacity,
      // Four slots per record: a table as small as the queue would be full when the queue is, and dedup would fail.
      dedupSlots: Math.max(4096, config.faultQueueCapacity * 4),
    },
  };
}

/** The segments of a tile, bytes; the last may be a shorter one. */
function cut(tileBytes: number, segBytes: number): number[] {
  return Array.from({ length: Math.ceil(tileBytes / segBytes) }, (_, i) =>
    Math.min(segBytes, tileBytes - i * segBytes),
  );
}

function checkConfig(config: GpuConfig): void {
  const { vramBytes, moreTiles = [], ptBytes, syswBytes, faultQueueCapacity } = config;
  checkTile("vramBytes", vramBytes);
  if (moreTiles.length >= MAX_TILES) {
    throw new ConfigError("moreTiles", `at most ${MAX_TILES - 1} further tiles are possible, not ${moreTiles.length}`);
  }
  for (const [i, bytes] of moreTiles.entries()) checkTile(`moreTiles[${i}]`, bytes);
  if (!isPowerOfTwo(ptBytes) || ptBytes < SZ_64K || ptBytes > Math.min(vramBytes, ...moreTiles) / 4) {
    throw new ConfigError("ptBytes", `a power of two from 64 KiB to a quarter of a tile is wanted, not ${ptBytes}`);
  }
  if (!Number.isSafeInteger(syswBytes) || syswBytes < 0 || !isAligned(syswBytes, PAGE_SIZE)) {
    throw new ConfigError("syswBytes", `a multiple of 4096, or 0, is wanted, not ${syswBytes}`);
  }
  if (!isPowerOfTwo(faultQueueCapacity) || faultQueueCapacity > 65536) {
    throw new ConfigError("faultQueueCapacity", `a power of two up to 65536 is wanted, not ${faultQueueCapacity}`);
  }
}

function checkTile(path: string, bytes: number): void {
  if (!Number.isSafeInteger(bytes) || bytes <= 0 || !isAligned(bytes, SZ_2M) || bytes > 2 ** 34) {
    throw new ConfigError(path, `a multiple of 2 MiB up to 16 GiB is wanted, not ${bytes}`);
  }
}
