// Atomics on locations, for kernels with KernelSource.atomics; each gives the old word.
//
//     svm_atomic_add(l, v) and sub, min, max, and, or, xor, exchange
//     svm_atomic_compare_exchange(l, expected, v): (old word, 1 if exchanged)
//     svm_atomic_add_i32 and sub, exchange: the same on i32
//     svm_atomic_min_i32, svm_atomic_max_i32, svm_atomic_add_f32: see below
//
// The last three are compare-exchange loops with a bound, because nothing promises that a lane ever wins. One that does
// not win leaves its item undone and poisoned, as if it had missed: call it before the item has any other effect, or
// once per stage of the continuation word, and an item takes effect exactly once.
//
// A location below 1024 lies in the zero page: the access was to a NULL page, or missed. Its operand is made neutral, so
// that the page stays zero and the old word is 0.

const SVM_EXCHANGES = 256u;

fn svm_is_null(location: u32) -> bool { return location < 1024u; }

fn svm_atomic_add(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_add(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_sub(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_sub(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_min(location: u32, value: u32) -> u32 { return bank_atomic_min(svm_reach(location, 1u, 0u), value); }
fn svm_atomic_max(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_max(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_and(location: u32, value: u32) -> u32 { return bank_atomic_and(svm_reach(location, 1u, 0u), value); }
fn svm_atomic_or(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_or(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_xor(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_xor(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_exchange(location: u32, value: u32) -> u32 {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_exchange(at, select(value, 0u, svm_is_null(at)));
}
fn svm_atomic_compare_exchange(location: u32, expected: u32, value: u32) -> vec2u {
  let at = svm_reach(location, 1u, 0u);
  return bank_atomic_compare_exchange(at, expected, select(value, 0u, svm_is_null(at)));
}

fn svm_atomic_add_i32(location: u32, value: i32) -> i32 {
  return bitcast<i32>(svm_atomic_add(location, bitcast<u32>(value)));
}
fn svm_atomic_sub_i32(location: u32, value: i32) -> i32 {
  return bitcast<i32>(svm_atomic_sub(location, bitcast<u32>(value)));
}
fn svm_atomic_exchange_i32(location: u32, value: i32) -> i32 {
  return bitcast<i32>(svm_atomic_exchange(location, bitcast<u32>(value)));
}

// Leaves the item undone, to be run again.
fn svm_give_up() { svm_live = 0u; }

fn svm_atomic_min_i32(location: u32, value: i32) -> i32 {
  var old = bitcast<i32>(svm_load(location & svm_live));
  for (var i = 0u; i < SVM_EXCHANGES; i++) {
    let r = svm_atomic_compare_exchange(location, bitcast<u32>(old), bitcast<u32>(min(old, value)));
    if (r.y == 1u) { return old; }
    old = bitcast<i32>(r.x);
  }
  svm_give_up();
  return old;
}
fn svm_atomic_max_i32(location: u32, value: i32) -> i32 {
  var old = bitcast<i32>(svm_load(location & svm_live));
  for (var i = 0u; i < SVM_EXCHANGES; i++) {
    let r = svm_atomic_compare_exchange(location, bitcast<u32>(old), bitcast<u32>(max(old, value)));
    if (r.y == 1u) { return old; }
    old = bitcast<i32>(r.x);
  }
  svm_give_up();
  return old;
}
// The words are compared, not the numbers, so that -0 and NaN do no harm.
fn svm_atomic_add_f32(location: u32, value: f32) -> f32 {
  var old = svm_load(location & svm_live);
  for (var i = 0u; i < SVM_EXCHANGES; i++) {
    let r = svm_atomic_compare_exchange(location, old, bitcast<u32>(bitcast<f32>(old) + value));
    if (r.y == 1u) { return bitcast<f32>(old); }
    old = r.x;
  }
  svm_give_up();
  return bitcast<f32>(old);
}
