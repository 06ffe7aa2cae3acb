// What a user kernel may use. It defines
//
//     fn kernel(item: u32)
//
// and is called once per item, and again in a later round for every item that missed. Rules of a transactional item
// (spec/device.md 5.2): translate everything first, then ask svm_missed() and return if it is true, then load and store.
// Stop at the first miss of a dependent chain, because an address made of missing data is garbage; translate independent
// addresses all, so that one round serves as many pages as possible.
//
//     arg(i)                    argument word i, 0..31
//     arg64(i)                  argument words 2i, 2i + 1 as (lo, hi)
//     addr_add(va, bytes)       va + bytes
//     svm_read(va)              location of the word at va for loads
//     svm_write(va)             ... for loads and stores
//     svm_atomic(va)            ... for atomics (KernelSource.atomics)
//     svm_missed()              true once any of the three could not translate
//     svm_load(l)               the word at a location; svm_load4(l) four words
//     svm_store(l, v)
//     svm_atomic_add(l, v) and sub, min, max, and, or, xor, exchange: the old word
//     svm_atomic_compare_exchange(l, expected, v): (old word, 1 if exchanged)
//     svm_in(i), svm_out(i, v)  words of the launch's private input and output
//     svm_cont(), svm_set_cont(v)  the item's continuation word, 0 at first; it survives a miss
//     mix32(x)                  a hash
//
// A location is a word index and is good for the following words up to the end of its 4 KiB page; keep it while you stay
// in the page, and never test "same page?" per word: nest loops instead. An address that is no multiple of 4 is rounded
// down. NULL pages read as zero, drop stores, and leave atomics without effect. Names that begin with svm_, bank_, lean_,
// fault_ and the constants of the preamble are taken.

@group(1) @binding(0) var<uniform> svm_launch: LaunchParams;
// Regions of words: done bitmap, two retry lists, continuation words, input, output.
@group(1) @binding(1) var<storage, read_write> svm_private: array<atomic<u32>>;

const SVM_MISSES_PER_ITEM = 8u;
// Stores that must go nowhere: the sink page behind the zero page.
const SVM_SINK = 1024u;

var<private> svm_item: u32;
var<private> svm_root: u32;
var<private> svm_atomic_dm: u32;
var<private> svm_miss_count: u32;
// VA lo, VA hi, access.
var<private> svm_misses: array<vec3u, SVM_MISSES_PER_ITEM>;

fn arg(i: u32) -> u32 { return svm_launch.args[(i >> 2u) & 7u][i & 3u]; }
fn arg64(i: u32) -> vec2u { return vec2u(arg(2u * i), arg(2u * i + 1u)); }

fn svm_translate(va: vec2u, access: u32) -> u32 {
  let t = lean_translate(svm_root, va, access, svm_atomic_dm);
  if (!t.done) {
    if (svm_miss_count < SVM_MISSES_PER_ITEM) { svm_misses[svm_miss_count] = vec3u(va, access); }
    svm_miss_count += 1u;
  }
  // After a miss nothing may be stored, so later stores of the item are led to the sink.
  return select(t.location, SVM_SINK, access == ACCESS_WRITE && svm_miss_count != 0u);
}

fn svm_read(va: vec2u) -> u32 { return svm_translate(va, ACCESS_READ); }
fn svm_write(va: vec2u) -> u32 { return svm_translate(va, ACCESS_WRITE); }
fn svm_atomic(va: vec2u) -> u32 {
  let location = svm_translate(va, ACCESS_ATOMIC);
  return select(location, 0u, svm_miss_count != 0u);
}
fn svm_missed() -> bool { return svm_miss_count != 0u; }

fn svm_load(location: u32) -> u32 { return bank_load(location); }
// The zero page ends every broken walk, so not even a store through a location meant for loads may reach it.
fn svm_store(location: u32, value: u32) { bank_store(max(location, SVM_SINK), value); }
fn svm_load4(location: u32) -> vec4u {
  return vec4u(bank_load(location), bank_load(location + 1u), bank_load(location + 2u), bank_load(location + 3u));
}

fn svm_in(i: u32) -> u32 {
  return select(0u, atomicLoad(&svm_private[svm_launch.in_base + i]), i < svm_launch.in_words);
}
fn svm_out(i: u32, value: u32) {
  if (i < svm_launch.out_words) { atomicStore(&svm_private[svm_launch.out_base + i], value); }
}
fn svm_cont() -> u32 { return atomicLoad(&svm_private[svm_launch.cont_base + svm_item]); }
fn svm_set_cont(value: u32) { atomicStore(&svm_private[svm_launch.cont_base + svm_item], value); }
