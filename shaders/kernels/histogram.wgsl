// 256-bin byte histogram. One item per 16 KiB: it counts privately and commits with one atomic add per bin, so that an
// item that faulted has changed nothing.
// Arguments: 0, 1 data, page aligned; 2, 3 bins (256 words in one page); 4 bytes of data.
const PAGES_PER_ITEM = 4u;

fn kernel(item: u32) {
  let data = arg64(0u);
  let length = arg(4u);
  let start = item * PAGES_PER_ITEM * 4096u;
  let pages = min(PAGES_PER_ITEM, (length - start + 4095u) / 4096u);
  var at: array<u32, 4>;
  for (var p = 0u; p < pages; p++) { at[p] = svm_read(addr_add(data, start + p * 4096u)); }
  let bins = svm_atomic(arg64(1u));
  if (svm_missed()) { return; }

  var count: array<u32, 256>;
  for (var p = 0u; p < pages; p++) {
    let page = at[p];
    let bytes = min(4096u, length - start - p * 4096u);
    let words = bytes >> 2u;
    for (var w = 0u; w < words; w++) {
      let v = svm_load(page + w);
      count[v & 255u] += 1u;
      count[(v >> 8u) & 255u] += 1u;
      count[(v >> 16u) & 255u] += 1u;
      count[v >> 24u] += 1u;
    }
    if ((bytes & 3u) != 0u) {
      let v = svm_load(page + words);
      for (var b = 0u; b < (bytes & 3u); b++) { count[(v >> (8u * b)) & 255u] += 1u; }
    }
  }
  for (var bin = 0u; bin < 256u; bin++) {
    if (count[bin] != 0u) { svm_atomic_add(bins + bin, count[bin]); }
  }
}
