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

// A full log costs 4096 of these: the four ways side by side, only the words that decide.
fn fill_one(set_base: u32, i: u32) {
  let tag = ctl.fill_log[i].tag;
  let va_hi = ctl.fill_log[i].va_hi;
  let asid = ctl.fill_log[i].asid;
  let generation = ctl.fill_log[i].generation;
  if (generation != ctl.asids[asid].generation) { return; }
  let way = vec4u(set_base, set_base + 1u, set_base + 2u, set_base + 3u);
  let tags = vec4u(ctl.tlb[way.x].tag, ctl.tlb[way.y].tag, ctl.tlb[way.z].tag, ctl.tlb[way.w].tag);
  let his = vec4u(ctl.tlb[way.x].va_hi, ctl.tlb[way.y].va_hi, ctl.tlb[way.z].va_hi, ctl.tlb[way.w].va_hi);
  let asids = vec4u(ctl.tlb[way.x].asid, ctl.tlb[way.y].asid, ctl.tlb[way.z].asid, ctl.tlb[way.w].asid);
  let old = vec4u(ctl.tlb[way.x].generation, ctl.tlb[way.y].generation, ctl.tlb[way.z].generation, ctl.tlb[way.w].generation);
  let now = vec4u(generation_of(asids.x), generation_of(asids.y), generation_of(asids.z), generation_of(asids.w));
  let live = ((tags & vec4u(TLB_VALID)) != vec4u(0u)) & (old == now);
  // The same page: overwritten, because this is how a permission upgrade arrives.
  let same = live & ((tags & vec4u(TLB_TAG_MASK)) == vec4u(tag & TLB_TAG_MASK)) & (his == vec4u(va_hi)) & (asids == vec4u(asid));
  let victim = ctl.tlb[set_base].victim;
  let none = !any(same) & all(live);
  // What died with its generation goes for good: two entries with one tag are slow to tell apart (walk_straight.wgsl).
  let dead = !live & ((tags & vec4u(TLB_TAG_MASK)) == vec4u(tag & TLB_TAG_MASK));
  for (var w = 0u; w < TLB_WAYS && any(dead); w++) {
    if (dead[w]) { ctl.tlb[way[w]].tag = 0u; }
  }
  let target_way = select(select(set_base + (victim & (TLB_WAYS - 1u)), first_of(way, !live), !all(live)), first_of(way, same), any(same));
  if (none) { ctl.tlb[set_base].victim = victim + 1u; }
  atomicOr(&ctl.tlb_classes, 1u << ((tag >> TLB_CLASS_POS) & 3u));
  ctl.tlb[target_way].tag = tag;
  ctl.tlb[target_way].va_hi = va_hi;
  ctl.tlb[target_way].asid = asid;
  ctl.tlb[target_way].generation = generation;
  ctl.tlb[target_way].pa_lo = ctl.fill_log[i].pa_lo;
  ctl.tlb[target_way].pa_hi = ctl.fill_log[i].pa_hi;
}

// Entries that were never filled have ASID 0.
fn generation_of(asid: u32) -> u32 { return ctl.asids[min(asid, NASID - 1u)].generation; }

fn first_of(way: vec4u, which: vec4<bool>) -> u32 {
  return select(select(select(way.w, way.z, which.z), way.y, which.y), way.x, which.x);
}

@compute @workgroup_size(1)
fn fill_done() {
  atomicStore(&ctl.fill_count, 0u);
  atomicStore(&ctl.fill_dropped, 0u);
  atomicStore(&ctl.fill_left, 0u);
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
