// Stores the input to the bytes [start, start + length). Input words are laid out from the word that contains start.
// One item per page touched. Arguments: 0, 1 start; 2 length, bytes.
fn kernel(item: u32) {
  let start = arg64(0u);
  let head = start.x & 4095u;
  let first_word = head >> 2u;
  let base = item * 4096u;
  let lo = max(head, base);
  let hi = min(head + arg(2u), base + 4096u);
  let at = svm_write(addr_add(vec2u(start.x - head, start.y), base));
  if (svm_missed()) { return; }
  let first = (lo - base) >> 2u;
  let last = (hi - base - 1u) >> 2u;
  let head_mask = 0xffffffffu << (((lo - base) & 3u) * 8u);
  let tail_mask = 0xffffffffu >> ((3u - ((hi - base - 1u) & 3u)) * 8u);
  for (var w = first; w <= last; w++) {
    var mask = 0xffffffffu;
    if (w == first) { mask = mask & head_mask; }
    if (w == last) { mask = mask & tail_mask; }
    let value = svm_in(item * 1024u + w - first_word);
    if (mask == 0xffffffffu) { svm_store(at + w, value); }
    else { svm_store(at + w, (svm_load(at + w) & ~mask) | (value & mask)); }
  }
}
