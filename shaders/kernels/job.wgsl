// Scenario jobs: single words, one lane in order (arg 1 = 0) or one lane per operation (arg 1 = 1).
// Input: 4 words per operation {kind, va lo, va hi, value}. Output: one old value per operation.
// In order, the continuation word is the next operation, so that an operation before a fault is never repeated.
const JOB_LOAD = 0u;
const JOB_STORE = 1u;
const JOB_ADD = 2u;

fn kernel(item: u32) {
  let parallel = arg(1u) == 1u;
  let end = select(arg(0u), item + 1u, parallel);
  for (var i = select(svm_cont(), item, parallel); i < end; i++) {
    let kind = svm_in(4u * i);
    let va = vec2u(svm_in(4u * i + 1u), svm_in(4u * i + 2u));
    let value = svm_in(4u * i + 3u);
    var old = 0u;
    if (kind == JOB_LOAD) {
      let at = svm_read(va);
      if (svm_missed()) { svm_set_cont(i); return; }
      old = svm_load(at);
    } else if (kind == JOB_STORE) {
      let at = svm_write(va);
      if (svm_missed()) { svm_set_cont(i); return; }
      svm_store(at, value);
    } else {
      let at = svm_atomic(va);
      if (svm_missed()) { svm_set_cont(i); return; }
      old = svm_atomic_add(at, value);
    }
    svm_out(i, old);
  }
}
