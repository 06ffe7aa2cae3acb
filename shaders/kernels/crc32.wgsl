// CRC-32 (IEEE 802.3, reflected) of every 4 KiB block. One item per block; the last block may be short.
// Arguments: 0, 1 data, page aligned; 2, 3 results, one word per block; 4 bytes of data.
// Input: four tables of 256 words for four bytes at a time.
fn kernel(item: u32) {
  let at = svm_read(addr_add(arg64(0u), item * 4096u));
  let result = svm_write(addr_add(arg64(1u), item * 4u));
  if (svm_missed()) { return; }
  let bytes = min(4096u, arg(4u) - item * 4096u);
  let words = bytes >> 2u;
  var crc = 0xffffffffu;
  for (var w = 0u; w < words; w++) {
    let v = crc ^ svm_load(at + w);
    crc = svm_in(768u + (v & 255u)) ^ svm_in(512u + ((v >> 8u) & 255u)) ^ svm_in(256u + ((v >> 16u) & 255u)) ^ svm_in(v >> 24u);
  }
  if ((bytes & 3u) != 0u) {
    let tail = svm_load(at + words);
    for (var b = 0u; b < (bytes & 3u); b++) {
      crc = (crc >> 8u) ^ svm_in((crc ^ (tail >> (8u * b))) & 255u);
    }
  }
  svm_store(result, ~crc);
}
