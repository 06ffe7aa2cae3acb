// Fault records and their dedup (spec/device.md 3.5, 3.6). Needs faultq.

struct Fault {
  va: vec2u,
  asid: u32,
  access: u32,
  kind: u32,
  level: u32,
  reason: u32,
  prefetch: bool,
  engine: u32,
  work: u32,
}

// True for the first fault of its page, access and ASID in this round; else it is a duplicate, which the caller counts
// (fault_count_duplicates). One exit and no branch in the loop: with them a software adapter took half as long again.
fn fault_is_first(va: vec2u, asid: u32, access: u32, prefetch: bool) -> bool {
  let mixed = mix32((va.x >> 12u) ^ (va.y * 0x9e3779b1u) ^ (asid * 0x85ebca6bu) ^ (access << 30u) ^ select(0u, 1u << 29u, prefetch));
  let key = max(mixed, 1u);
  // Four slots, and two retries for a spurious failure of each. When all are taken by others the fault counts as the first:
  // recording twice is harmless, losing a fault is not.
  var slot = key;
  var retries = 0u;
  var first = true;
  loop {
    let at = atomicCompareExchangeWeak(&faultq.dedup[slot & (DEDUP_SLOTS - 1u)], 0u, key);
    first = at.old_value != key;
    let again = (at.old_value == 0u) & (retries < 2u);
    retries = select(0u, retries + 1u, again);
    slot += select(1u, 0u, again);
    if (at.exchanged | !first | (slot == key + 4u)) { break; }
  }
  return first;
}

fn fault_count_duplicates(count: u32) {
  if (count != 0u) { atomicAdd(&faultq.dedup_hits, count); }
}

fn fault_write(f: Fault) {
  let slot = atomicAdd(&faultq.head, 1u);
  if (slot - faultq.tail >= FQ_CAP) {
    atomicAdd(&faultq.dropped, 1u);
    return;
  }
  let r = slot & (FQ_CAP - 1u);
  faultq.records[r].w[0] = f.level | (((f.engine >> 3u) & 63u) << 19u) | ((f.engine & 7u) << 25u);
  faultq.records[r].w[1] = f.asid << 12u;
  faultq.records[r].w[2] = f.access | (f.kind << 2u) | (f.va.x & 0xfffff000u);
  faultq.records[r].w[3] = f.va.y;
  faultq.records[r].w[4] = (f.va.x & 0xfffu) | (f.reason << 12u) | select(0u, 1u << 16u, f.prefetch);
  faultq.records[r].w[5] = f.work;
  faultq.records[r].w[6] = faultq.epoch;
  faultq.records[r].w[7] = FAULT_STAMP + (faultq.epoch & 255u);
}

fn fault_count_fatal(f: Fault) {
  if (f.kind == FAULT_FATAL && !f.prefetch) { atomicAdd(&faultq.fatal, 1u); }
}
