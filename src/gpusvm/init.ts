import { SZ_4K, hex, isPowerOfTwo } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import type { Scheduler } from "../base/scheduler.ts";
import type { SvmMm } from "../mm/types.ts";
import { requireOps } from "../pagemap/require-ops.ts";
import type { GpuSvmCompat } from "./compat.ts";
import type { GpuSvmDevice, GpuSvmOps } from "./ops.ts";
import type { GpuSvmRange } from "./range.ts";

/** Arguments of `new GpuSvm`. @kernel drm_gpusvm_init */
export interface GpuSvmInit<R extends GpuSvmRange = GpuSvmRange> {
  /** For messages. */
  readonly name: string;
  /** The device whose pages the ranges carry; null where the driver keeps all pages objects itself. */
  readonly drm: GpuSvmDevice | null;
  /** The address space to mirror; null for pages-only use (userptr), which takes none of the four below. */
  readonly mm: SvmMm | null;
  /** The mirror window, bytes. */
  readonly mmStart?: number;
  readonly mmRange?: number;
  /** Size and alignment of a notifier's window, bytes: a power of two, 512 MiB recommended. */
  readonly notifierSize?: number;
  /** Range sizes, bytes: powers of two, descending, the last 4096. */
  readonly chunkSizes?: readonly number[];
  readonly ops?: GpuSvmOps<R>;
  /** Owner of the device pages that every call may use where they are, unless its ctx names one; default none. */
  readonly devicePrivatePageOwner?: unknown;
  readonly scheduler: Scheduler;
  /** Replays a kernel version bug for bug. */
  readonly compat?: GpuSvmCompat;
}

/** Entries of the operations table that may be absent. */
const OPTIONAL_OPS = ["notifierAlloc", "notifierFree", "rangeAlloc", "rangeFree"] as const;

/** Rejects arguments that cannot work, naming the one that is wrong. The kernel returns -EINVAL, or trusts. */
export function checkInit<R extends GpuSvmRange>(init: GpuSvmInit<R>, trustSizes: boolean): void {
  const { chunkSizes = [], notifierSize = 0, mmStart = 0, mmRange = 0 } = init;
  if (init.drm !== null) requireOps("gpusvm.drm", init.drm, ["dmaMapPage", "dmaUnmapPage"]);
  if (init.mm === null) {
    if (init.ops !== undefined) throw new ConfigError("gpusvm.ops", "must be absent without an mm");
    if (chunkSizes.length > 0) throw new ConfigError("gpusvm.chunkSizes", "must be absent without an mm");
    if (mmRange !== 0) throw new ConfigError("gpusvm.mmRange", "must be absent without an mm");
    if (notifierSize !== 0) throw new ConfigError("gpusvm.notifierSize", "must be absent without an mm");
    return;
  }
  requireOps("gpusvm.ops", init.ops, ["invalidate"]);
  for (const name of OPTIONAL_OPS) if (init.ops?.[name] !== undefined) requireOps("gpusvm.ops", init.ops, [name]);
  if (chunkSizes.length === 0) throw new ConfigError("gpusvm.chunkSizes", "must not be empty");
  if (trustSizes) return;
  checkChunkSizes(chunkSizes);
  if (!isPowerOfTwo(notifierSize)) {
    throw new ConfigError("gpusvm.notifierSize", `must be a power of two, not ${hex(notifierSize)}`);
  }
  if (notifierSize < chunkSizes[0]) {
    throw new ConfigError(
      "gpusvm.notifierSize",
      `must not be below the largest chunk size ${hex(chunkSizes[0])}, is ${hex(notifierSize)}`,
    );
  }
  if (!Number.isSafeInteger(mmStart) || mmStart < 0) {
    throw new ConfigError("gpusvm.mmStart", `must be an address below 2^53, not ${hex(mmStart)}`);
  }
  // Ends are computed as last + 1 and up to the end of a notifier: all of it must be exact.
  if (!Number.isSafeInteger(mmStart + mmRange + notifierSize) || mmRange <= 0) {
    throw new ConfigError("gpusvm.mmRange", `must be above 0 and end below 2^53, is ${hex(mmRange)}`);
  }
}

function checkChunkSizes(chunkSizes: readonly number[]): void {
  chunkSizes.forEach((size, i) => {
    const path = `gpusvm.chunkSizes[${i}]`;
    if (!isPowerOfTwo(size) || size < SZ_4K) {
      throw new ConfigError(path, `must be a power of two of at least 4096, not ${hex(size)}`);
    }
    if (i > 0 && size >= chunkSizes[i - 1]) {
      throw new ConfigError(path, `must be below the size before it, ${hex(chunkSizes[i - 1])}, is ${hex(size)}`);
    }
  });
  const last = chunkSizes.length - 1;
  if (chunkSizes[last] !== SZ_4K) {
    throw new ConfigError(`gpusvm.chunkSizes[${last}]`, `the last must be 4096, is ${hex(chunkSizes[last])}`);
  }
}
