// The one translation algorithm: TLB, else the walk (spec/device.md 3.2). Needs pt_entry, ctl.
// USE_TLB false leaves the lookup and the fill out of the pipeline; the results are the same.
override USE_TLB: bool = true;

struct Translation {
  status: u32,
  pa: vec2u,
  info: u32,
}

fn translate_fault(kind: u32, reason: u32, level: u32) -> Translation {
  return Translation(STATUS_FAULT, vec2u(0u), kind | (reason << 4u) | (level << 8u));
}

// Steps (10) and (11): the range check, which a TLB hit repeats because a big leaf may stick out of the memory, then
// permission.
fn translate_leaf(base: vec2u, va: vec2u, leaf: u32, c: u32, level: u32, access: u32) -> Translation {
  let pa = vec2u(base.x | (va.x & class_mask(c)), base.y);
  let is_null = (leaf & TLB_NULL) != 0u;
  let vram = (leaf & TLB_DM) != 0u;
  if (!is_null && !bank_has(pa, vram)) {
    return translate_fault(FAULT_FATAL, FATAL_PHYS_RANGE, level);
  }
  let missing = translate_missing(leaf, access);
  if (missing != 0u) { return translate_fault(missing, 0u, level); }
  let info = c | select(0u, INFO_W, (leaf & TLB_W) != 0u) | select(0u, INFO_AE, (leaf & TLB_AE) != 0u);
  if (is_null) { return Translation(STATUS_NULL, vec2u(0u), info); }
  return Translation(select(STATUS_WINDOW, STATUS_VRAM, vram), pa, info);
}

// The violation that the access would be, or 0. NULL leaves obey W but not AE.
fn translate_missing(leaf: u32, access: u32) -> u32 {
  if (access == ACCESS_READ) { return 0u; }
  if ((leaf & TLB_W) == 0u) { return FAULT_WRITE_VIOLATION; }
  if (access != ACCESS_ATOMIC || (leaf & TLB_NULL) != 0u) { return 0u; }
  let system = (leaf & TLB_DM) == 0u && (ctl.header.flags & CTL_SYSTEM_ATOMICS) == 0u;
  return select(0u, FAULT_ATOMIC_VIOLATION, (leaf & TLB_AE) == 0u || system);
}

fn translate(asid: u32, va: vec2u, access: u32) -> Translation {
  if (asid >= NASID) { return translate_fault(FAULT_FATAL, FATAL_BAD_ASID, LEVEL_NONE); }
  let flags = ctl.asids[asid].flags;
  let levels = (flags >> ASID_LEVELS_POS) & 15u;
  if ((flags & (ASID_VALID | ASID_BANNED)) != ASID_VALID || (levels != 4u && levels != 5u)) {
    return translate_fault(FAULT_FATAL, FATAL_BAD_ASID, LEVEL_NONE);
  }
  if (va.y >= select(0x2000000u, 0x10000u, levels == 4u)) {
    return translate_fault(FAULT_FATAL, FATAL_NONCANONICAL, LEVEL_NONE);
  }
  let generation = ctl.asids[asid].generation;
  let use_tlb = USE_TLB && (ctl.header.flags & CTL_TLB_ENABLED) != 0u;
  if (use_tlb) {
    let hit = tlb_lookup(va, asid, generation);
    if (hit < TLB_ENTRIES && translate_missing(ctl.tlb[hit].tag, access) == 0u) {
      let c = (ctl.tlb[hit].tag >> TLB_CLASS_POS) & 3u;
      let level = select(0u, c - 1u, c >= 2u);
      return translate_leaf(vec2u(ctl.tlb[hit].pa_lo, ctl.tlb[hit].pa_hi), va, ctl.tlb[hit].tag, c, level, access);
    }
  }
  let leaf = walk(vec2u(ctl.asids[asid].root_lo, ctl.asids[asid].root_hi), levels, va);
  if (leaf.fault.status == STATUS_FAULT) { return leaf.fault; }
  let t = translate_leaf(leaf.base, va, leaf.bits, leaf.c, leaf.level, access);
  if (use_tlb && t.status != STATUS_FAULT) { tlb_log(va, asid, generation, leaf.bits, leaf.c, leaf.base); }
  return t;
}

// Appends a fill candidate (3.4).
fn tlb_log(va: vec2u, asid: u32, generation: u32, leaf: u32, c: u32, base: vec2u) {
  let slot = atomicAdd(&ctl.fill_count, 1u);
  if (slot >= FILL_CAP) {
    atomicAdd(&ctl.fill_dropped, 1u);
    return;
  }
  ctl.fill_log[slot] = TlbEntry(tlb_tag(va, c) | leaf, va.y, asid, generation, base.x, base.y, tlb_set_base(va, asid, c), 0u);
}
