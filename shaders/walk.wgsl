// The batch translator (spec/device.md 3.1): one invocation per request, job.x requests. With a TLB `batch_probe` looks there,
// and `batch_walk` walks for those that it has left; without one `batch` walks for all. What no straight line can finish,
// faults included, `batch_rest` does in full.
//
// The passes behind the first find the requests that are left to them by their results, with job.y invocations: few,
// because a software adapter pays for each. Where nothing is left they end at once.
override WORKGROUP: u32 = 64;

@group(1) @binding(0) var<uniform> job: vec4u;
@group(1) @binding(1) var<storage, read> requests: array<Request>;
@group(1) @binding(2) var<storage, read_write> results: array<Result>;

// Status of a result that is still to come; and of one that batch_rest has to find in any case.
const STATUS_LEFT = 4u;
const STATUS_UNCLEAR = 5u;
// Bits of ctl.fill_left: what the passes behind have to do.
const LEFT_TO_WALK = 1u;
const LEFT_TO_REST = 2u;

fn request_of(group: vec3u, groups: vec3u, lane: u32) -> u32 {
  return (group.y * groups.x + group.x) * WORKGROUP + lane;
}

fn put_result(i: u32, s: Straight) {
  let t = s.translation;
  results[i] = Result(select(STATUS_LEFT, t.status, s.done), t.pa.x, t.pa.y, t.info);
}

@compute @workgroup_size(WORKGROUP)
fn batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = request_of(group, groups, lane);
  if (i >= job.x) { return; }
  let va = vec2u(requests[i].va_lo, requests[i].va_hi);
  let space = straight_space(requests[i].asid, va);
  let s = straight_finish(space.wrong, straight_walk(space.root, va), va, requests[i].flags & 3u);
  put_result(i, s);
  if (!s.done) { atomicStore(&ctl.fill_left, LEFT_TO_REST); }
}

@compute @workgroup_size(WORKGROUP)
fn batch_probe(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = request_of(group, groups, lane);
  if (i >= job.x) { return; }
  let va = vec2u(requests[i].va_lo, requests[i].va_hi);
  let asid = requests[i].asid;
  let access = requests[i].flags & 3u;
  let space = straight_space(asid, va);
  let found = straight_probe(asid, va, access, space.generation);
  let s = straight_finish(space.wrong, found, va, access);
  put_result(i, s);
  if (!s.done) { atomicOr(&ctl.fill_left, LEFT_TO_WALK); }
  if (found.wrong == PROBE_UNCLEAR) {
    results[i].status = STATUS_UNCLEAR;
    atomicOr(&ctl.fill_left, LEFT_TO_REST);
  }
}

@compute @workgroup_size(WORKGROUP)
fn batch_walk(@builtin(global_invocation_id) id: vec3u) {
  if (atomicLoad(&ctl.fill_left) == 0u) { return; }
  var i = id.x;
  var misses = 0u;
  var dropped = 0u;
  loop {
    // A tight loop for the search, as in tlb.wgsl.
    while (i < job.x && results[i].status != STATUS_LEFT) { i += job.y; }
    if (i >= job.x) { break; }
    dropped += walk_one(i);
    misses += 1u;
    i += job.y;
  }
  // Once per invocation: a counter that all add to for each request costs as much as a walk.
  if (misses != 0u) { atomicAdd(&ctl.tlb_misses, misses); }
  if (dropped != 0u) { atomicAdd(&ctl.fill_dropped, dropped); }
}

// 1 when the fill log has no room for it.
fn walk_one(i: u32) -> u32 {
  let va = vec2u(requests[i].va_lo, requests[i].va_hi);
  let asid = requests[i].asid;
  let space = straight_space(asid, va);
  let leaf = straight_walk(space.root, va);
  let s = straight_finish(space.wrong, leaf, va, requests[i].flags & 3u);
  put_result(i, s);
  if (!s.done) {
    atomicOr(&ctl.fill_left, LEFT_TO_REST);
    return 0u;
  }
  if (atomicLoad(&ctl.fill_count) >= FILL_CAP) { return 1u; }
  tlb_log(va, asid, space.generation, leaf.bits, leaf.c, leaf.base);
  return 0u;
}

@compute @workgroup_size(WORKGROUP)
fn batch_rest(@builtin(global_invocation_id) id: vec3u) {
  if ((atomicLoad(&ctl.fill_left) & LEFT_TO_REST) == 0u) { return; }
  var i = id.x;
  loop {
    while (i < job.x && results[i].status < STATUS_LEFT) { i += job.y; }
    if (i >= job.x) { break; }
    translate_one(i);
    i += job.y;
  }
}

fn translate_one(i: u32) {
  let r = requests[i];
  let va = vec2u(r.va_lo, r.va_hi);
  let access = r.flags & 3u;
  let t = translate(r.asid, va, access);
  results[i] = Result(t.status, t.pa.x, t.pa.y, t.info);
  if (t.status != STATUS_FAULT || (r.flags & REQUEST_NO_RECORD) != 0u) { return; }
  let prefetch = (r.flags & REQUEST_PREFETCH) != 0u;
  let f = Fault(va, r.asid, access, t.info & 15u, (t.info >> 8u) & 7u, (t.info >> 4u) & 15u, prefetch, r.engine, r.work);
  fault_count_fatal(f);
  if (fault_is_first(va, r.asid, access, prefetch)) { fault_write(f); } else { fault_count_duplicates(1u); }
}
