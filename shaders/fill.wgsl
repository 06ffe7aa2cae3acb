// Fills pages by a list. A job is {pattern, destination page}; the shapes are those of copy.wgsl.
override PAGE_PER_WORKGROUP: bool = true;
override WORKGROUP: u32 = 256;

@group(0) @binding(0) var<storage, read_write> destination: array<vec4u>;
@group(1) @binding(0) var<storage, read> jobs: array<vec2u>;

const PAGE_VEC4S = 256u;

@compute @workgroup_size(WORKGROUP)
fn fill_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  // Job 0 holds the number of jobs.
  let job = select(index * WORKGROUP + lane, index, PAGE_PER_WORKGROUP) + 1u;
  if (job > jobs[0].x) { return; }
  let page = jobs[job].y;
  if (page >= arrayLength(&destination) / PAGE_VEC4S) { return; }
  let pattern = vec4u(jobs[job].x);
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var v = first; v < PAGE_VEC4S; v += step) { destination[page * PAGE_VEC4S + v] = pattern; }
}
