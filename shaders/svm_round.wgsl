// What the entry points of user kernels share: which item, which address space, what becomes of misses.

// The item at place `index` of this round.
fn svm_entry(index: u32) -> u32 {
  var item = index;
  if (svm_launch.mode == LAUNCH_LIST) { item = atomicLoad(&svm_private[svm_launch.list_in + index]); }
  if (svm_launch.mode == LAUNCH_SPAN) { item = svm_launch.first_item + index; }
  return item;
}

fn svm_is_done(item: u32) -> bool {
  return (atomicLoad(&svm_private[svm_launch.done_base + (item >> 5u)]) & (1u << (item & 31u))) != 0u;
}
fn svm_set_done(item: u32) {
  atomicOr(&svm_private[svm_launch.done_base + (item >> 5u)], 1u << (item & 31u));
}

// The item stays undone. Where the list is full the next round looks at all items.
fn svm_defer(item: u32) {
  let slot = atomicAdd(&faultq.remaining, 1u);
  if (slot < svm_launch.list_cap) { atomicStore(&svm_private[svm_launch.list_out + slot], item); }
}

// A pre-pass in front of this dispatch has found pages missing that the kernel must not run without.
fn svm_gate_closed() -> bool {
  return svm_launch.prepass != 0u && atomicLoad(&svm_private[svm_launch.gate]) != 0u;
}

// Steps (1) and (5) of spec 3.2, once per item: a space that is not usable gets root 0, under which nothing is present.
fn svm_open_space() {
  let space = ctl.asids[svm_launch.asid & (NASID - 1u)];
  let usable = svm_launch.asid < NASID && (space.flags & (ASID_VALID | ASID_BANNED)) == ASID_VALID
    && ((space.flags >> ASID_LEVELS_POS) & 15u) == SVM_LEVELS;
  let root_ok = space.root_hi == TILE_HI && (space.root_lo & 0xfffu) == 0u && space.root_lo < PT_BYTES;
  svm_root = select(0u, space.root_lo, usable && root_ok);
  svm_atomic_dm = select(PTE_DM, 0u, (ctl.header.flags & CTL_SYSTEM_ATOMICS) != 0u);
}

// Appends the misses that are the first of their page to the miss list; shaders/miss.wgsl makes records of them. Behind
// an item's first miss its addresses may be made of missing data, so the others are hints (the poison rule, 5.4). The
// first is that of svm_at, where there is one.
fn svm_report_misses(hints: bool) {
  let in_table = select(0u, 1u, svm_table_miss.z != 3u);
  let count = in_table + min(svm_miss_count, SVM_MISSES_PER_ITEM);
  var duplicates = 0u;
  for (var i = 0u; i < count; i++) {
    let miss = select(svm_misses[max(i, in_table) - in_table], svm_table_miss, i < in_table);
    let hint = hints | (i > 0u);
    if (fault_is_first(miss.xy, svm_launch.asid, miss.z, hint)) { svm_append(miss, hint); } else { duplicates += 1u; }
  }
  fault_count_duplicates(duplicates);
}

fn svm_append(miss: vec3u, hint: bool) {
  let slot = atomicAdd(&faultq.miss_head, 1u);
  if (slot < FQ_CAP) {
    let what = svm_launch.asid | (miss.z << 20u) | select(0u, MISS_HINT, hint);
    faultq.misses[slot] = Miss(miss.x, miss.y, what, svm_item);
  }
}
