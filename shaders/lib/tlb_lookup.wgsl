// TLB lookup (spec/device.md 3.3). Needs ctl. Translating dispatches only read the TLB.
// Classes 0 4K, 1 64K, 2 2M, 3 1G.

fn class_shift(c: u32) -> u32 { return select(select(12u, 16u, c == 1u), select(21u, 30u, c == 3u), c >= 2u); }
fn class_sets(c: u32) -> u32 { return select(select(256u, 64u, c >= 1u), 16u, c == 3u); }
fn class_base(c: u32) -> u32 { return select(select(0u, 1024u, c == 1u), select(1280u, 1536u, c == 3u), c >= 2u); }
// Bits of an address inside a page of the class.
fn class_mask(c: u32) -> u32 { return (1u << class_shift(c)) - 1u; }

// Index of way 0 of the set.
fn tlb_set_base(va: vec2u, asid: u32, c: u32) -> u32 {
  let sets = class_sets(c);
  let v = addr_shift(va, class_shift(c));
  return class_base(c) + TLB_WAYS * ((v ^ mix32((v / sets) ^ (asid * 0x85ebca6bu))) & (sets - 1u));
}

fn tlb_tag(va: vec2u, c: u32) -> u32 {
  return (va.x & ~class_mask(c)) | TLB_VALID | (c << TLB_CLASS_POS);
}

// The tag's bits that must agree: VA, VALID, class.
const TLB_TAG_MASK = 0xfffff000u | TLB_VALID | (3u << TLB_CLASS_POS);

// Index of the entry that translates va, or TLB_ENTRIES.
fn tlb_lookup(va: vec2u, asid: u32, generation: u32) -> u32 {
  for (var c = 0u; c < 4u; c++) {
    let base = tlb_set_base(va, asid, c);
    let tag = tlb_tag(va, c);
    for (var way = base; way < base + TLB_WAYS; way++) {
      if ((ctl.tlb[way].tag & TLB_TAG_MASK) == tag && ctl.tlb[way].va_hi == va.y && ctl.tlb[way].asid == asid
        && ctl.tlb[way].generation == generation) {
        return way;
      }
    }
  }
  return TLB_ENTRIES;
}
