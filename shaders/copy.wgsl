// Copies by a list (spec/device.md 4.4). Addresses of a list count from the start of the bound buffers.
// Two shapes: one workgroup of 256 per list entry, a vec4 per invocation, for hardware adapters; or one invocation per entry
// that loops over its 256 vec4s, for software adapters, which pay for every workgroup (3.6 us against 1.9 us per page).
// SAME_BUFFER: source and destination are one buffer, which may be bound only once.
override PAGE_PER_WORKGROUP: bool = true;
override SAME_BUFFER: bool = false;
override WORKGROUP: u32 = 256;

@group(0) @binding(0) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(1) var<storage, read> source: array<vec4u>;
// The same bindings for copies that begin or end inside a page.
@group(0) @binding(0) var<storage, read_write> destination_words: array<u32>;
@group(0) @binding(1) var<storage, read> source_words: array<u32>;

// Page lists: {source page, destination page}; entry 0 holds the number of entries behind it.
@group(1) @binding(0) var<storage, read> jobs: array<vec2u>;
// Parts of copy jobs: {source, destination, words, descriptor}, in pages or words; entry 0 as above.
@group(1) @binding(0) var<storage, read> parts: array<vec4u>;
// Per descriptor: parts that are done, verdict (not ours).
@group(1) @binding(1) var<storage, read_write> progress: array<atomic<u32>>;

const PAGE_VEC4S = 256u;

// 1 based: entry 0 is the header.
fn entry_index(group: vec3u, groups: vec3u, lane: u32) -> u32 {
  let index = group.y * groups.x + group.x;
  return select(index * WORKGROUP + lane, index, PAGE_PER_WORKGROUP) + 1u;
}

fn copy_page(from_page: u32, to_page: u32, lane: u32) -> bool {
  let source_pages = select(arrayLength(&source), arrayLength(&destination), SAME_BUFFER) / PAGE_VEC4S;
  if (from_page >= source_pages || to_page >= arrayLength(&destination) / PAGE_VEC4S) { return false; }
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var v = first; v < PAGE_VEC4S; v += step) {
    if (SAME_BUFFER) {
      destination[to_page * PAGE_VEC4S + v] = destination[from_page * PAGE_VEC4S + v];
    } else {
      destination[to_page * PAGE_VEC4S + v] = source[from_page * PAGE_VEC4S + v];
    }
  }
  return true;
}

@compute @workgroup_size(WORKGROUP)
fn copy_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i <= jobs[0].x) { _ = copy_page(jobs[i].x, jobs[i].y, lane); }
}

@compute @workgroup_size(WORKGROUP)
fn job_pages(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i > parts[0].x || !copy_page(parts[i].x, parts[i].y, lane)) { return; }
  if (lane == 0u || !PAGE_PER_WORKGROUP) { atomicAdd(&progress[2u * parts[i].w], 1u); }
}

@compute @workgroup_size(WORKGROUP)
fn job_words(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = entry_index(group, groups, lane);
  if (i > parts[0].x) { return; }
  let part = parts[i];
  let source_end = select(arrayLength(&source_words), arrayLength(&destination_words), SAME_BUFFER);
  if (part.x + part.z > source_end || part.y + part.z > arrayLength(&destination_words)) { return; }
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var w = first; w < part.z; w += step) {
    if (SAME_BUFFER) {
      destination_words[part.y + w] = destination_words[part.x + w];
    } else {
      destination_words[part.y + w] = source_words[part.x + w];
    }
  }
  if (lane == 0u || !PAGE_PER_WORKGROUP) { atomicAdd(&progress[2u * part.w], 1u); }
}
