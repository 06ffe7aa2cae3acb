// PT_WRITE for scattered entries (spec/device.md 4.4): one invocation writes both words of an entry, so that no walk ever
// sees half of one. A job is {entry index in the aperture, lo, hi, 0}.
override WORKGROUP: u32 = 64;

@group(0) @binding(0) var<storage, read_write> entries: array<vec2u>;
@group(1) @binding(0) var<storage, read> jobs: array<vec4u>;

const ENTRIES_PER_PAGE = 512u;

@compute @workgroup_size(WORKGROUP)
fn pte_write(@builtin(global_invocation_id) id: vec3u) {
  // Job 0 holds the number of jobs.
  if (id.x >= jobs[0].x) { return; }
  let job = jobs[id.x + 1u];
  // Pages 0 and 1 are never tables.
  if (job.x < 2u * ENTRIES_PER_PAGE || job.x >= PT_BYTES / 8u) { return; }
  entries[job.x] = job.yz;
}
