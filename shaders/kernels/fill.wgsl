// Fills the bytes [start, start + length) with arg 4 (a byte in all four bytes of the word). One item per page touched.
// Arguments: 0, 1 start; 2 length, bytes; 3 unused; 4 pattern.
fn kernel(item: u32) {
  let start = arg64(0u);
  let length = arg(2u);
  let pattern = arg(4u);
  let head = start.x & 4095u;
  // Byte offsets of this item's piece, relative to the first touched page.
  let lo = max(head, item * 4096u);
  let hi = min(head + length, (item + 1u) * 4096u);
  let page = addr_add(vec2u(start.x - head, start.y), item * 4096u);
  let at = svm_write(page);
  if (svm_missed()) { return; }
  let base = item * 4096u;
  let first = (lo - base) >> 2u;
  let last = (hi - base - 1u) >> 2u;
  let head_mask = 0xffffffffu << (((lo - base) & 3u) * 8u);
  let tail_mask = 0xffffffffu >> ((3u - ((hi - base - 1u) & 3u)) * 8u);
  let first_mask = select(head_mask, head_mask & tail_mask, first == last);
  if (first_mask != 0xffffffffu) {
    svm_store(at + first, (svm_load(at + first) & ~first_mask) | (pattern & first_mask));
  } else {
    svm_store(at + first, pattern);
  }
  for (var w = first + 1u; w < last; w++) { svm_store(at + w, pattern); }
  if (last > first) {
    svm_store(at + last, (svm_load(at + last) & ~tail_mask) | (pattern & tail_mask));
  }
}
