/**
 * What the kernel's versions do differently from what is right, one switch each. Absent `compat` is right everywhere;
 * a version's name brings back that version bug for bug, so that behaviour recorded from it can be replayed.
 */
export type GpuSvmCompat = "6.15" | "6.18" | "7.0";

export interface Quirks {
  /** Chunk and notifier sizes are taken as they are. */
  readonly trustSizes: boolean;
  /** A fault at exactly the end of the mirror window is accepted. */
  readonly acceptEndAddress: boolean;
  /** The mirror window does not bound the chunk. */
  readonly unboundedChunk: boolean;
  /** The notifier look-up of a fault also finds one that begins a byte later. */
  readonly notifierFindByteFar: boolean;
  /** VM_IO and VM_PFNMAP areas are refused only by the page look-up. */
  readonly acceptSpecialVma: boolean;
  /** An entry takes the order of the whole CPU mapping, even beyond the range. */
  readonly rawOrder: boolean;
  /** DMA is bidirectional even for a ctx that only reads. */
  readonly alwaysBidirectional: boolean;
  /** Which entries a `getPages` that fails midway undoes. */
  readonly undo: "all" | "system" | "none";
  /** A device page without write permission is accepted for a GPU that writes. */
  readonly acceptReadOnlyDevicePage: boolean;
  /** With `allowMixed`, a device page is refused unless page 0 was one. */
  readonly deviceBehindSystemRefused: boolean;
  /** The retry rounds of `getPages` have no deadline of their own. */
  readonly unboundedRetry: boolean;
}

const RIGHT: Quirks = {
  trustSizes: false,
  acceptEndAddress: false,
  unboundedChunk: false,
  notifierFindByteFar: false,
  acceptSpecialVma: false,
  rawOrder: false,
  alwaysBidirectional: false,
  undo: "all",
  acceptReadOnlyDevicePage: false,
  deviceBehindSystemRefused: false,
  unboundedRetry: false,
};

const V618: Quirks = {
  ...RIGHT,
  trustSizes: true,
  acceptEndAddress: true,
  unboundedChunk: true,
  acceptSpecialVma: true,
  undo: "system",
  acceptReadOnlyDevicePage: true,
  deviceBehindSystemRefused: true,
  unboundedRetry: true,
};

const BY_VERSION: Readonly<Record<GpuSvmCompat, Quirks>> = {
  "6.15": { ...V618, notifierFindByteFar: true, rawOrder: true, alwaysBidirectional: true, undo: "none" },
  "6.18": V618,
  "7.0": { ...V618, undo: "none", unboundedRetry: false },
};

export function quirksOf(compat: GpuSvmCompat | undefined): Quirks {
  return compat === undefined ? RIGHT : BY_VERSION[compat];
}
