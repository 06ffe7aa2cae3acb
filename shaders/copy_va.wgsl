// A copy or fill job with a virtual side (spec/device.md 4.6): its pages are translated by the batch translator, then three
// dispatches look at the answers. The job is cut into pieces of at most a page, none across a page border of either side.
// Needs bank_load, bank_store, slots, work, results.
override PAGE_PER_WORKGROUP: bool = true;
override WORKGROUP: u32 = 256;

// Words of `work`: these, then the pieces, then two bit maps over all pages of memory.
const VA_DONE = 0u;
const VA_VERDICT = 1u;
const VA_PIECES = 2u;
const VA_CHECK_ONLY = 3u;
const VA_MAP_WORDS = 4u;
const VA_FIRST_PIECE = 8u;
const VA_PIECE_WORDS = 8u;

// Kinds of a side: what its first word means. The second is the word inside the page.
const SIDE_LOCATION = 0u;
const SIDE_SLOT = 1u;
const SIDE_RESULT = 2u;
const SIDE_PATTERN = 3u;

const AT_MEMORY = 0u;
const AT_SLOT = 1u;
// NULL pages: loads give 0, stores go nowhere.
const AT_NOTHING = 2u;
const AT_PATTERN = 3u;
const AT_FAULT = 4u;

struct Place {
  at: u32,
  // Location, word of `slots`, or pattern.
  word: u32,
}

struct Piece {
  source: Place,
  destination: Place,
  words: u32,
  // The piece begins a page of the destination, or the job.
  opens_page: bool,
}

fn place_of(kind: u32, first: u32, offset: u32) -> Place {
  if (kind == SIDE_SLOT) { return Place(AT_SLOT, first + offset); }
  if (kind == SIDE_PATTERN) { return Place(AT_PATTERN, first); }
  if (kind == SIDE_LOCATION) { return Place(AT_MEMORY, first + offset); }
  let r = results[first];
  if (r.status == STATUS_FAULT) { return Place(AT_FAULT, 0u); }
  if (r.status == STATUS_NULL) { return Place(AT_NOTHING, 0u); }
  let in_vram = bank_location(vec2u(r.pa_lo, r.pa_hi));
  return Place(AT_MEMORY, offset + select(in_vram, (r.pa_lo >> 2u) + WINDOW_LOCATION, r.status == STATUS_WINDOW));
}

fn piece_at(i: u32) -> Piece {
  let p = VA_FIRST_PIECE + i * VA_PIECE_WORDS;
  let kinds = atomicLoad(&work[p + 5u]);
  return Piece(
    place_of(kinds & 15u, atomicLoad(&work[p]), atomicLoad(&work[p + 1u])),
    place_of((kinds >> 4u) & 15u, atomicLoad(&work[p + 2u]), atomicLoad(&work[p + 3u])),
    atomicLoad(&work[p + 4u]),
    (kinds >> 8u) != 0u,
  );
}

fn map_word(map: u32, location: u32) -> u32 {
  let maps = VA_FIRST_PIECE + atomicLoad(&work[VA_PIECES]) * VA_PIECE_WORDS;
  return maps + map * atomicLoad(&work[VA_MAP_WORDS]) + (location >> 15u);
}

fn map_bit(location: u32) -> u32 { return 1u << ((location >> 10u) & 31u); }

fn is_marked(map: u32, place: Place) -> bool {
  return place.at == AT_MEMORY && (atomicLoad(&work[map_word(map, place.word)]) & map_bit(place.word)) != 0u;
}

// Faults; and which pages are destinations (map 0), of more than one page of the job (map 1).
@compute @workgroup_size(64)
fn check(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 64u + lane;
  if (i >= atomicLoad(&work[VA_PIECES])) { return; }
  let piece = piece_at(i);
  if (piece.source.at == AT_FAULT || piece.destination.at == AT_FAULT) { atomicMax(&work[VA_VERDICT], E_FAULT); }
  if (piece.destination.at != AT_MEMORY || !piece.opens_page) { return; }
  let bit = map_bit(piece.destination.word);
  let before = atomicOr(&work[map_word(0u, piece.destination.word)], bit);
  if ((before & bit) != 0u) { atomicOr(&work[map_word(1u, piece.destination.word)], bit); }
}

// Aliases: addresses that differ and yet are the same bytes. Only pieces whose page is marked look at all others.
@compute @workgroup_size(64)
fn alias_check(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 64u + lane;
  let pieces = atomicLoad(&work[VA_PIECES]);
  if (i >= pieces) { return; }
  let piece = piece_at(i);
  let source = is_marked(0u, piece.source);
  let twice = is_marked(1u, piece.destination);
  if (!source && !twice) { return; }
  for (var k = 0u; k < pieces; k++) {
    let other = piece_at(k);
    if (other.destination.at != AT_MEMORY) { continue; }
    let first = other.destination.word;
    let end = first + other.words;
    let hit_source = source && piece.source.word < end && first < piece.source.word + piece.words;
    let hit_twice = twice && i != k && piece.destination.word < end && first < piece.destination.word + piece.words;
    if (hit_source || hit_twice) {
      // Below E_FAULT, which is the stronger verdict.
      atomicMax(&work[VA_VERDICT], E_OVERLAP);
      return;
    }
  }
}

@compute @workgroup_size(WORKGROUP)
fn move_pieces(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  let i = select(index * WORKGROUP + lane, index, PAGE_PER_WORKGROUP);
  if (i >= atomicLoad(&work[VA_PIECES])) { return; }
  if (atomicLoad(&work[VA_VERDICT]) != 0u || atomicLoad(&work[VA_CHECK_ONLY]) != 0u) { return; }
  let piece = piece_at(i);
  let first = select(0u, lane, PAGE_PER_WORKGROUP);
  let step = select(1u, WORKGROUP, PAGE_PER_WORKGROUP);
  for (var w = first; w < piece.words; w += step) {
    var value = 0u;
    if (piece.source.at == AT_MEMORY) {
      value = bank_load(piece.source.word + w);
    } else if (piece.source.at == AT_SLOT) {
      value = slots[piece.source.word + w];
    } else if (piece.source.at == AT_PATTERN) {
      value = piece.source.word;
    }
    if (piece.destination.at == AT_MEMORY) {
      bank_store(piece.destination.word + w, value);
    } else if (piece.destination.at == AT_SLOT) {
      slots[piece.destination.word + w] = value;
    }
  }
  if (lane == 0u || !PAGE_PER_WORKGROUP) { atomicAdd(&work[VA_DONE], 1u); }
}
