// Copies length bytes from source to target; the two areas do not overlap. One item per target page touched.
// Arguments: 0, 1 target; 2, 3 source; 4 length, bytes. Any alignment: a target word is put together from two source
// words. All pages are translated before the first store.
fn source_word(at0: u32, at1: u32, word: u32) -> u32 {
  return svm_load(select(at1 + word - 1024u, at0 + word, word < 1024u));
}

fn kernel(item: u32) {
  let to = arg64(0u);
  let head = to.x & 4095u;
  let base = item * 4096u;
  let lo = max(head, base);
  let hi = min(head + arg(4u), base + 4096u);
  let at = svm_write(addr_add(vec2u(to.x - head, to.y), base));
  let source = addr_add(arg64(1u), lo - head);
  let source_offset = source.x & 4095u;
  let page0 = vec2u(source.x - source_offset, source.y);
  let at0 = svm_read(page0);
  var at1 = 0u;
  let second = source_offset + (hi - lo) > 4096u;
  if (second) { at1 = svm_read(addr_add(page0, 4096u)); }
  if (svm_missed()) { return; }
  // Byte `b` of the target page comes from byte `b + shift_bytes` of the source pages; the bias keeps it unsigned.
  let first = (lo - base) >> 2u;
  let last = (hi - base - 1u) >> 2u;
  let head_mask = 0xffffffffu << (((lo - base) & 3u) * 8u);
  let tail_mask = 0xffffffffu >> ((3u - ((hi - base - 1u) & 3u)) * 8u);
  let last_source_word = (source_offset + (hi - lo) - 1u) >> 2u;
  for (var w = first; w <= last; w++) {
    var mask = 0xffffffffu;
    if (w == first) { mask = mask & head_mask; }
    if (w == last) { mask = mask & tail_mask; }
    // Source byte that belongs to byte 0 of target word w, biased by 4 because the first word may begin before it.
    let biased = source_offset + w * 4u + 4u - (lo - base);
    let shift = (biased & 3u) * 8u;
    let word = biased >> 2u;
    var low = 0u;
    var high = 0u;
    if (word >= 1u && word - 1u <= last_source_word) { low = source_word(at0, at1, word - 1u); }
    if (shift != 0u && word <= last_source_word) { high = source_word(at0, at1, word); }
    var value = low >> shift;
    if (shift != 0u) { value = value | (high << (32u - shift)); }
    if (mask == 0xffffffffu) { svm_store(at + w, value); }
    else { svm_store(at + w, (svm_load(at + w) & ~mask) | (value & mask)); }
  }
}
