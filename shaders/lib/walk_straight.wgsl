// The same translation without a branch, for spaces of 4 levels (spec/device.md 3.8): what it can finish is the result of
// translate() to the bit; it does not say why not. A software adapter executes both sides of every branch, and a walk
// that may return at every level cost it six times as much. Conditions are gathered as bits that must be zero.
//
// A read behind an invalid entry goes to some word of the tables and is thrown away.

struct Straight {
  done: bool,
  translation: Translation,
}

struct StraightLeaf {
  // Zero where there is a leaf.
  wrong: u32,
  // TLB_W, TLB_AE, TLB_NULL, TLB_DM.
  bits: u32,
  c: u32,
  base: vec2u,
}

const STRAIGHT_PT_HIGH = ~(PT_BYTES - 1u);
const STRAIGHT_SPACE = ASID_VALID | ASID_BANNED | (15u << ASID_LEVELS_POS);

// Word of the entry at twice an index of the table that a directory entry names.
fn straight_at(directory: u32, index2: u32) -> u32 { return ((directory >> 2u) & 0x3ffffc00u) | index2; }

fn straight_wrong(entry: vec2u, shape: u32) -> u32 {
  return ((entry.x & (shape | PTE_P | STRAIGHT_PT_HIGH)) ^ PTE_P) | ((entry.y & 0x800fffffu) ^ TILE_HI);
}

