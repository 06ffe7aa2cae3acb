// The batch translator (spec/device.md 3.1): one invocation per request, job.x requests. `batch` finishes nearly all; behind
// it `batch_rest` looks for what it left, with job.y invocations, and does it in full, faults included.
override WORKGROUP: u32 = 64;

@group(1) @binding(0) var<uniform> job: vec4u;
@group(1) @binding(1) var<storage, read> requests: array<Request>;
@group(1) @binding(2) var<storage, read_write> results: array<Result>;

// Status of a result that is still to come.
const STATUS_LEFT = 4u;

@compute @workgroup_size(WORKGROUP)
fn batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * WORKGROUP + lane;
  if (i >= job.x) { return; }
  let va = vec2u(requests[i].va_lo, requests[i].va_hi);
  let asid = requests[i].asid;
  let s = straight_translate(asid, va, requests[i].flags & 3u);
  let t = s.translation;
  results[i] = Result(select(STATUS_LEFT, t.status, s.done), t.pa.x, t.pa.y, t.info);
  if (USE_TLB) {
    if (s.done && s.from_walk) { tlb_log(va, asid, s.generation, s.leaf, s.c, s.base); }
  }
}

@compute @workgroup_size(WORKGROUP)
fn batch_rest(@builtin(global_invocation_id) id: vec3u) {
  var i = id.x;
  loop {
    // A tight loop for the search, as in tlb.wgsl.
    while (i < job.x && results[i].status != STATUS_LEFT) { i += job.y; }
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
  if (fault_is_first(va, r.asid, access, prefetch)) { fault_write(f); }
}
