// Copies the words that contain [start, start + length) to the output. One item per page touched.
// Arguments: 0, 1 start, multiple of 4; 2 length, bytes, multiple of 4.
fn kernel(item: u32) {
  let start = arg64(0u);
  let head = start.x & 4095u;
  let lo = max(head, item * 4096u);
  let hi = min(head + arg(2u), (item + 1u) * 4096u);
  let at = svm_read(addr_add(vec2u(start.x - head, start.y), item * 4096u));
  if (svm_missed()) { return; }
  let source = at + ((lo - item * 4096u) >> 2u);
  let target_word = (lo - head) >> 2u;
  let words = (hi - lo) >> 2u;
  for (var w = 0u; w < words; w++) { svm_out(target_word + w, svm_load(source + w)); }
}
