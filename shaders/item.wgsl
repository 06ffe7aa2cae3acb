// Runs the user's kernel over transactional items: designs A and E of spec/device.md 5.

@compute @workgroup_size(64)
fn svm_main(@builtin(workgroup_id) svm_group: vec3u, @builtin(num_workgroups) svm_groups: vec3u, @builtin(local_invocation_index) svm_lane: u32) {
  let index = (svm_group.y * svm_groups.x + svm_group.x) * 64u + svm_lane;
  if (index >= svm_launch.count) { return; }
  svm_item = index;
  if (svm_launch.mode == LAUNCH_LIST) { svm_item = atomicLoad(&svm_private[svm_launch.list_in + index]); }
  if (svm_launch.mode == LAUNCH_SERIAL) { svm_item = svm_launch.serial_item; }
  let done_word = svm_launch.done_base + (svm_item >> 5u);
  let done_bit = 1u << (svm_item & 31u);
  // Items of a list may have been done one by one in serial mode meanwhile.
  if ((atomicLoad(&svm_private[done_word]) & done_bit) != 0u) { return; }
  svm_open_space();
  kernel(svm_item);
  if (svm_miss_count == 0u) {
    atomicOr(&svm_private[done_word], done_bit);
    return;
  }
  let slot = atomicAdd(&faultq.remaining, 1u);
  atomicStore(&svm_private[svm_launch.list_out + slot], svm_item);
  svm_report_misses();
}

// Steps (1) and (5) of spec 3.2, once per item: a space that is not usable gets root 0, under which nothing is present.
fn svm_open_space() {
  let space = ctl.asids[svm_launch.asid & (NASID - 1u)];
  let usable = svm_launch.asid < NASID && (space.flags & (ASID_VALID | ASID_BANNED)) == ASID_VALID
    && ((space.flags >> ASID_LEVELS_POS) & 15u) == SVM_LEVELS;
  let root_ok = space.root_hi == 0u && (space.root_lo & 0xfffu) == 0u && space.root_lo < PT_BYTES;
  svm_root = select(0u, space.root_lo, usable && root_ok);
  svm_atomic_dm = select(PTE_DM, 0u, (ctl.header.flags & CTL_SYSTEM_ATOMICS) != 0u);
}

// Appends the item's misses that are the first of their page to the miss list; shaders/miss.wgsl makes records of them.
fn svm_report_misses() {
  for (var i = 0u; i < min(svm_miss_count, SVM_MISSES_PER_ITEM); i++) {
    let va = svm_misses[i].xy;
    let access = svm_misses[i].z;
    if (fault_is_first(va, svm_launch.asid, access, false)) {
      let slot = atomicAdd(&faultq.miss_head, 1u);
      if (slot < FQ_CAP) { faultq.misses[slot] = Miss(va.x, va.y, svm_launch.asid | (access << 20u), svm_item); }
    }
  }
}
