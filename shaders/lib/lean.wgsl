// The lean translation (spec/device.md 3.8): straight-line, no TLB, no records. Conditions are joined with & and |, because
// && and || are branches: with them, a loop with three translations took a software adapter more than 20 s to compile. It answers "done" exactly where the full
// algorithm gives status 0 to 2, with the same address; it does not say why not. A level whose entry is no valid
// directory yields table 0, whose page is all zero, so the chain ends not present by itself. About 30 ns on a software
// adapter, where every branch costs as much as both of its sides.

// Page-table levels of the launch's address space; a pipeline variant each.
override SVM_LEVELS: u32 = 4;

struct Lean {
  // Word index over all banks (bank_load and friends); 0 unless done.
  location: u32,
  done: bool,
}

// PA of the child table, or 0. `shape` are the low bits of which only P may be set.
fn lean_directory(entry: vec2u, shape: u32) -> u32 {
  let table = entry.x & 0xfffff000u;
  return select(0u, table, ((entry.x & shape) == PTE_P) & ((entry.y & 0x800fffffu) == 0u) & (table < PT_BYTES));
}

// `root` is 0 where the address space is unusable. `atomic_dm`: PTE_DM when atomics need VRAM, else 0.
fn lean_translate(root: u32, va: vec2u, access: u32, atomic_dm: u32) -> Lean {
  var top = root;
  if (SVM_LEVELS == 5u) {
    top = lean_directory(pt_entry((root >> 2u) + 2u * ((va.y >> 16u) & 511u)), MBZ_DIRECTORY_UP | PTE_P);
  }
  let e3 = pt_entry((top >> 2u) + 2u * ((va.y >> 7u) & 511u));
  let t2 = lean_directory(e3, MBZ_DIRECTORY_UP | PTE_P);
  let e2 = pt_entry((t2 >> 2u) + 2u * (((va.x >> 30u) | (va.y << 2u)) & 511u));
  let t1 = lean_directory(e2, MBZ_DIRECTORY_2 | PTE_PS | PTE_P);
  let e1 = pt_entry((t1 >> 2u) + 2u * ((va.x >> 21u) & 511u));
  let t0 = lean_directory(e1, MBZ_DIRECTORY_1 | PTE_PS | PTE_P);
  let compact = (e1.x & PTE_COMPACT) != 0u;
  let e0 = pt_entry((t0 >> 2u) + 2u * select((va.x >> 12u) & 511u, (va.x >> 16u) & 31u, compact));

  // Behind a leaf the chain reads the zero page, so at most one of the three is present as a leaf.
  let is2 = (e2.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let is1 = (e1.x & (PTE_PS | PTE_P)) == (PTE_PS | PTE_P);
  let big = is2 | is1 | compact;
  let entry = select(select(e0, e1, is1), e2, is2);
  let hint = !big & ((entry.x & PTE_PS64) != 0u);
  let mask = select(select(select(0xfffu, 0xffffu, compact | hint), 0x1fffffu, is1), 0x3fffffffu, is2);
  let is_null = (entry.x & PTE_NULL) != 0u;
  let vram = (entry.x & PTE_DM) != 0u;

  let pa_lo = entry.x & 0xfffff000u;
  let pa = vec2u((pa_lo & ~mask) | (va.x & mask), entry.y & 0x3fffu);
  let aligned = (pa_lo & mask) == select(0u, va.x & 0xf000u, hint);
  let inside = addr_pfn(pa) < select(SYSW_PAGES, VRAM_PAGES, vram);
  let shape_ok = ((entry.x & (select(MBZ_LEAF_4K, MBZ_LEAF_BIG, big) | PTE_P)) == PTE_P) & ((entry.y & MBZ_HI) == 0u);
  let va_ok = va.y < select(0x10000u, 0x2000000u, SVM_LEVELS == 5u);
  let atomic_bits = select(PTE_AE | PTE_W | atomic_dm, PTE_W, is_null);
  let need = select(select(0u, PTE_W, access == ACCESS_WRITE), atomic_bits, access == ACCESS_ATOMIC);
  let done = shape_ok & va_ok & (is_null | (aligned & inside)) & ((entry.x & need) == need);

  // NULL: loads and atomics go to the zero page, stores to the sink behind it (spec 1.1).
  let null_word = ((va.x & 0xfffu) >> 2u) + select(0u, 1024u, access == ACCESS_WRITE);
  let word = (pa.y << 30u) | (pa.x >> 2u);
  let location = select(select(word + WINDOW_LOCATION, word, vram), null_word, is_null);
  return Lean(select(0u, location, done), done);
}
