// The pre-pass of design D (spec/device.md 5.1): translates every page of the launch's buffers, fills the table that svm_at
// reads, and closes the gate in front of the kernel where a page is missing.

@compute @workgroup_size(64)
fn svm_prefault_buffers(@builtin(workgroup_id) svm_group: vec3u, @builtin(num_workgroups) svm_groups: vec3u, @builtin(local_invocation_index) svm_lane: u32) {
  let page = (svm_group.y * svm_groups.x + svm_group.x) * 64u + svm_lane;
  if (page >= svm_launch.buffer_pages) { return; }
  svm_open_space();
  var b = 0u;
  for (var i = 1u; i < svm_launch.buffer_count; i++) { b = select(b, i, page >= svm_launch.buffers[i].z); }
  let buffer = svm_launch.buffers[b];
  let n = page - buffer.z;
  let first = vec2u(buffer.x & 0xfffff000u, buffer.y);
  let va = addr_add(vec2u(first.x, first.y + (n >> 20u)), n << 12u);
  let t = lean_translate(svm_root, va, buffer.w >> BUFFER_ACCESS_POS, svm_atomic_dm);
  atomicStore(&svm_private[svm_launch.table_base + page], select(0u, t.location | 1u, t.done));
  if (t.done) { return; }
  svm_item = page;
  svm_note(true, va, buffer.w >> BUFFER_ACCESS_POS);
  svm_close_gate();
}

fn svm_close_gate() {
  if (svm_launch.prepass == PREPASS_FILL) { return; }
  atomicStore(&svm_private[svm_launch.gate], 1u);
  svm_report_misses(svm_launch.prepass == PREPASS_HINT);
}
