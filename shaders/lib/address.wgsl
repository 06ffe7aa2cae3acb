// Addresses are word pairs (lo, hi).

// The one mixing function of the hardware; the same as src/abi/mix32.ts.
fn mix32(x0: u32) -> u32 {
  var x = x0;
  x ^= x >> 16u;
  x *= 0x7feb352du;
  x ^= x >> 15u;
  x *= 0x846ca68bu;
  return x ^ (x >> 16u);
}

fn addr_add(va: vec2u, bytes: u32) -> vec2u {
  let lo = va.x + bytes;
  return vec2u(lo, va.y + select(0u, 1u, lo < bytes));
}

// Low 32 bits of va >> shift, shift 12..57.
fn addr_shift(va: vec2u, shift: u32) -> u32 {
  return select(va.y >> (shift & 31u), (va.x >> (shift & 31u)) | (va.y << (32u - (shift & 31u))), shift < 32u);
}

fn pt_index(va: vec2u, level: u32, compact: bool) -> u32 {
  return select(addr_shift(va, 12u + 9u * level) & 511u, (va.x >> 16u) & 31u, compact);
}
