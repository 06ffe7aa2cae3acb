// Why an access faults: the info of a translation that fails (spec/device.md 3.1), as translate() gives it without the TLB,
// or NO_FAULT. A walk of 5 levels at most, whose steps do not branch: a software adapter executes both sides of every branch,
// and translate(), which may return at each step, took it three times as long. Needs pt_entry, ctl.
const NO_FAULT = 0xffffffffu;
// The walk goes on; it has found a leaf.
const WALK_ON = 0xfffffffeu;
const WALK_LEAF = 0xfffffffdu;

fn fatal_info(reason: u32, level: u32) -> u32 { return FAULT_FATAL | (reason << 4u) | (level << 8u); }

// Steps (1) and (2): whether a walk may begin.
fn classify_start(asid: u32, flags: u32, levels: u32, va: vec2u) -> u32 {
  let usable = (asid < NASID) & ((flags & (ASID_VALID | ASID_BANNED)) == ASID_VALID) & ((levels == 4u) | (levels == 5u));
  let canonical = va.y < select(0x2000000u, 0x10000u, levels == 4u);
  let noncanonical = fatal_info(FATAL_NONCANONICAL, LEVEL_NONE);
  return select(fatal_info(FATAL_BAD_ASID, LEVEL_NONE), select(noncanonical, WALK_ON, canonical), usable);
}

// Steps (4) to (11). The order of the conditions is their precedence: the last one that holds counts.
fn classify(asid: u32, va: vec2u, access: u32) -> u32 {
  let space = min(asid, NASID - 1u);
  let flags = ctl.asids[space].flags;
  let levels = (flags >> ASID_LEVELS_POS) & 15u;
  var table = vec2u(ctl.asids[space].root_lo, ctl.asids[space].root_hi);
  var result = classify_start(asid, flags, levels, va);
  var level = min(levels, 5u) - 1u;
  var entry = vec2u(0u);
  var compact = false;
  for (var i = 0u; (i < 5u) & (result == WALK_ON); i++) {
    let in_tables = (table.y == TILE_HI) & (table.x != 0u) & ((table.x & 0xfffu) == 0u) & (table.x < PT_BYTES);
    entry = pt_entry(select(0u, (table.x >> 2u) + 2u * pt_index(va, level, compact), in_tables));
    let is_leaf = (level == 0u) | ((level <= 2u) & ((entry.x & PTE_PS) != 0u));
    let directory = select(select(MBZ_DIRECTORY_UP, MBZ_DIRECTORY_2, level == 2u), MBZ_DIRECTORY_1, level == 1u);
    let zero = select(directory, select(MBZ_LEAF_BIG, MBZ_LEAF_4K, (level == 0u) & !compact), is_leaf);
    result = select(WALK_ON, WALK_LEAF, is_leaf);
    let shaped = ((entry.x & zero) | (entry.y & MBZ_HI)) == 0u;
    result = select(fatal_info(FATAL_MALFORMED, level), result, shaped);
    result = select(FAULT_NOT_PRESENT | (((entry.x >> 1u) & 7u) << 4u) | (level << 8u), result, (entry.x & PTE_P) != 0u);
    result = select(fatal_info(FATAL_MALFORMED, level), result, in_tables);
    let on = result == WALK_ON;
    compact = select(compact, (level == 1u) & ((entry.x & PTE_COMPACT) != 0u), on);
    table = vec2u(entry.x & 0xfffff000u, entry.y & 0x3fffu);
    level -= select(0u, 1u, on);
  }
  return select(result, classify_leaf(entry, level, compact, va, access), result == WALK_LEAF);
}

// Steps (9) to (11).
fn classify_leaf(entry: vec2u, level: u32, compact: bool, va: vec2u, access: u32) -> u32 {
  let hint = (level == 0u) & !compact & ((entry.x & PTE_PS64) != 0u);
  let mask = class_mask(select(level + 1u, select(0u, 1u, compact | hint), level == 0u));
  let is_null = (entry.x & PTE_NULL) != 0u;
  let vram = (entry.x & PTE_DM) != 0u;
  let address = entry.x & 0xfffff000u;
  let crooked = !is_null & ((address & mask) != select(0u, va.x & 0xf000u, hint));
  let outside = !is_null & !bank_has(vec2u((address & ~mask) | (va.x & mask), entry.y & 0x3fffu), vram);
  let system = !vram & ((ctl.header.flags & CTL_SYSTEM_ATOMICS) == 0u);
  let no_atomics = (access == ACCESS_ATOMIC) & !is_null & (((entry.x & PTE_AE) == 0u) | system);
  let no_stores = (access != ACCESS_READ) & ((entry.x & PTE_W) == 0u);
  var result = select(NO_FAULT, FAULT_ATOMIC_VIOLATION | (level << 8u), no_atomics);
  result = select(result, FAULT_WRITE_VIOLATION | (level << 8u), no_stores);
  result = select(result, fatal_info(FATAL_PHYS_RANGE, level), outside);
  return select(result, fatal_info(FATAL_MALFORMED, level), crooked);
}
