// The page-table walk, steps (4) to (9) of spec/device.md 3.2. Needs pt_entry(word) -> vec2u.

struct Leaf {
  // status is STATUS_FAULT when there is no leaf.
  fault: Translation,
  // Start of the leaf's page; 0 for NULL.
  base: vec2u,
  // TLB_W, TLB_AE, TLB_NULL, TLB_DM.
  bits: u32,
  c: u32,
  level: u32,
}

fn walk_fault(kind: u32, reason: u32, level: u32) -> Leaf {
  return Leaf(translate_fault(kind, reason, level), vec2u(0u), 0u, 0u, level);
}

fn walk_must_be_zero(level: u32, compact: bool, is_leaf: bool) -> u32 {
  let directory = select(select(MBZ_DIRECTORY_UP, MBZ_DIRECTORY_2, level == 2u), MBZ_DIRECTORY_1, level == 1u);
  return select(directory, select(MBZ_LEAF_BIG, MBZ_LEAF_4K, level == 0u && !compact), is_leaf);
}

fn walk(root: vec2u, levels: u32, va: vec2u) -> Leaf {
  var table = root;
  var level = levels - 1u;
  var compact = false;
  for (var i = 0u; i < 5u; i++) {
    if (table.y != TILE_HI || table.x == 0u || (table.x & 0xfffu) != 0u || table.x >= PT_BYTES) {
      return walk_fault(FAULT_FATAL, FATAL_MALFORMED, level);
    }
    let entry = pt_entry((table.x >> 2u) + 2u * pt_index(va, level, compact));
    if ((entry.x & PTE_P) == 0u) { return walk_fault(FAULT_NOT_PRESENT, (entry.x >> 1u) & 7u, level); }
    let is_leaf = level == 0u || (level <= 2u && (entry.x & PTE_PS) != 0u);
    if ((entry.x & walk_must_be_zero(level, compact, is_leaf)) != 0u || (entry.y & MBZ_HI) != 0u) {
      return walk_fault(FAULT_FATAL, FATAL_MALFORMED, level);
    }
    let address = vec2u(entry.x & 0xfffff000u, entry.y & 0x3fffu);
    if (is_leaf) { return walk_leaf(entry.x, address, level, compact, va); }
    compact = level == 1u && (entry.x & PTE_COMPACT) != 0u;
    table = address;
    level -= 1u;
  }
  return walk_fault(FAULT_FATAL, FATAL_MALFORMED, 0u);
}

fn walk_leaf(entry: u32, address: vec2u, level: u32, compact: bool, va: vec2u) -> Leaf {
  let hint = level == 0u && !compact && (entry & PTE_PS64) != 0u;
  let c = select(level + 1u, select(0u, 1u, compact || hint), level == 0u);
  let mask = class_mask(c);
  let is_null = (entry & PTE_NULL) != 0u;
  // The entry of a 64 KiB hint holds the address of its own 4 KiB page.
  if (!is_null && (address.x & mask) != select(0u, va.x & 0xf000u, hint)) {
    return walk_fault(FAULT_FATAL, FATAL_MALFORMED, level);
  }
  let bits = select(0u, TLB_W, (entry & PTE_W) != 0u)
    | select(0u, TLB_AE, (entry & PTE_AE) != 0u && !is_null)
    | select(0u, TLB_NULL, is_null)
    | select(0u, TLB_DM, (entry & PTE_DM) != 0u);
  let base = select(vec2u(address.x & ~mask, address.y), vec2u(0u), is_null);
  return Leaf(Translation(STATUS_VRAM, vec2u(0u), 0u), base, bits, c, level);
}
