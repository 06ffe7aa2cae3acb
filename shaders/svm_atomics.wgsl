// Atomics on locations, for kernels with KernelSource.atomics. A location below 1024 lies in the zero page: the access was
// to a NULL page or missed. Its operand is made neutral, so that the page stays zero and the old word is 0.

fn svm_is_null(location: u32) -> bool { return location < 1024u; }

fn svm_atomic_add(location: u32, value: u32) -> u32 {
  return bank_atomic_add(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_sub(location: u32, value: u32) -> u32 {
  return bank_atomic_sub(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_min(location: u32, value: u32) -> u32 { return bank_atomic_min(location, value); }
fn svm_atomic_max(location: u32, value: u32) -> u32 {
  return bank_atomic_max(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_and(location: u32, value: u32) -> u32 { return bank_atomic_and(location, value); }
fn svm_atomic_or(location: u32, value: u32) -> u32 {
  return bank_atomic_or(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_xor(location: u32, value: u32) -> u32 {
  return bank_atomic_xor(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_exchange(location: u32, value: u32) -> u32 {
  return bank_atomic_exchange(location, select(value, 0u, svm_is_null(location)));
}
fn svm_atomic_compare_exchange(location: u32, expected: u32, value: u32) -> vec2u {
  let stored = select(value, 0u, svm_is_null(location));
  return bank_atomic_compare_exchange(location, expected, stored);
}
