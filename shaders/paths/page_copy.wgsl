// Copies whole 4 KiB pages by a list of (source page, destination page), in lanes of 16 bytes.

const PAGE_VEC4 = 256u;

@group(0) @binding(0) var<storage, read> source: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

// A workgroup copies a page, its invocations neighbouring vectors: coalesced accesses on a real GPU.
@compute @workgroup_size(256)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    destination[pages[i].y * PAGE_VEC4 + lane] = source[pages[i].x * PAGE_VEC4 + lane];
  }
}

// An invocation copies a page: the page list is read once per page, which suits an adapter that runs on a CPU.
@compute @workgroup_size(64)
fn page_per_invocation(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < arrayLength(&pages); i += groups.x * 64u) {
    let from_page = pages[i].x * PAGE_VEC4;
    let to_page = pages[i].y * PAGE_VEC4;
    for (var k = 0u; k < PAGE_VEC4; k++) {
      destination[to_page + k] = source[from_page + k];
    }
  }
}
