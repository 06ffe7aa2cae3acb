import type { DeviceShape } from "../abi/preamble.ts";

/**
 * Access to memory by location, generated for the number of buffers that hold it. WGSL cannot index over buffers, so
 * several banks need a `switch`, whose arms a software adapter all executes; with one bank there is none.
 */
export interface BankLayout {
  readonly shape: DeviceShape;
  /** True: the window is the tail of segment 0's buffer. False: it has a buffer of its own, or there is none. */
  readonly carveOut: boolean;
}

/** `vram` binds the segments and the window; `tables` segment 0 only, all that a walk needs. */
export type BankSet = "vram" | "tables";

/** Buffers that the kernels bind in group 0: the segments, then the window where it is separate. */
export function bankCount(layout: BankLayout): number {
  return layout.shape.nseg + (hasWindowBank(layout) ? 1 : 0);
}

export function hasWindowBank(layout: BankLayout): boolean {
  return !layout.carveOut && layout.shape.syswBytes > 0;
}

const ATOMICS = ["add", "sub", "min", "max", "and", "or", "xor", "exchange"] as const;

/** The WGSL text. `atomics`: the words are `atomic<u32>`, so that kernels may use `bank_atomic_*`. */
export function banksWgsl(layout: BankLayout, set: BankSet, atomics: boolean): string {
  const word = atomics ? "atomic<u32>" : "u32";
  const load = (place: string) => (atomics ? `atomicLoad(&${place})` : place);
  const store = (place: string) => (atomics ? `atomicStore(&${place}, value);` : `${place} = value;`);
  const lines = [`@group(0) @binding(0) var<storage, read_write> vram0: array<${word}>;`];
  lines.push(`fn pt_entry(at: u32) -> vec2u { return vec2u(${load("vram0[at]")}, ${load("vram0[at + 1u]")}); }`);
  if (set === "tables") return `${lines.join("\n")}\n`;
  for (let i = 1; i < layout.shape.nseg; i++) {
    lines.push(`@group(0) @binding(${i}) var<storage, read_write> vram${i}: array<${word}>;`);
  }
  if (hasWindowBank(layout)) {
    lines.push(`@group(0) @binding(${layout.shape.nseg}) var<storage, read_write> sysw: array<${word}>;`);
  }
  const access = (name: string, params: string, result: string, body: (place: string) => string) =>
    lines.push(`fn ${name}(location: u32${params})${result} {\n${select(layout, body)}}`);
  access("bank_load", "", " -> u32", (place) => `return ${load(place)};`);
  access("bank_store", ", value: u32", "", (place) => `${store(place)}`);
  if (atomics) {
    for (const op of ATOMICS) {
      const call = `atomic${op[0]!.toUpperCase()}${op.slice(1)}`;
      access(`bank_atomic_${op}`, ", value: u32", " -> u32", (place) => `return ${call}(&${place}, value);`);
    }
    access("bank_atomic_compare_exchange", ", expected: u32, value: u32", " -> vec2u", (place) =>
      [
        `let r = atomicCompareExchangeWeak(&${place}, expected, value);`,
        "return vec2u(r.old_value, select(0u, 1u, r.exchanged));",
      ].join(" "),
    );
  }
  return `${lines.join("\n")}\n`;
}

/** `body` for the bank that holds `location`. */
function select(layout: BankLayout, body: (place: string) => string): string {
  const { nseg, syswBytes, vramBytes } = layout.shape;
  const window = hasWindowBank(layout)
    ? "sysw[location - WINDOW_LOCATION]"
    : `vram0[location - WINDOW_LOCATION + ${2 ** layout.shape.segShift / 4}u]`;
  if (nseg === 1) {
    // With a carve-out the window follows VRAM in the same buffer: the location is the index.
    if (!hasWindowBank(layout)) return `  ${body("vram0[location]")}\n`;
    return `  if (location >= ${vramBytes / 4}u) { ${body(window)} } else { ${body("vram0[location]")} }\n`;
  }
  const arms: string[] = [];
  for (let i = 0; i < nseg; i++) arms.push(`    case ${i}u: { ${body(`vram${i}[location & SEG_WORD_MASK]`)} }`);
  // Without a window nothing has a location past the segments; the arm is needed all the same.
  arms.push(`    default: { ${body(syswBytes > 0 ? window : "vram0[SEG_WORD_MASK]")} }`);
  return `  switch (location >> SEG_WORD_SHIFT) {\n${arms.join("\n")}\n  }\n`;
}
