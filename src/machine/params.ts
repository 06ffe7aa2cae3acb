import { hi32, lo32 } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import type { LaunchBuffer } from "../hal/gpu.ts";
import { type Num, checkedAddress, toWord } from "./args.ts";
import { SvmArray } from "./array.ts";
import type { Vm } from "./vm.ts";

/**
 * The parameters of a kernel: what each is, the WGSL functions by which the kernel reaches it, and the words that an
 * argument becomes.
 *
 *     "f32" "i32" "u32"          a()                    the value
 *     "ptr"                      p()                    an address, vec2u: for addr_add, svm_read, svm_write, svm_atomic
 *     "array<f32>"               x_load(i)              element i; 0 beyond the end
 *       also i32, u32            x_at(i)                its location, for svm_load and svm_load_f32 of shaders/svm.wgsl
 *                                x_length()             elements
 *     "array<f32, read_write>"   x_store(i, v)          and the above; beyond the end it does nothing
 *     "array<u32, atomic>"       x_at(i)                a location for svm_atomic_add and its like, and the above
 */
export type Scalar = "f32" | "i32" | "u32";
export type ParamType = Scalar | "ptr" | `array<${Scalar}>` | `array<${Scalar}, ${"read" | "read_write" | "atomic"}>`;
export type Params = Readonly<Record<string, ParamType>>;

/** What `run` takes for a parameter. */
export type Arg<P extends ParamType> = P extends Scalar ? number : P extends "ptr" ? Num | SvmArray : SvmArray;
export type Args<P extends Params> = { readonly [name in keyof P]: Arg<P[name]> };

/** What `svm_at` can tell apart. */
const MAX_ARRAYS = 8;
const MAX_WORDS = 32;
const ARRAY = /^array<(f32|i32|u32)(?:, *(read|read_write|atomic))?>$/;
const READ = 0;
const WRITE = 1;
const ATOMIC = 2;
const NAME = /^[A-Za-z][A-Za-z0-9_]*$/;
const TAKEN = /^(svm|bank|lean|fault)_/;
/** Typed arrays whose elements a kernel sees as they are. Others it sees as words, by `u32`. */
const ELEMENTS: Readonly<Record<Scalar, readonly string[]>> = {
  f32: ["Float32Array"],
  i32: ["Int32Array"],
  u32: ["Uint32Array", "Uint8Array", "Uint8ClampedArray", "Uint16Array", "Int8Array", "Int16Array"],
};

interface Param {
  readonly name: string;
  readonly scalar: Scalar | "ptr";
  /** As of LaunchBuffer; null for what is no array. */
  readonly access: number | null;
  /** First argument word; of an array its length in words of 32 bits. */
  readonly word: number;
  /** Number of the buffer of an array. */
  readonly buffer: number;
}

/** Names of the parameters that are arrays. */
export type ArrayNames<P extends Params> = string extends keyof P
  ? string
  : { [name in keyof P]: P[name] extends `array<${string}` ? name : never }[keyof P];

/** Words and buffers of one run. */
export interface BoundArgs {
  readonly args: Uint32Array;
  readonly buffers: readonly LaunchBuffer[];
}

export class ParamList {
  readonly #params: readonly Param[];
  readonly #words: number;

  /** Throws ConfigError for a name or a type that cannot be, and for more parameters than a launch carries. */
  constructor(params: Params) {
    const list: Param[] = [];
    let words = 0;
    let buffers = 0;
    for (const [name, type] of Object.entries(params)) {
      const { scalar, access } = parse(name, type);
      // An address is read as a pair, at an even word.
      const word = scalar === "ptr" ? words + (words % 2) : words;
      list.push({ name, scalar, access, word, buffer: access === null ? -1 : buffers++ });
      words = word + (scalar === "ptr" ? 2 : 1);
    }
    if (buffers > MAX_ARRAYS) {
      throw new ConfigError(
        "kernel.params",
        `at most ${MAX_ARRAYS} arrays are wanted, not ${buffers}; "ptr" has no bound`,
      );
    }
    if (words > MAX_WORDS) {
      throw new ConfigError("kernel.params", `at most ${MAX_WORDS} words of arguments are wanted, not ${words}`);
    }
    this.#params = list;
    this.#words = words;
  }

  get hasAtomics(): boolean {
    return this.#params.some((p) => p.access === ATOMIC);
  }

  /** The functions by which WGSL reaches the parameters. */
  wgsl(): string {
    return this.#params.map(accessors).join("\n");
  }