fn straight_walk(root: u32, va: vec2u) -> StraightLeaf {
  let e3 = pt_entry(straight_at(root, (va.y >> 6u) & 0x3feu));
  let e2 = pt_entry(straight_at(e3.x, ((va.y << 3u) & 0x3f8u) | ((va.x >> 29u) & 6u)));
  let e1 = pt_entry(straight_at(e2.x, (va.x >> 20u) & 0x3feu));
  let compact = (e1.x & PTE_COMPACT) != 0u;
  let e0 = pt_entry(straight_at(e1.x, select((va.x >> 11u) & 0x3feu, (va.x >> 15u) & 0x3eu, compact)));

  let is2 = (e2.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let is1 = (e1.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let down1 = select(straight_wrong(e1, MBZ_DIRECTORY_1 | PTE_PS), 0u, is1);
  let down2 = select(straight_wrong(e2, MBZ_DIRECTORY_2 | PTE_PS) | down1, 0u, is2);
  let small = !(is2 | is1 | compact);
  let entry = select(select(e0, e1, is1), e2, is2);
  let hint = small & ((entry.x & PTE_PS64) != 0u);
  let c = select(select(select(0u, 1u, compact | hint), 2u, is1), 3u, is2);
  let mask = select(select(select(0xfffu, 0xffffu, compact | hint), 0x1fffffu, is1), 0x3fffffffu, is2);
  let is_null = (entry.x & PTE_NULL) != 0u;
  let shape = ((entry.x & (select(MBZ_LEAF_BIG, MBZ_LEAF_4K, small) | PTE_P)) ^ PTE_P) | (entry.y & MBZ_HI);
  let crooked = (entry.x & 0xfffff000u & mask) ^ select(0u, va.x & 0xf000u, hint);

  let wrong = straight_wrong(e3, MBZ_DIRECTORY_UP) | down2 | shape | select(crooked, 0u, is_null);
  let bits = (entry.x & PTE_W)
    | select(0u, TLB_AE, (entry.x & (PTE_AE | PTE_NULL)) == PTE_AE)
    | select(0u, TLB_NULL, is_null)
    | select(0u, TLB_DM, (entry.x & PTE_DM) != 0u);
  return StraightLeaf(wrong, bits, c, select(vec2u(entry.x & 0xfffff000u & ~mask, entry.y & 0x3fffu), vec2u(0u), is_null));
}

// The bits of a leaf that the access needs and that it lacks. NULL leaves obey W but not AE.
fn straight_missing(bits: u32, access: u32) -> u32 {
  let system = select(TLB_DM, 0u, (ctl.header.flags & CTL_SYSTEM_ATOMICS) != 0u);
  let atomic_bits = select(TLB_W | TLB_AE | system, TLB_W, (bits & TLB_NULL) != 0u);
  return select(select(0u, TLB_W, access == ACCESS_WRITE), atomic_bits, access == ACCESS_ATOMIC) & ~bits;
}

// The address space of a request, checked as steps (1) and (5) do it.
struct StraightSpace {
  // Zero where a walk may begin.
  wrong: u32,
  root: u32,
  generation: u32,
}

fn straight_space(asid: u32, va: vec2u) -> StraightSpace {
  let space = min(asid, NASID - 1u);
  let root = ctl.asids[space].root_lo;
  let wrong = (asid ^ space) | (va.y & 0xffff0000u) | (root & (STRAIGHT_PT_HIGH | 0xfffu))
    | (ctl.asids[space].root_hi ^ TILE_HI)
    | ((ctl.asids[space].flags & STRAIGHT_SPACE) ^ (ASID_VALID | (4u << ASID_LEVELS_POS)));
  return StraightSpace(wrong, root, ctl.asids[space].generation);
}

// Which classes a pipeline looks for: bit c.
override PROBE_CLASSES: u32 = 0;

// Where an address may be cached: the entry whose tag it has, and how many entries have it.
struct Probe {
  at: u32,
  count: u32,
}

fn straight_look(p: Probe, va: vec2u, asid: u32, c: u32) -> Probe {
  let base = tlb_set_base(va, asid, c);
  let tags = vec4u(ctl.tlb[base].tag, ctl.tlb[base + 1u].tag, ctl.tlb[base + 2u].tag, ctl.tlb[base + 3u].tag);
  let same = select(vec4u(0u), vec4u(1u), (tags & vec4u(TLB_TAG_MASK)) == vec4u(tlb_tag(va, c)));
  let ways = same.x + same.y + same.z + same.w;
  return Probe(select(p.at, base + same.y + 2u * same.z + 3u * same.w, ways != 0u), p.count + ways);
}

// The TLB's answer, whose `wrong` is not zero where it has none that serves the access, and PROBE_UNCLEAR where two entries
// have the tag: an entry is found by its tag alone, and only then looked at. A loop over the classes instead of a pipeline
// for each set of them made a hit cost twice as much as a walk.
const PROBE_UNCLEAR = 0x80000000u;
fn straight_probe(asid: u32, va: vec2u, access: u32, generation: u32) -> StraightLeaf {
  var p = Probe(0u, 0u);
  if ((PROBE_CLASSES & 1u) != 0u) { p = straight_look(p, va, asid, 0u); }
  if ((PROBE_CLASSES & 2u) != 0u) { p = straight_look(p, va, asid, 1u); }
  if ((PROBE_CLASSES & 4u) != 0u) { p = straight_look(p, va, asid, 2u); }
  if ((PROBE_CLASSES & 8u) != 0u) { p = straight_look(p, va, asid, 3u); }
  let at = min(p.at, TLB_ENTRIES - 1u);
  let tag = ctl.tlb[at].tag;
  let other = (ctl.tlb[at].va_hi ^ va.y) | (ctl.tlb[at].asid ^ asid) | (ctl.tlb[at].generation ^ generation);
  let miss = select(0u, 1u, (p.count == 0u) | ((other | straight_missing(tag, access)) != 0u));
  let wrong = select(miss, PROBE_UNCLEAR, p.count > 1u);
  return StraightLeaf(wrong, tag, (tag >> TLB_CLASS_POS) & 3u, vec2u(ctl.tlb[at].pa_lo, ctl.tlb[at].pa_hi));
}

// What a leaf makes of the access, if `wrong` is zero. `done`: this is the result.
fn straight_finish(wrong: u32, leaf: StraightLeaf, va: vec2u, access: u32) -> Straight {
  let is_null = (leaf.bits & TLB_NULL) != 0u;
  let vram = (leaf.bits & TLB_DM) != 0u;
  let pa = vec2u(leaf.base.x | (va.x & class_mask(leaf.c)), leaf.base.y);
  let done = ((wrong | leaf.wrong | straight_missing(leaf.bits, access)) == 0u) & (is_null | bank_has(pa, vram));
  let status = select(select(STATUS_WINDOW, STATUS_VRAM, vram), STATUS_NULL, is_null);
  let info = leaf.c | ((leaf.bits & (TLB_W | TLB_AE)) << 1u);
  return Straight(done, Translation(status, select(pa, vec2u(0u), is_null), info));
}
