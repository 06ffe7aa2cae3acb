// Sum of the words of every page. One item per page.
// Arguments: 0, 1 data, page aligned; 2, 3 results, one word per page.
fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), item * 4096u));
  let result = svm_write(addr_add(arg64(1u), item * 4u));
  if (svm_missed()) { return; }
  var sum = 0u;
  for (var w = 0u; w < 1024u; w++) { sum += svm_load(at + w); }
  svm_store(result, sum);
}