  /** Throws ConfigError for an argument that is missing, unknown, or not what its parameter says. */
  bind(vm: Vm, given: Readonly<Record<string, unknown>>): BoundArgs {
    for (const name of Object.keys(given)) {
      if (this.#params.some((p) => p.name === name)) continue;
      const names = this.#params.map((p) => p.name).join(", ");
      throw new ConfigError(`kernel.args.${name}`, `the kernel has no such parameter; it has ${names || "none"}`);
    }
    const args = new Uint32Array(this.#words);
    const buffers: LaunchBuffer[] = [];
    for (const param of this.#params) {
      const value = given[param.name];
      const where = `kernel.args.${param.name}`;
      if (param.access !== null) {
        const array = checkedArray(value, param.scalar as Scalar, where);
        array.checkFor(vm, where);
        args[param.word] = Math.floor(array.byteLength / 4);
        buffers.push({ at: array.address, bytes: array.byteLength, access: param.access });
      } else if (param.scalar === "ptr") {
        if (value instanceof SvmArray) value.checkFor(vm, where);
        const address = value instanceof SvmArray ? value.address : checkedAddress(value as Num, where);
        args[param.word] = lo32(address);
        args[param.word + 1] = hi32(address);
      } else {
        args[param.word] = wordOf(param.scalar, value, where);
      }
    }
    return { args, buffers };
  }

  /** The arrays of these names, of what `bind` has made. Throws ConfigError for what is none. */
  streams({ buffers }: BoundArgs, names: readonly PropertyKey[]): LaunchBuffer[] {
    return names.map((name) => {
      const param = this.#params.find((p) => p.name === name);
      if (param !== undefined && param.access !== null) return buffers[param.buffer]!;
      const arrays = this.#params.filter((p) => p.access !== null).map((p) => p.name);
      const wanted = arrays.length === 0 ? "the kernel has no arrays" : `one of ${arrays.join(", ")} is wanted`;
      throw new ConfigError("kernel.streams", `${wanted}, not ${String(name)}`);
    });
  }
}

function parse(name: string, type: string): Pick<Param, "scalar" | "access"> {
  const where = `kernel.params.${name}`;
  if (!NAME.test(name) || TAKEN.test(name)) {
    throw new ConfigError(where, `a WGSL name is wanted that does not begin with svm_, bank_, lean_ or fault_`);
  }
  if (type === "f32" || type === "i32" || type === "u32" || type === "ptr") return { scalar: type, access: null };
  const array = ARRAY.exec(String(type));
  if (array === null) {
    throw new ConfigError(
      where,
      `"f32", "i32", "u32", "ptr" or "array<f32>", "array<f32, read_write>", "array<u32, atomic>" is wanted, not ${JSON.stringify(type)}`,
    );
  }
  const access = array[2] === "atomic" ? ATOMIC : array[2] === "read_write" ? WRITE : READ;
  return { scalar: array[1] as Scalar, access };
}

/** Beyond its end an array's offset is one that `svm_at` answers with the page of zeros. */
function accessors({ name, scalar, access, word, buffer }: Param): string {
  if (scalar === "ptr") return `fn ${name}() -> vec2u { return arg64(${word / 2}u); }`;
  if (access === null) return `fn ${name}() -> ${scalar} { return bitcast<${scalar}>(arg(${word}u)); }`;
  const suffix = scalar === "u32" ? "" : `_${scalar}`;
  const lines = [
    `fn ${name}_length() -> u32 { return arg(${word}u); }`,
    `fn ${name}_at(i: u32) -> u32 { return svm_at(${buffer}u, select(0xffffffffu, i << 2u, i < arg(${word}u))); }`,
    `fn ${name}_load(i: u32) -> ${scalar} { return svm_load${suffix}(${name}_at(i)); }`,
  ];
  if (access !== READ) {
    lines.push(`fn ${name}_store(i: u32, value: ${scalar}) { svm_store${suffix}(${name}_at(i), value); }`);
  }
  return lines.join("\n");
}

function checkedArray(value: unknown, scalar: Scalar, where: string): SvmArray {
  if (!(value instanceof SvmArray)) throw new ConfigError(where, "an array that `process.alloc` made is wanted");
  if (!ELEMENTS[scalar].includes(value.type.name)) {
    throw new ConfigError(where, `an array of ${ELEMENTS[scalar].join(" or ")} is wanted, not ${value.type.name}`);
  }
  return value;
}

function wordOf(scalar: Scalar, value: unknown, where: string): number {
  if (typeof value !== "number") throw new ConfigError(where, `a number is wanted, not ${String(value)}`);
  return scalar === "f32" ? new Uint32Array(Float32Array.of(value).buffer)[0]! : toWord(value, where);
}
