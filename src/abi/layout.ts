import { assert } from "../base/assert.ts";

/**
 * Structures shared by TypeScript and WGSL, declared once: the offsets that TypeScript uses and the struct text that
 * precedes every shader come from the same table.
 *
 *     const Point = struct("Point", { at: "vec2u", next: at(16, "u32") });
 *     Point.word.next   // 4
 *     Point.wgsl        // struct Point { at: vec2u, pad2_: u32, pad3_: u32, next: u32, }
 */
export type Scalar = "u32" | "atomic<u32>" | "vec2u" | "vec4u";

export interface ArrayType {
  readonly kind: "array";
  readonly element: Scalar | StructType;
  readonly count: number;
}

/** A field at a fixed byte offset; what lies between is padding. */
export interface PlacedType {
  readonly kind: "placed";
  readonly byte: number;
  readonly type: Scalar | StructType | ArrayType;
}

export type FieldType = Scalar | StructType | ArrayType | PlacedType;

export interface StructType<Names extends string = string> {
  readonly kind: "struct";
  readonly name: string;
  /** Bytes, a multiple of the alignment. */
  readonly size: number;
  readonly align: number;
  /** Byte offset of each field. */
  readonly offset: Readonly<Record<Names, number>>;
  /** Offset of each field in 32-bit words. */
  readonly word: Readonly<Record<Names, number>>;
  readonly type: Readonly<Record<Names, Scalar | StructType | ArrayType>>;
  readonly wgsl: string;
}

const SCALARS: Readonly<Record<Scalar, { size: number; align: number }>> = {
  u32: { size: 4, align: 4 },
  "atomic<u32>": { size: 4, align: 4 },
  vec2u: { size: 8, align: 8 },
  vec4u: { size: 16, align: 16 },
};

export function arrayOf(element: Scalar | StructType, count: number): ArrayType {
  return { kind: "array", element, count };
}

export function at(byte: number, type: Scalar | StructType | ArrayType): PlacedType {
  return { kind: "placed", byte, type };
}

/** A structure by WGSL's layout rules for the storage address space. `bytes` pads the end. */
export function struct<Names extends string>(
  name: string,
  fields: Readonly<Record<Names, FieldType>>,
  bytes = 0,
): StructType<Names> {
  const offset = {} as Record<Names, number>;
  const word = {} as Record<Names, number>;
  const types = {} as Record<Names, Scalar | StructType | ArrayType>;
  const lines: string[] = [];
  let end = 0;
  let align = 4;
  const padTo = (byte: number) => {
    const words = (byte - end) / 4;
    // A uniform may not hold an array of u32, so that small gaps are single words.
    if (words > 4) lines.push(`pad${end / 4}_: array<u32, ${words}>`);
    else for (let i = 0; i < words; i++) lines.push(`pad${end / 4 + i}_: u32`);
    end = byte;
  };
  for (const [field, declared] of Object.entries(fields) as [Names, FieldType][]) {
    const type = isPlaced(declared) ? declared.type : declared;
    const need = alignOf(type);
    const natural = Math.ceil(end / need) * need;
    const start = isPlaced(declared) ? declared.byte : natural;
    assert(start >= natural && start % need === 0, () => `${name}.${field} cannot lie at byte ${start}`);
    if (isPlaced(declared)) padTo(start);
    offset[field] = start;
    word[field] = start / 4;
    types[field] = type;
    lines.push(`${field}: ${wgslType(type)}`);
    end = start + sizeOf(type);
    align = Math.max(align, need);
  }
  if (bytes > 0) padTo(bytes);
  const size = Math.ceil(end / align) * align;
  const wgsl = `struct ${name} {\n  ${lines.join(",\n  ")},\n}\n`;
  return { kind: "struct", name, size, align, offset, word, type: types, wgsl };
}

/** `const NAME = 12u;` for each entry. */
export function consts(values: Readonly<Record<string, number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `const ${name} = ${value >>> 0}u;\n`)
    .join("");
}

function isPlaced(type: FieldType): type is PlacedType {
  return typeof type === "object" && type.kind === "placed";
}

function alignOf(type: Scalar | StructType | ArrayType): number {
  if (typeof type === "string") return SCALARS[type].align;
  return type.kind === "struct" ? type.align : alignOf(type.element);
}

export function sizeOf(type: Scalar | StructType | ArrayType): number {
  if (typeof type === "string") return SCALARS[type].size;
  return type.kind === "struct" ? type.size : sizeOf(type.element) * type.count;
}

function wgslType(type: Scalar | StructType | ArrayType): string {
  if (typeof type === "string") return type;
  return type.kind === "struct" ? type.name : `array<${wgslType(type.element)}, ${type.count}>`;
}
