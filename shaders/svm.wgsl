// What a user kernel may use. It defines, for the design that KernelSource.design names (spec/device.md 5.1),
//
//     "item"        fn kernel(item: u32)                        A + E: transactional items, the default
//     "workgroup"   fn workgroup_kernel(group: u32, lane: u32)  A for workgroups: shared memory and barriers
//     "idempotent"  fn kernel(item: u32)                        B: all items run again until a round has no fault
//     "prefault"    fn kernel(item: u32)                        D: runs once, when all pages are there
//
// item. Called once per item, and again in a later round for every item that missed: translate everything first, then ask
// svm_missed() and return if it is true, then load and store. Stop at the first miss of a dependent chain, because an
// address made of missing data is garbage; translate independent addresses all, so that one round serves many pages.
// Items exchange no data but by atomics whose results do not feed addresses. A store whose place depends on an atomic's
// result wants the continuation word (the atomic first, its result and a stage into svm_set_cont, resume behind it), or
// the design "prefault" with its whole area as a buffer of the launch.
// workgroup. The same for a workgroup as a whole, items being workgroups: every lane translates, then all lanes call
// svm_vote() in uniform control flow, and return if it is true; barriers and shared memory before the commit are free,
// each further phase that translates has its own vote. SVM_WORKGROUP lanes. Workgroups do not talk to each other.
// idempotent. Nothing need be asked; loops must end whatever data they meet, because a load that misses gives 0. No word
// is both read and written by the launch, and there are no atomics.
// prefault. Everything is allowed, waiting for other workgroups included (where the adapter can). The pages are named
// beforehand: the buffers of the launch, and what fn prefault(item: u32) touches with svm_read, svm_write, svm_atomic,
// svm_touch. A miss in the kernel itself ends the launch with an error.
//
// Poison: from its first miss on an item loads 0, and its stores and atomics go nowhere, whatever it asks. Later misses
// count as hints: they may make pages resident, but never kill.
//
//     arg(i), arg64(i)          argument word i, 0..31; words 2i, 2i + 1 as (lo, hi)
//     addr_add(va, bytes)       va + bytes
//     svm_read(va)              location of the word at va for loads
//     svm_write(va)             ... for loads and stores
//     svm_atomic(va)            ... for atomics (KernelSource.atomics)
//     svm_at(b, bytes)          ... `bytes` into buffer b of the launch (LaunchOptions.buffers), for the buffer's access:
//                               one load instead of a walk. Past its end it reads zero and drops stores
//     svm_missed()              true once any of them could not translate
//     svm_touch(va, bytes, access)  translates every page of [va, va + bytes) for ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC
//     svm_load(l), svm_store(l, v)  the word at a location
//     svm_in(i), svm_out(i, v)  words of the launch's private input and output
//     svm_cont(), svm_set_cont(v)  the item's continuation word, 0 at first; it survives a miss
//     mix32(x)                  a hash
//     typed loads and stores: svm_typed.wgsl; atomics: svm_atomics.wgsl; page cursors: svm_cursor.wgsl; loops over
//     words that do not pay for every memory bank: src/device/streams.ts
//
// A location is a word index and is good for the following words up to the end of its 4 KiB page; keep it while you stay
// in the page, and never test "same page?" per word: nest loops instead. An address that is no multiple of 4 is rounded
// down. NULL pages read as zero, drop stores, and leave atomics without effect. Names that begin with svm_, bank_, lean_,
// fault_ and the constants of the preamble are taken.

@group(1) @binding(0) var<uniform> svm_launch: LaunchParams;
// Regions of words: done bitmap, two retry lists, continuation words, input, output, gate, buffer table.
@group(1) @binding(1) var<storage, read_write> svm_private: array<atomic<u32>>;

const SVM_MISSES_PER_ITEM = 8u;
// Stores that must go nowhere: the sink page behind the zero page (spec 1.1). No location leads there.
const SVM_SINK = 1024u;

