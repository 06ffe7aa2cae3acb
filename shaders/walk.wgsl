// The batch translator (spec/device.md 3.1): one invocation per request. job.x requests.
override WORKGROUP: u32 = 64;

@group(1) @binding(0) var<uniform> job: vec4u;
@group(1) @binding(1) var<storage, read> requests: array<Request>;
@group(1) @binding(2) var<storage, read_write> results: array<Result>;

@compute @workgroup_size(WORKGROUP)
fn batch(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * WORKGROUP + lane;
  if (i >= job.x) { return; }
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
