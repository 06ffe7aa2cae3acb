// Behind a kernel: gives every recorded miss its fault record, and writes what the next round needs (spec/device.md 3.8,
// 3.5). Kernels only tell "done" from "not done"; faults are classified here, in one place. The misses are unique
// already.
override WORKGROUP: u32 = 64;

@compute @workgroup_size(WORKGROUP)
fn miss(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let head = atomicLoad(&faultq.miss_head);
  let count = min(head, FQ_CAP);
  if (id.x == 0u) { finalise(head - count); }
  for (var i = id.x; i < count; i += groups.x * WORKGROUP) {
    let m = faultq.misses[i];
    let asid = m.asid_access & 0xfffffu;
    let access = (m.asid_access >> 20u) & 3u;
    let hint = (m.asid_access & MISS_HINT) != 0u;
    let va = vec2u(m.va_lo, m.va_hi);
    let info = classify(asid, va, access);
    if (info != NO_FAULT) {
      let f = Fault(va, asid, access, info & 15u, (info >> 8u) & 7u, (info >> 4u) & 15u, hint, ENGINE_COMPUTE, m.work);
      fault_count_fatal(f);
      fault_write(f);
    }
  }
}

// Misses that found the list full count as dropped faults. The next round's size goes to words 8..10 and 12.
fn finalise(dropped: u32) {
  if (dropped != 0u) { atomicAdd(&faultq.dropped, dropped); }
  let items = atomicLoad(&faultq.remaining);
  let workgroups = (items + 63u) / 64u;
  faultq.next_x = min(workgroups, 32768u);
  faultq.next_y = (workgroups + 32767u) / 32768u;
  faultq.next_z = 1u;
  faultq.next_items = items;
}
