// The lean translation (spec/device.md 3.8): straight-line, no TLB, no records. It answers "done" exactly where the full
// algorithm gives status 0 to 2, with the same address; it does not say why not. Conditions are gathered as bits that must
// be zero: what is read behind an invalid entry is some word of the tables' buffer, and is thrown away. A software adapter
// executes both sides of every branch, and && and || are branches: with them, a loop with three translations took it more
// than 20 s to compile.

// Page-table levels of the launch's address space; a pipeline variant each.
override SVM_LEVELS: u32 = 4;

struct Lean {
  // Word index over all banks (bank_load and friends); 0 unless done.
  location: u32,
  done: bool,
}

// Word of the entry at twice an index of the table that a directory entry names.
fn lean_at(directory: u32, twice: u32) -> u32 { return ((directory >> 2u) & 0x3ffffc00u) | twice; }

// Zero for a directory entry of a table in this tile. `shape` are the low bits that must be zero.
fn lean_wrong(entry: vec2u, shape: u32) -> u32 {
  return ((entry.x & (shape | PTE_P | ~(PT_BYTES - 1u))) ^ PTE_P) | ((entry.y & 0x800fffffu) ^ TILE_HI);
}

// `root` is 0 where the address space is unusable. `atomic_dm`: PTE_DM when atomics need VRAM, else 0.
fn lean_translate(root: u32, va: vec2u, access: u32, atomic_dm: u32) -> Lean {
  var top = root;
  var wrong = va.y & ~select(0xffffu, 0x1ffffffu, SVM_LEVELS == 5u);
  if (SVM_LEVELS == 5u) {
    let e4 = pt_entry(lean_at(root, (va.y >> 15u) & 0x3feu));
    wrong |= lean_wrong(e4, MBZ_DIRECTORY_UP);
    top = e4.x;
  }
  let e3 = pt_entry(lean_at(top, (va.y >> 6u) & 0x3feu));
  let e2 = pt_entry(lean_at(e3.x, ((va.y << 3u) & 0x3f8u) | ((va.x >> 29u) & 6u)));
  let e1 = pt_entry(lean_at(e2.x, (va.x >> 20u) & 0x3feu));
  let compact = (e1.x & PTE_COMPACT) != 0u;
  let e0 = pt_entry(lean_at(e1.x, select((va.x >> 11u) & 0x3feu, (va.x >> 15u) & 0x3eu, compact)));

  let is2 = (e2.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let is1 = (e1.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let big = is2 | is1 | compact;
  let down1 = select(lean_wrong(e1, MBZ_DIRECTORY_1 | PTE_PS), 0u, is1);
  let down2 = select(lean_wrong(e2, MBZ_DIRECTORY_2 | PTE_PS) | down1, 0u, is2);
  let entry = select(select(e0, e1, is1), e2, is2);
  let hint = !big & ((entry.x & PTE_PS64) != 0u);
  let mask = select(select(select(0xfffu, 0xffffu, compact | hint), 0x1fffffu, is1), 0x3fffffffu, is2);
  let is_null = (entry.x & PTE_NULL) != 0u;
  let vram = (entry.x & PTE_DM) != 0u;

  let pa_lo = entry.x & 0xfffff000u;
  let pa = vec2u((pa_lo & ~mask) | (va.x & mask), entry.y & 0x3fffu);
  let crooked = (pa_lo & mask) ^ select(0u, va.x & 0xf000u, hint);
  let shape = ((entry.x & (select(MBZ_LEAF_4K, MBZ_LEAF_BIG, big) | PTE_P)) ^ PTE_P) | (entry.y & MBZ_HI);
  let atomic_bits = select(PTE_AE | PTE_W | atomic_dm, PTE_W, is_null);
  let need = select(select(0u, PTE_W, access == ACCESS_WRITE), atomic_bits, access == ACCESS_ATOMIC);
  wrong |= lean_wrong(e3, MBZ_DIRECTORY_UP) | down2 | shape | (need & ~entry.x);
  let done = (wrong == 0u) & (is_null | ((crooked == 0u) & bank_has(pa, vram)));

  // NULL: the zero page, for stores too, which do not reach it (svm_reach): what is stored and loaded again is zero.
  let null_word = (va.x & 0xfffu) >> 2u;
  let in_window = (pa.x >> 2u) + WINDOW_LOCATION;
  let location = select(select(in_window, bank_location(pa), vram), null_word, is_null);
  return Lean(select(0u, location, done), done);
}
