// In-place transform: word k of the data is XORed with mix32(k + 1); the last partial word bytewise. One item per page.
// Arguments: 0, 1 data, page aligned; 2 unused; 3 unused; 4 bytes of data.
fn kernel(item: u32) {
  let at = svm_write(addr_add(arg64(0u), item * 4096u));
  if (svm_missed()) { return; }
  let bytes = min(4096u, arg(4u) - item * 4096u);
  let words = bytes >> 2u;
  let first = item * 1024u + 1u;
  for (var w = 0u; w < words; w++) { svm_store(at + w, svm_load(at + w) ^ mix32(first + w)); }
  if ((bytes & 3u) != 0u) {
    let mask = 0xffffffffu >> (32u - 8u * (bytes & 3u));
    svm_store(at + words, svm_load(at + words) ^ (mix32(first + words) & mask));
  }
}
