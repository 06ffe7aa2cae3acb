// The pre-pass of a kernel's own: the user's `prefault` names the addresses of each item.

@compute @workgroup_size(64)
fn svm_prefault_items(@builtin(workgroup_id) svm_group: vec3u, @builtin(num_workgroups) svm_groups: vec3u, @builtin(local_invocation_index) svm_lane: u32) {
  svm_item = (svm_group.y * svm_groups.x + svm_group.x) * 64u + svm_lane;
  if (svm_item >= svm_launch.count) { return; }
  svm_open_space();
  prefault(svm_item);
  if (svm_live == 0u) { svm_close_gate(); }
}
