// Runs the user's kernel over items: designs A with E, B and D of spec/device.md 5.
override SVM_DESIGN: u32 = 0;

@compute @workgroup_size(64)
fn svm_main(@builtin(workgroup_id) svm_group: vec3u, @builtin(num_workgroups) svm_groups: vec3u, @builtin(local_invocation_index) svm_lane: u32) {
  let index = (svm_group.y * svm_groups.x + svm_group.x) * 64u + svm_lane;
  if (index >= svm_launch.count || svm_gate_closed()) { return; }
  svm_item = svm_entry(index);
  // Items of a list may have been done in a span meanwhile.
  if (svm_is_done(svm_item)) { return; }
  svm_open_space();
  kernel(svm_item);
  if (svm_live != 0u) {
    // Idempotent items run together until none of them misses; in a span, each is done when it misses nothing.
    if (SVM_DESIGN == DESIGN_ITEM || svm_launch.mode == LAUNCH_SPAN) { svm_set_done(svm_item); }
    return;
  }
  svm_defer(svm_item);
  svm_report_misses(false);
}
