// A kernel that uses pages where they are: inverts every word. The page list is that of page_copy.wgsl, its source
// column unused.

const PAGE_VEC4 = 256u;

@group(0) @binding(1) var<storage, read_write> memory: array<vec4u>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

@compute @workgroup_size(256)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    let at = pages[i].y * PAGE_VEC4 + lane;
    memory[at] = ~memory[at];
  }
}
