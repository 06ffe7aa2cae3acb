// Page cursors: one translation per page, none per word. The outer loop seeks and steps from page to page, the inner loop
// runs over `words` words from `at` without any test:
//
//     var x = svm_cursor(arg64(0u));
//     var y = svm_cursor(arg64(1u));
//     for (var left = arg(4u); left > 0u;) {
//       svm_seek_read(&x);
//       svm_seek_write(&y);
//       let n = min(left, min(x.words, y.words));
//       for (var i = 0u; i < n; i++) { svm_store(y.at + i, svm_load(x.at + i)); }
//       svm_step(&x, n);
//       svm_step(&y, n);
//       left -= n;
//     }
//
// In a transactional item every page is touched first (svm_touch), because nothing may be stored before the last miss; the
// cursors then translate again what cannot miss any more.
struct SvmCursor {
  va: vec2u,
  // Location of the word at va.
  at: u32,
  // Words from there to the end of the page; 0 before the first seek, and at the end of a page.
  words: u32,
}

fn svm_cursor(va: vec2u) -> SvmCursor { return SvmCursor(va, 0u, 0u); }

fn svm_seek(c: ptr<function, SvmCursor>, access: u32) {
  if ((*c).words == 0u) {
    (*c).at = svm_translate((*c).va, access);
    (*c).words = 1024u - (((*c).va.x >> 2u) & 1023u);
  }
}
fn svm_seek_read(c: ptr<function, SvmCursor>) { svm_seek(c, ACCESS_READ); }
fn svm_seek_write(c: ptr<function, SvmCursor>) { svm_seek(c, ACCESS_WRITE); }
fn svm_seek_atomic(c: ptr<function, SvmCursor>) { svm_seek(c, ACCESS_ATOMIC); }

// `words` on, at most to the end of the page.
fn svm_step(c: ptr<function, SvmCursor>, words: u32) {
  let n = min(words, (*c).words);
  (*c).va = addr_add((*c).va, 4u * n);
  (*c).at += n;
  (*c).words -= n;
}
