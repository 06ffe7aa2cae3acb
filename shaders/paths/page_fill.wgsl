// Fills whole 4 KiB pages with zeros; the page list is that of page_copy.wgsl, its source column unused.

const PAGE_VEC4 = 256u;

@group(0) @binding(1) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

@compute @workgroup_size(256)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    destination[pages[i].y * PAGE_VEC4 + lane] = vec4u(0u);
  }
}

@compute @workgroup_size(64)
fn page_per_invocation(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  for (var i = id.x; i < arrayLength(&pages); i += groups.x * 64u) {
    for (var k = 0u; k < PAGE_VEC4; k++) {
      destination[pages[i].y * PAGE_VEC4 + k] = vec4u(0u);
    }
  }
}
