// page_copy.wgsl in lanes of 4 bytes: what a copy costs that does not use wide loads.

const PAGE_WORDS = 1024u;

@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> destination: array<u32>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

@compute @workgroup_size(256)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    let from_page = pages[i].x * PAGE_WORDS;
    let to_page = pages[i].y * PAGE_WORDS;
    for (var k = lane; k < PAGE_WORDS; k += 256u) {
      destination[to_page + k] = source[from_page + k];
    }
  }
}

@compute @workgroup_size(64)
fn page_per_invocation(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < arrayLength(&pages); i += groups.x * 64u) {
    let from_page = pages[i].x * PAGE_WORDS;
    let to_page = pages[i].y * PAGE_WORDS;
    for (var k = 0u; k < PAGE_WORDS; k++) {
      destination[to_page + k] = source[from_page + k];
    }
  }
}
