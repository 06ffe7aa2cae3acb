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

// True for the first fault of its page, access and ASID in this round; false counts a duplicate.
fn fault_is_first(va: vec2u, asid: u32, access: u32, prefetch: bool) -> bool {
  let mixed = mix32((va.x >> 12u) ^ (va.y * 0x9e3779b1u) ^ (asid * 0x85ebca6bu) ^ (access << 30u) ^ select(0u, 1u << 29u, prefetch));
  let key = max(mixed, 1u);
  // Four slots, and two retries for a spurious failure of each.
  var slot = key;
  var retries = 0u;
  for (var probe = 0u; probe < 4u;) {
    let at = atomicCompareExchangeWeak(&faultq.dedup[slot & (DEDUP_SLOTS - 1u)], 0u, key);
    if (at.exchanged) { return true; }
    if (at.old_value == key) {
      atomicAdd(&faultq.dedup_hits, 1u);
      return false;
    }
    if (at.old_value == 0u && retries < 2u) {
      retries += 1u;
      continue;
    }
    retries = 0u;
    slot += 1u;
    probe += 1u;
  }
  // All slots taken by others: recording twice is harmless, losing a fault is not.
  return true;
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
