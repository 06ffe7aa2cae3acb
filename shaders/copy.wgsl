// Copies pages by a list (spec/device.md 4.4). A job is {source page, destination page}, in pages of the bound buffers.
// Two shapes: one workgroup of 256 per page, a vec4 per invocation, for hardware adapters; or one invocation per page
// that loops over its 256 vec4s, for software adapters, which pay for every workgroup (3.6 us against 1.9 us per page).
// SAME_BUFFER: source and destination are one buffer, which may be bound only once.
override PAGE_PER_WORKGROUP: bool = true;
override SAME_BUFFER: bool = false;
override WORKGROUP: u32 = 256;

@group(0) @binding(0) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;
@group(1) @binding(0) var<storage, read> jobs: array<vec2u>;

const PAGE_VEC4S = 256u;

@compute @workgroup_size(WORKGROUP)
fn copy_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  // Job 0 holds the number of jobs.
  let job = select(index * WORKGROUP + lane, index, PAGE_PER_WORKGROUP) + 1u;
  if (job > jobs[0].x) { return; }
  let from_page = jobs[job].x;
  let to_page = jobs[job].y;
  let source_pages = select(arrayLength(&source), arrayLength(&destination), SAME_BUFFER) / PAGE_VEC4S;
  if (from_page >= source_pages || to_page >= arrayLength(&destination) / PAGE_VEC4S) { return; }
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var v = first; v < PAGE_VEC4S; v += step) {
    if (SAME_BUFFER) {
      destination[to_page * PAGE_VEC4S + v] = destination[from_page * PAGE_VEC4S + v];
    } else {
      destination[to_page * PAGE_VEC4S + v] = source[from_page * PAGE_VEC4S + v];
    }
  }
}
