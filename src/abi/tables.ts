import { FAULT_RECORD_WORDS } from "./fault.ts";
import { arrayOf, at, struct } from "./layout.ts";
import type { StructType } from "./layout.ts";
import { INVAL_CAP, TLB_ENTRIES } from "./tlb.ts";

/** The tables of the device that TypeScript and WGSL both touch: `ctl` and `faultq` (spec/device.md 0.3, 3.5). */
export const NASID = 256;
export const FILL_CAP = 4096;
export const CTL_MAGIC = 0x5356_4d31;
export const CTL_VERSION = 1;
/** Bits of `CtlHeader.flags`. */
export const CTL_TLB_ENABLED = 1;
export const CTL_SYSTEM_ATOMICS = 2;
/** Bits of `AsidEntry.flags`; the number of levels, 4 or 5, is in bits 7:4. */
export const ASID_LEVELS_POS = 4;

export const CtlHeader = struct(
  "CtlHeader",
  {
    magic: "u32",
    version: "u32",
    epoch: "u32",
    nseg: "u32",
    seg_shift: "u32",
    pt_bytes: "u32",
    tlb_seq_recv: "u32",
    error_latch: "u32",
    sysw_bytes: "u32",
    tile: "u32",
    flags: "u32",
    tile_bytes_lo: "u32",
    tile_bytes_hi: "u32",
  },
  256,
);

export const EngineEntry = struct("EngineEntry", {
  seqno_done: "u32",
  err_code: "u32",
  err_desc: "u32",
  reserved: "u32",
});

export const AsidEntry = struct(
  "AsidEntry",
  { flags: "u32", root_lo: "u32", root_hi: "u32", generation: "u32", fault_count: "u32" },
  32,
);

/** A TLB entry, and a fill log entry: the entry to be, with `set_base` naming way 0 of its set. */
export const TlbEntry = struct("TlbEntry", {
  tag: "u32",
  va_hi: "u32",
  asid: "u32",
  generation: "u32",
  pa_lo: "u32",
  pa_hi: "u32",
  set_base: "u32",
  victim: "u32",
});

export const InvalRequest = struct("InvalRequest", {
  asid: "u32",
  start_lo: "u32",
  start_hi: "u32",
  last_lo: "u32",
  last_hi: "u32",
  seqno: "u32",
  flags: "u32",
  reserved: "u32",
});

export const Ctl = struct(
  "Ctl",
  {
    header: CtlHeader,
    engines: at(64 * 4, arrayOf(EngineEntry, 16)),
    asids: at(128 * 4, arrayOf(AsidEntry, NASID)),
    tlb: at(4096 * 4, arrayOf(TlbEntry, TLB_ENTRIES)),
    fill_count: at(20480 * 4, "atomic<u32>"),
    fill_dropped: "atomic<u32>",
    /** What the passes of the batch translator leave to the next (walk.wgsl). */
    fill_left: "atomic<u32>",
    fill_log: at(20484 * 4, arrayOf(TlbEntry, FILL_CAP)),
    inval_count: at(65536 * 4, "u32"),
    inval_queue: at(65540 * 4, arrayOf(InvalRequest, INVAL_CAP)),
    /** Statistics. Bit c: class c has been filled. */
    tlb_classes: at(70000 * 4, "atomic<u32>"),
    /** Requests that looked into the TLB in vain; free-running. */
    tlb_misses: "atomic<u32>",
  },
  1 << 20,
);

/** Request of the batch translator: `flags` has the access in bits 1:0, then PREFETCH and NO_RECORD. */
export const Request = struct("Request", {
  asid: "u32",
  va_lo: "u32",
  va_hi: "u32",
  flags: "u32",
  engine: "u32",
  work: "u32",
  reserved0: "u32",
  reserved1: "u32",
});
export const REQUEST_PREFETCH = 1 << 4;
export const REQUEST_NO_RECORD = 1 << 5;

