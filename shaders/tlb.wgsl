// The TLB's own engine: fill, invalidation, and the stores that follow them (spec/device.md 3.4, 3.7).
override WORKGROUP: u32 = 64;

// One invocation per set scans the fill log in order and writes its own set only.
@compute @workgroup_size(WORKGROUP)
fn fill(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= TLB_TOTAL_SETS) { return; }
  let set_base = id.x * TLB_WAYS;
  let count = min(atomicLoad(&ctl.fill_count), FILL_CAP);
  var i = 0u;
  loop {
    // A tight loop that only looks for the next entry of the own set: a software adapter runs the whole body of a loop
    // for every iteration of any lane (61 ms for a full log with the work inside, 5 ms so).
    while (i < count && ctl.fill_log[min(i, FILL_CAP - 1u)].set_base != set_base) { i += 1u; }
    if (i >= count) { break; }
    fill_one(set_base, i);
    i += 1u;
  }
}

fn fill_one(set_base: u32, i: u32) {
  let entry = ctl.fill_log[i];
  if (entry.generation != ctl.asids[entry.asid].generation) { return; }
  var target_way = TLB_ENTRIES;
  var free_way = TLB_ENTRIES;
  for (var way = set_base; way < set_base + TLB_WAYS; way++) {
    let old = ctl.tlb[way];
    let live = (old.tag & TLB_VALID) != 0u && old.generation == ctl.asids[old.asid].generation;
    if (!live) {
      free_way = min(free_way, way);
    } else if ((old.tag & TLB_TAG_MASK) == (entry.tag & TLB_TAG_MASK) && old.va_hi == entry.va_hi && old.asid == entry.asid) {
      // The same page: overwritten, because this is how a permission upgrade arrives.
      target_way = way;
    }
  }
  if (target_way == TLB_ENTRIES) { target_way = free_way; }
  if (target_way == TLB_ENTRIES) {
    let victim = ctl.tlb[set_base].victim;
    target_way = set_base + (victim & (TLB_WAYS - 1u));
    ctl.tlb[set_base].victim = victim + 1u;
  }
  ctl.tlb[target_way].tag = entry.tag;
  ctl.tlb[target_way].va_hi = entry.va_hi;
  ctl.tlb[target_way].asid = entry.asid;
  ctl.tlb[target_way].generation = entry.generation;
  ctl.tlb[target_way].pa_lo = entry.pa_lo;
  ctl.tlb[target_way].pa_hi = entry.pa_hi;
}

@compute @workgroup_size(1)
fn fill_done() {
  atomicStore(&ctl.fill_count, 0u);
  atomicStore(&ctl.fill_dropped, 0u);
}

// One invocation per entry, against all queued requests.
@compute @workgroup_size(WORKGROUP)
fn invalidate(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= TLB_ENTRIES) { return; }
  let tag = ctl.tlb[id.x].tag;
  let first = vec2u(tag & 0xfffff000u, ctl.tlb[id.x].va_hi);
  let last = vec2u(first.x | class_mask((tag >> TLB_CLASS_POS) & 3u), first.y);
  var hit = false;
  for (var i = 0u; i < min(ctl.inval_count, INVAL_CAP); i++) {
    let r = ctl.inval_queue[i];
    let overlap = !addr_below(last, vec2u(r.start_lo, r.start_hi)) && !addr_below(vec2u(r.last_lo, r.last_hi), first);
    hit = hit || (r.flags & INVAL_ALL) != 0u || (ctl.tlb[id.x].asid == r.asid && overlap);
  }
  if (hit) { ctl.tlb[id.x].tag = tag & ~TLB_VALID; }
}

fn addr_below(a: vec2u, b: vec2u) -> bool { return a.y < b.y || (a.y == b.y && a.x < b.x); }

@compute @workgroup_size(1)
fn invalidate_done() {
  if (ctl.inval_count != 0u) { ctl.header.tlb_seq_recv = ctl.inval_queue[min(ctl.inval_count, INVAL_CAP) - 1u].seqno; }
  ctl.inval_count = 0u;
}
