import { PAGE_SIZE } from "../base/addr.ts";
import * as fault from "./fault.ts";
import { consts } from "./layout.ts";
import * as pte from "./pte.ts";
import { memoryWgsl, windowLocation } from "./memory-map.ts";
import type { MemoryShape } from "./memory-map.ts";
import * as tables from "./tables.ts";
import * as tiles from "./tiles.ts";
import * as tlb from "./tlb.ts";

/** What the generated text depends on: the shape of one device. */
export interface DeviceShape extends MemoryShape {
  readonly faultQueueCapacity: number;
  readonly dedupSlots: number;
}

/** Constants and structures that precede every shader of the device. `tile`: the one that runs it. */
export function preamble(shape: DeviceShape, tile = 0): string {
  return [
    consts({
      PTE_P: pte.PTE_P,
      PTE_W: pte.PTE_W,
      PTE_COMPACT: pte.PTE_COMPACT,
      PTE_PS: pte.PTE_PS,
      PTE_PS64: pte.PTE_PS64,
      PTE_NULL: pte.PTE_NULL,
      PTE_AE: pte.PTE_AE,
      PTE_DM: pte.PTE_DM,
      MBZ_LEAF_4K: pte.MBZ_LEAF_4K,
      MBZ_LEAF_BIG: pte.MBZ_LEAF_BIG,
      MBZ_DIRECTORY_1: pte.MBZ_DIRECTORY_1,
      MBZ_DIRECTORY_2: pte.MBZ_DIRECTORY_2,
      MBZ_DIRECTORY_UP: pte.MBZ_DIRECTORY_UP,
      MBZ_HI: pte.MBZ_HI,
      TLB_WAYS: tlb.TLB_WAYS,
      TLB_ENTRIES: tlb.TLB_ENTRIES,
      TLB_TOTAL_SETS: tlb.TLB_TOTAL_SETS,
      TLB_VALID: tlb.TLB_VALID,
      TLB_W: tlb.TLB_W,
      TLB_AE: tlb.TLB_AE,
      TLB_NULL: tlb.TLB_NULL,
      TLB_DM: tlb.TLB_DM,
      TLB_CLASS_POS: tlb.TLB_CLASS_POS,
      INVAL_ALL: tlb.INVAL_ALL,
      INVAL_CAP: tlb.INVAL_CAP,
      NASID: tables.NASID,
      ASID_VALID: 1,
      ASID_BANNED: 8,
      ASID_LEVELS_POS: tables.ASID_LEVELS_POS,
      FILL_CAP: tables.FILL_CAP,
      CTL_TLB_ENABLED: tables.CTL_TLB_ENABLED,
      CTL_SYSTEM_ATOMICS: tables.CTL_SYSTEM_ATOMICS,
      FAULT_NOT_PRESENT: fault.FAULT_NOT_PRESENT,
      FAULT_WRITE_VIOLATION: fault.FAULT_WRITE_VIOLATION,
      FAULT_ATOMIC_VIOLATION: fault.FAULT_ATOMIC_VIOLATION,
      FAULT_FATAL: fault.FAULT_FATAL,
      FATAL_BAD_ASID: fault.FATAL_BAD_ASID,
      FATAL_NONCANONICAL: fault.FATAL_NONCANONICAL,
      FATAL_MALFORMED: fault.FATAL_MALFORMED,
      FATAL_PHYS_RANGE: fault.FATAL_PHYS_RANGE,
      FAULT_STAMP: fault.FAULT_STAMP,
      LEVEL_NONE: fault.LEVEL_NONE,
      ENGINE_COMPUTE: fault.ENGINE_COMPUTE,
      ACCESS_READ: fault.ACCESS_READ,
      ACCESS_WRITE: fault.ACCESS_WRITE,
      ACCESS_ATOMIC: fault.ACCESS_ATOMIC,
      REQUEST_PREFETCH: tables.REQUEST_PREFETCH,
      REQUEST_NO_RECORD: tables.REQUEST_NO_RECORD,
      STATUS_VRAM: tables.STATUS_VRAM,
      STATUS_WINDOW: tables.STATUS_WINDOW,
      STATUS_NULL: tables.STATUS_NULL,
      STATUS_FAULT: tables.STATUS_FAULT,
      INFO_W: tables.INFO_W,
      INFO_AE: tables.INFO_AE,
      LAUNCH_ALL: tables.LAUNCH_ALL,
      LAUNCH_LIST: tables.LAUNCH_LIST,
      LAUNCH_SPAN: tables.LAUNCH_SPAN,
      MISS_HINT: tables.MISS_HINT,
      BUFFER_ACCESS_POS: tables.BUFFER_ACCESS_POS,
      BUFFER_PAGES_MASK: 2 ** tables.BUFFER_ACCESS_POS - 1,
      PREPASS_FILL: tables.PREPASS_FILL,
      PREPASS_HINT: tables.PREPASS_HINT,
      PREPASS_FAULT: tables.PREPASS_FAULT,
      DESIGN_ITEM: tables.DESIGN_ITEM,
      PT_BYTES: shape.ptBytes,
      // High word of the PA of a page table: those of other tiles are none.
      TILE_HI: tile * 2 ** tiles.TILE_HI_POS,
      SYSW_PAGES: shape.syswBytes / PAGE_SIZE,
      // A location is a word index over all banks: the segments, then the system window.
      SEG_WORD_SHIFT: shape.segShift - 2,
      SEG_WORD_MASK: 2 ** (shape.segShift - 2) - 1,
      WINDOW_LOCATION: windowLocation(shape),
      FQ_CAP: shape.faultQueueCapacity,
      DEDUP_SLOTS: shape.dedupSlots,
    }),
    tables.CtlHeader.wgsl,
    tables.EngineEntry.wgsl,
    tables.AsidEntry.wgsl,
    tables.TlbEntry.wgsl,
    tables.InvalRequest.wgsl,
    tables.Ctl.wgsl,
    tables.Request.wgsl,
    tables.Result.wgsl,
    tables.Miss.wgsl,
    tables.FaultRecord.wgsl,
    tables.faultQueueType(shape.faultQueueCapacity, shape.dedupSlots).wgsl,
    tables.LaunchParams.wgsl,
    memoryWgsl(shape),
  ].join("");
}