/** `status` 0 VRAM, 1 system window, 2 NULL, 3 fault; `info` as in spec/device.md 3.1. */
export const Result = struct("Result", { status: "u32", pa_lo: "u32", pa_hi: "u32", info: "u32" });
export const STATUS_VRAM = 0;
export const STATUS_WINDOW = 1;
export const STATUS_NULL = 2;
export const STATUS_FAULT = 3;
export const INFO_W = 1 << 2;
export const INFO_AE = 1 << 3;

/** A failing access of an item: what the lean translation could not do. `asid_access`: access at bit 20, MISS_HINT. */
export const Miss = struct("Miss", { va_lo: "u32", va_hi: "u32", asid_access: "u32", work: "u32" });

export const MISS_HINT = 1 << 22;

export const FaultRecord = struct("FaultRecord", { w: arrayOf("u32", FAULT_RECORD_WORDS) });

/** Words of the header of the fault queue. */
export const FAULTQ_HEADER_WORDS = 16;

/** The fault queue for a capacity (records, power of two). Misses fit as many as records: each becomes at most one. */
export function faultQueueType(
  capacity: number,
  dedupSlots: number,
): StructType<keyof typeof HEADER | "dedup" | "records" | "misses"> {
  return struct("FaultQueue", {
    ...HEADER,
    dedup: at(FAULTQ_HEADER_WORDS * 4, arrayOf("atomic<u32>", dedupSlots)),
    records: arrayOf(FaultRecord, capacity),
    misses: arrayOf(Miss, capacity),
  });
}

const HEADER = {
  head: "atomic<u32>",
  tail: "u32",
  cap: "u32",
  dropped: "atomic<u32>",
  dedup_hits: "atomic<u32>",
  epoch: "u32",
  remaining: "atomic<u32>",
  fatal: "atomic<u32>",
  next_x: "u32",
  next_y: "u32",
  next_z: "u32",
  miss_head: "atomic<u32>",
  next_items: "u32",
} as const;

/** Word offsets in the header of the fault queue. */
export const FAULTQ_WORD = struct("FaultQueueHeader", HEADER).word;

/**
 * Parameters of one round of a launch, the uniform of user kernels. The bases are word offsets in the launch's private
 * buffer.
 */
export const LaunchParams = struct("LaunchParams", {
  count: "u32",
  /** 0: item = index. 1: item comes from the retry list at list_in. 2: item = first_item + index. */
  mode: "u32",
  first_item: "u32",
  asid: "u32",
  epoch: "u32",
  done_base: "u32",
  list_in: "u32",
  list_out: "u32",
  cont_base: "u32",
  in_base: "u32",
  out_base: "u32",
  in_words: "u32",
  out_words: "u32",
  /** Items that a retry list has room for. */
  list_cap: "u32",
  /** Word that a pre-pass sets to keep the kernel from running. */
  gate: "u32",
  /** One word per page of the buffers: location of its first word | 1, or 0. */
  table_base: "u32",
  args: at(64, arrayOf("vec4u", 8)),
  /** VA lo, VA hi, first word in the table, pages | access << BUFFER_ACCESS_POS. */
  buffers: at(192, arrayOf("vec4u", 8)),
  buffer_count: "u32",
  buffer_pages: "u32",
  /** What the pre-passes of this round do: PREPASS_*. */
  prepass: "u32",
});
export const MAX_BUFFERS = 8;
export const BUFFER_ACCESS_POS = 30;
/** No gate: the table is filled, nothing is reported. */
export const PREPASS_FILL = 0;
/** Missing pages close the gate and are reported: as hints, or as faults. */
export const PREPASS_HINT = 1;
export const PREPASS_FAULT = 2;
/** SVM_DESIGN of kernels that run by items. */
export const DESIGN_ITEM = 0;
export const DESIGN_IDEMPOTENT = 1;
export const DESIGN_PREFAULT = 2;
export const LAUNCH_ALL = 0;
export const LAUNCH_LIST = 1;
export const LAUNCH_SPAN = 2;
export const MAX_ARGS = 32;
