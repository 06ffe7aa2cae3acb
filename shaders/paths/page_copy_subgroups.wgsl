// page_copy.wgsl in which one lane of a subgroup reads the page list for all of them. Right for every subgroup size.

enable subgroups;

const PAGE_VEC4 = 256u;

@group(0) @binding(0) var<storage, read> source: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

@compute @workgroup_size(256)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    var pair = vec2u();
    if (subgroupElect()) {
      pair = pages[i];
    }
    pair = subgroupBroadcastFirst(pair);
    destination[pair.y * PAGE_VEC4 + lane] = source[pair.x * PAGE_VEC4 + lane];
  }
}
