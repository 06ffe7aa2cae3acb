import { vramSpace } from "../abi/memory-map.ts";
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

/** Segment 0 of a tile, counted over all tiles. */
export function firstSegment(layout: BankLayout, tile: number): number {
  return vramSpace(layout.shape).starts[tile]! / 2 ** layout.shape.segShift;
}

/** Bytes of segment 0, behind which the window is carved out. */
export function segment0Bytes({ tileBytes, segShift }: DeviceShape): number {
  return Math.min(tileBytes[0]!, 2 ** segShift);
}

const ATOMICS = ["add", "sub", "min", "max", "and", "or", "xor", "exchange"] as const;

/**
 * The WGSL text. `atomics`: the words are `atomic<u32>`, so that kernels may use `bank_atomic_*`. `tablesBank`: the segment
 * with the page tables of the tile that runs the shader; the set `tables` has no other.
 */
export function banksWgsl(layout: BankLayout, set: BankSet, atomics: boolean, tablesBank = 0): string {
  const word = atomics ? "atomic<u32>" : "u32";
  const { load, store } = wordAccess(atomics);
  const lines = [`@group(0) @binding(0) var<storage, read_write> vram0: array<${word}>;`];
  const tables = `vram${tablesBank}`;
  lines.push(
    `fn pt_entry(at: u32) -> vec2u { return vec2u(${load(`${tables}[at]`)}, ${load(`${tables}[at + 1u]`)}); }`,
  );
  if (set === "tables") return `${lines.join("\n")}\n`;
  for (let i = 1; i < layout.shape.nseg; i++) {
    lines.push(`@group(0) @binding(${i}) var<storage, read_write> vram${i}: array<${word}>;`);
  }
  if (hasWindowBank(layout)) {
    lines.push(`@group(0) @binding(${layout.shape.nseg}) var<storage, read_write> sysw: array<${word}>;`);
  }
  const access = (name: string, params: string, result: string, body: (place: Place) => string) =>
    lines.push(`fn ${name}(location: u32${params})${result} {\n${selectBank(layout, "location", body)}}`);
  access("bank_load", "", " -> u32", (place) => `return ${load(place("0u"))};`);
  access("bank_store", ", value: u32", "", (place) => store(place("0u"), "value"));
  // Words that lie in one bank because they lie in one page: the bank is chosen once.
  for (const n of [2, 4]) {
    const words = Array.from({ length: n }, (_, i) => i);
    access(
      `bank_load${n}`,
      "",
      ` -> vec${n}u`,
      (place) => `return vec${n}u(${words.map((i) => load(place(`${i}u`))).join(", ")});`,
    );
    access(`bank_store${n}`, `, value: vec${n}u`, "", (place) =>
      words.map((i) => store(place(`${i}u`), `value.${"xyzw"[i]}`)).join(" "),
    );
  }
  if (atomics) {
    for (const op of ATOMICS) {
      const call = `atomic${op[0]!.toUpperCase()}${op.slice(1)}`;
      access(`bank_atomic_${op}`, ", value: u32", " -> u32", (place) => `return ${call}(&${place("0u")}, value);`);
    }
    access("bank_atomic_compare_exchange", ", expected: u32, value: u32", " -> vec2u", (place) =>
      [
        `let r = atomicCompareExchangeWeak(&${place("0u")}, expected, value);`,
        "return vec2u(r.old_value, select(0u, 1u, r.exchanged));",
      ].join(" "),
    );
  }
  return `${lines.join("\n")}\n`;
}

/** The word `offset` (WGSL text) behind the location at hand, in one bank. */
export type Place = (offset: string) => string;

/** How a word is read and written, given the place of it. */
export function wordAccess(atomics: boolean): {
  load: (place: string) => string;
  store: (place: string, value: string) => string;
} {
  return {
    load: (place) => (atomics ? `atomicLoad(&${place})` : place),
    store: (place, value) => (atomics ? `atomicStore(&${place}, ${value});` : `${place} = ${value};`),
  };
}

/**
 * Statements that run `body` for the bank which holds the location that the expression `location` names.
 *
 * A `switch` of stores and returns. On a software adapter, with four banks, it was no worse than a chain of `if`s, a tree
 * of them, loads of all banks with `select`s between them (an index of 0 for the banks not wanted), or a variable that the
 * arms set; loads of all banks at the same index were slower by half.
 */
export function selectBank(layout: BankLayout, location: string, body: (place: Place) => string): string {
  const { nseg, syswBytes, tileBytes } = layout.shape;
  const at = (bank: string, base: string): Place => {
    return (offset) => (offset === "0u" ? `${bank}[${base}]` : `${bank}[${base} + ${offset}]`);
  };
  const segment0Words = segment0Bytes(layout.shape) / 4;
  if (nseg === 1) {
    // With a carve-out the window follows VRAM in the same buffer: the location is the index.
    if (!hasWindowBank(layout)) return `  ${body(at("vram0", location))}\n`;
    const window = at("sysw", `${location} - WINDOW_LOCATION`);
    return `  if (${location} >= ${tileBytes[0]! / 4}u) { ${body(window)} } else { ${body(at("vram0", location))} }\n`;
  }
  // Every arm is paid, so there is one per buffer: a carved-out window goes with segment 0, whose index is chosen before.
  const isCarved = syswBytes > 0 && !hasWindowBank(layout);
  const [bank, index] = [`${location}_bank`, `${location}_index`];
  const lines = isCarved
    ? [
        `  let ${location}_in_window = ${location} >= WINDOW_LOCATION;`,
        `  let ${bank} = select(${location} >> SEG_WORD_SHIFT, 0u, ${location}_in_window);`,
        `  let ${index} = select(${location} & SEG_WORD_MASK, ${location} - WINDOW_LOCATION + ${segment0Words}u, ${location}_in_window);`,
      ]
    : [`  let ${bank} = ${location} >> SEG_WORD_SHIFT;`, `  let ${index} = ${location} & SEG_WORD_MASK;`];
  const banks = Array.from({ length: nseg }, (_, i) => `vram${i}`);
  if (hasWindowBank(layout)) banks.push("sysw");
  // What lies past the last buffer has no location; WGSL wants an arm for it all the same.
  const arms = banks.map((name, i) => {
    return `    ${i === banks.length - 1 ? "default" : `case ${i}u`}: { ${body(at(name, index))} }`;
  });
  return `${lines.join("\n")}\n  switch ${bank} {\n${arms.join("\n")}\n  }\n`;
}
