// Fills by a list; shapes and lists are those of copy.wgsl, with the pattern in the place of the source.
override PAGE_PER_WORKGROUP: bool = true;
override WORKGROUP: u32 = 256;

@group(0) @binding(0) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(0) var<storage, read_write> destination_words: array<u32>;
@group(1) @binding(0) var<storage, read> jobs: array<vec2u>;
@group(1) @binding(0) var<storage, read> parts: array<vec4u>;
@group(1) @binding(1) var<storage, read_write> progress: array<atomic<u32>>;

const PAGE_VEC4S = 256u;

fn entry_index(group: vec3u, groups: vec3u, lane: u32) -> u32 {
  let index = group.y * groups.x + group.x;
  return select(index * WORKGROUP + lane, index, PAGE_PER_WORKGROUP) + 1u;
}

fn fill_page(pattern: u32, page: u32, lane: u32) -> bool {
  if (page >= arrayLength(&destination) / PAGE_VEC4S) { return false; }
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var v = first; v < PAGE_VEC4S; v += step) { destination[page * PAGE_VEC4S + v] = vec4u(pattern); }
  return true;
}

@compute @workgroup_size(WORKGROUP)
fn fill_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i <= jobs[0].x) { _ = fill_page(jobs[i].x, jobs[i].y, lane); }
}

@compute @workgroup_size(WORKGROUP)
fn job_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i > parts[0].x || !fill_page(parts[i].x, parts[i].y, lane)) { return; }
  if (lane == 0u || !PAGE_PER_WORKGROUP) { atomicAdd(&progress[2u * parts[i].w], 1u); }
}

@compute @workgroup_size(WORKGROUP)
fn job_words(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i > parts[0].x) { return; }
  let part = parts[i];
  if (part.y + part.z > arrayLength(&destination_words)) { return; }
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var w = first; w < part.z; w += step) { destination_words[part.y + w] = part.x; }
  if (lane == 0u || !PAGE_PER_WORKGROUP) { atomicAdd(&progress[2u * part.w], 1u); }
}
