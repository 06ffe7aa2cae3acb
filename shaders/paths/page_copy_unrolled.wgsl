// page_copy.wgsl with four loads in flight per lane: all are issued before the first value is stored.

const PAGE_VEC4 = 256u;
const LANES = 64u;

@group(0) @binding(0) var<storage, read> source: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> destination: array<vec4u>;
@group(0) @binding(2) var<storage, read> pages: array<vec2u>;

@compute @workgroup_size(64)
fn page_per_workgroup(
  @builtin(workgroup_id) group: vec3u,
  @builtin(num_workgroups) groups: vec3u,
  @builtin(local_invocation_index) lane: u32,
) {
  for (var i = group.x; i < arrayLength(&pages); i += groups.x) {
    let from_page = pages[i].x * PAGE_VEC4 + lane;
    let to_page = pages[i].y * PAGE_VEC4 + lane;
    let a = source[from_page];
    let b = source[from_page + LANES];
    let c = source[from_page + 2u * LANES];
    let d = source[from_page + 3u * LANES];
    destination[to_page] = a;
    destination[to_page + LANES] = b;
    destination[to_page + 2u * LANES] = c;
    destination[to_page + 3u * LANES] = d;
  }
}