var<private> svm_item: u32;
var<private> svm_root: u32;
var<private> svm_atomic_dm: u32;
// A mask for locations: all ones, and zero from the first miss on.
var<private> svm_live: u32 = 0xffffffffu;
var<private> svm_miss_count: u32;
// VA lo, VA hi, access; the last one is scratch.
var<private> svm_misses: array<vec3u, SVM_MISSES_PER_ITEM + 1u>;
// The first miss of the item, where svm_at made it; access 3 where it did not. Not in the array, whose index costs.
var<private> svm_table_miss: vec3u = vec3u(0u, 0u, 3u);

fn arg(i: u32) -> u32 { return svm_launch.args[(i >> 2u) & 7u][i & 3u]; }
fn arg64(i: u32) -> vec2u { return vec2u(arg(2u * i), arg(2u * i + 1u)); }

// Straight-line: what was no miss is overwritten by the next access. A branch would cost a gather as much as its load.
fn svm_note(missed: bool, va: vec2u, access: u32) {
  svm_misses[min(svm_miss_count, SVM_MISSES_PER_ITEM)] = vec3u(va, access);
  svm_miss_count += select(0u, 1u, missed);
  svm_live = select(svm_live, 0u, missed);
}

fn svm_translate(va: vec2u, access: u32) -> u32 {
  let t = lean_translate(svm_root, va, access, svm_atomic_dm);
  svm_note(!t.done, va, access);
  return t.location;
}

fn svm_read(va: vec2u) -> u32 { return svm_translate(va, ACCESS_READ); }
fn svm_write(va: vec2u) -> u32 { return svm_translate(va, ACCESS_WRITE); }
fn svm_atomic(va: vec2u) -> u32 { return svm_translate(va, ACCESS_ATOMIC); }
fn svm_missed() -> bool { return svm_live == 0u; }

fn svm_at(b: u32, bytes: u32) -> u32 {
  let buffer = svm_launch.buffers[b & 7u];
  let from_page = (buffer.x & 0xfffu) + bytes;
  let page = (from_page >> 12u) | select(0u, 0x100000u, from_page < bytes);
  let inside = (page < (buffer.w & BUFFER_PAGES_MASK)) & (b < svm_launch.buffer_count);
  let access = buffer.w >> BUFFER_ACCESS_POS;
  let entry = atomicLoad(&svm_private[svm_launch.table_base + select(0u, buffer.z + page, inside)]);
  let missed = (entry == 0u) & inside;
  let first = missed & (svm_live != 0u);
  svm_table_miss = select(svm_table_miss, vec3u(addr_add(buffer.xy, bytes), access), first);
  svm_live = select(svm_live, 0u, missed);
  return select(0u, entry & ~1023u, inside) + ((from_page >> 2u) & 1023u);
}

fn svm_touch(va: vec2u, bytes: u32, access: u32) {
  let pages = select(0u, (((va.x & 0xfffu) + bytes - 1u) >> 12u) + 1u, bytes != 0u);
  let first = vec2u(va.x & 0xfffff000u, va.y);
  for (var page = 0u; page < pages; page++) { _ = svm_translate(addr_add(first, page << 12u), access); }
}

// A miss has location 0, and the page of zeros it lies in ends every broken walk: not even a store through a location
// meant for loads may reach it.
fn svm_load(location: u32) -> u32 { return bank_load(location); }
fn svm_store(location: u32, value: u32) { bank_store(svm_reach(location, 1u, SVM_SINK), value); }

// The one check of every store, whatever arithmetic a kernel has done: page tables are never written, and nothing past the
// end of a buffer, which would land in its last word.
fn svm_reach(location: u32, words: u32, nowhere: u32) -> u32 {
  let at = location & svm_live;
  return select(nowhere, at, bank_stores(at, words));
}

fn svm_in(i: u32) -> u32 {
  return select(0u, atomicLoad(&svm_private[svm_launch.in_base + i]), i < svm_launch.in_words);
}
fn svm_out(i: u32, value: u32) {
  if (i < svm_launch.out_words) { atomicStore(&svm_private[svm_launch.out_base + i], value); }
}
fn svm_cont() -> u32 { return atomicLoad(&svm_private[svm_launch.cont_base + svm_item]); }
fn svm_set_cont(value: u32) { atomicStore(&svm_private[svm_launch.cont_base + svm_item], value); }
