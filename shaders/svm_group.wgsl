// Runs the user's workgroups: design A at the granularity of a workgroup (spec/device.md 5.3).
override SVM_WORKGROUP: u32 = 64;

var<workgroup> svm_group_missed: atomic<u32>;
var<workgroup> svm_group_verdict: u32;
// Number of the workgroup, all ones when there is nothing to do.
var<workgroup> svm_group_number: u32;
var<private> svm_group_lane: u32;

// True for all lanes when any lane has missed so far. Uniform: lane 0 copies the flag between two barriers, because a
// value that was read by atomicLoad is not.
fn svm_vote() -> bool {
  if (svm_live == 0u) { atomicOr(&svm_group_missed, 1u); }
  workgroupBarrier();
  if (svm_group_lane == 0u) { svm_group_verdict = atomicLoad(&svm_group_missed); }
  return workgroupUniformLoad(&svm_group_verdict) != 0u;
}

@compute @workgroup_size(SVM_WORKGROUP)
fn svm_main(@builtin(workgroup_id) svm_id: vec3u, @builtin(num_workgroups) svm_groups: vec3u, @builtin(local_invocation_index) svm_lane: u32) {
  let index = svm_id.y * svm_groups.x + svm_id.x;
  svm_group_lane = svm_lane;
  if (svm_lane == 0u) {
    svm_group_number = 0xffffffffu;
    if (index < svm_launch.count && !svm_gate_closed()) {
      let group = svm_entry(index);
      if (!svm_is_done(group)) { svm_group_number = group; }
    }
  }
  let group = workgroupUniformLoad(&svm_group_number);
  if (group == 0xffffffffu) { return; }
  svm_item = group;
  svm_open_space();
  workgroup_kernel(group, svm_lane);
  storageBarrier();
  if (svm_vote()) {
    if (svm_lane == 0u) { svm_defer(svm_item); }
    svm_report_misses(false);
  } else if (svm_lane == 0u) {
    svm_set_done(svm_item);
  }
}
