/** Replays recorded behaviour of the kernel's buddy allocator, line by line. */
import { InvariantError } from "../../src/base/assert.ts";
import { isErr } from "../../src/base/errno.ts";
import { DrmBuddy } from "../../src/vram/buddy.ts";
import type { BuddyBlock } from "../../src/vram/buddy.ts";

type Line = Readonly<Record<string, unknown>>;
type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
export interface ReplayResult {
  passed: number;
  failed: number;
  failures: string[];
}

/** Versions that behave like a recorded one; a line of several versions is replayed once for each. */
const VERSIONS: Readonly<Record<string, readonly ("6.15" | "6.18")[]>> = {
  "6.15": ["6.15"],
  "6.18": ["6.18"],
  "*": ["6.18", "6.15"],
};

export function recognises(lines: readonly Line[]): boolean {
  const first = lines[0];
  if (first === undefined) return false;
  if (first["k"] === "alloc1") return true;
  if (first["k"] === "init") return "chunk" in first;
  const init = first["init"];
  return typeof init === "object" && init !== null && "chunk" in init;
}

export function replay(file: string, lines: readonly Line[]): ReplayResult {
  const result: ReplayResult = { passed: 0, failed: 0, failures: [] };
  const walks: Partial<Record<string, Walk>> = {};
  lines.forEach((line, i) => {
    const wrong: string[] = [];
    for (const version of VERSIONS[String(line["v"])] ?? []) {
      let walk = walks[version];
      if (walk === undefined || "init" in line || "id" in line) walks[version] = walk = new Walk(version);
      const difference = walk.step(line);
      if (difference !== null) wrong.push(`${version}: ${difference}`);
    }
    if (!(String(line["v"]) in VERSIONS)) wrong.push(`unknown version ${String(line["v"])}`);
    if (wrong.length === 0) {
      result.passed += 1;
    } else {
      result.failed += 1;
      result.failures.push(`${file}:${i + 1}: ${wrong.join("; ")}`);
    }
  });
  return result;
}

const COMPARED = [
  "ret",
  "max_order",
  "n_roots",
  "mm_size",
  "blocks",
  "avail",
  "clear_avail",
  "free",
  "free_blocks",
  "warnings",
];

const num = (value: unknown): number => Number(value);
const hex = (value: number): string => `0x${value.toString(16)}`;
const blockList = (blocks: readonly BuddyBlock[]): Json =>
  blocks.map((b) => [hex(b.offset), hex(b.size), b.cleared ? 1 : 0]);

/** One recorded sequence. */
class Walk {
  readonly #compat: "6.15" | "6.18";
  #mm: DrmBuddy | null = null;
  readonly #live = new Map<number, BuddyBlock[]>();
  /** After a reset that the recorded code left incomplete, clear states differ on purpose and with them later merges. */
  #clearStatesDiffer = false;

  constructor(compat: "6.15" | "6.18") {
    this.#compat = compat;
  }

  /** What differs from the recorded line, or null. */
  step(line: Line): string | null {
    const got: Record<string, Json> = {};
    try {
      this.#perform(line, got);
    } catch (error) {
      if (!(error instanceof InvariantError)) throw error;
      got["ret"] = "BUG";
    }
    const mm = this.#mm;
    const expected = "fini" in line ? (line["fini"] as Line) : line;
    if (mm !== null && got["ret"] !== "BUG") this.#describe(mm, got);
    for (const key of COMPARED) {
      const source = "init" in line && !(key in line) ? (line["init"] as Line) : expected;
      if (!(key in source) || source[key] === undefined) continue;
      if (this.#clearStatesDiffer && !this.#holdsAnyway(key, line)) continue;
      let a = source[key] as Json;
      let b = got[key] ?? null;
      if (this.#clearStatesDiffer) [a, b] = [withoutClear(key, a), withoutClear(key, b)];
      if (JSON.stringify(a) !== JSON.stringify(b))
        return `${key}: recorded ${JSON.stringify(a)}, got ${JSON.stringify(b)}`;
    }
    return null;
  }

  /** Of an incomplete reset the blocks hold, without their states; of what follows only the sums. */
  #holdsAnyway(key: string, line: Line): boolean {
    if (key === "clear_avail") return false;
    return line["k"] === "reset_clear" || (key !== "free" && key !== "free_blocks");
  }

  #perform(line: Line, got: Record<string, Json>): void {
    if ("init" in line) return this.#init(line["init"] as Line, got);
    if ("fini" in line) {
      for (const s of [...this.#live.keys()].sort((a, b) => a - b)) this.#mm!.freeList(this.#live.get(s)!, 0);
      // The recorded state is the one before tear-down merges what is left.
      this.#describe(this.#mm!, got);
      got["warnings"] = this.#mm!.fini().length;
      this.#mm = null;
      return;
    }
    if (line["k"] === "init") return this.#init(line, got);
    if (line["k"] === "alloc1") {
      this.#init({ size: line["mm"], chunk: "0x1000" }, {});
      return this.#alloc(line, got);
    }
    const mm = this.#mm!;
    const list = this.#live.get(num(line["h"])) ?? [];
    switch (line["k"]) {
      case "alloc":
        return this.#alloc(line, got);
      case "free":
        mm.freeList(list, num(line["flags"]));
        this.#live.delete(num(line["h"]));
        return;
      case "free_block":
        mm.freeBlock(list[num(line["i"])]!);
        list.splice(num(line["i"]), 1);
        return;
      case "trim":
        got["ret"] = mm.trim(list, num(line["size"]), line["start"] === null ? undefined : num(line["start"]));
        got["blocks"] = blockList(list);
        return;
      case "reset_clear":
        mm.resetClear(line["clear"] === true);
        this.#clearStatesDiffer = line["complete"] === false;
        return;
      default:
        throw new Error(`unknown step ${String(line["k"])}`);
    }
  }

  #init(line: Line, got: Record<string, Json>): void {
    const mm = DrmBuddy.create(num(line["size"]), num(line["chunk"]), { compat: this.#compat });
    got["ret"] = isErr(mm) ? mm : 0;
    if (isErr(mm)) return;
    this.#mm = mm;
    got["max_order"] = mm.maxOrder;
    got["n_roots"] = mm.rootCount;
    got["mm_size"] = hex(mm.size);
  }

  #alloc(line: Line, got: Record<string, Json>): void {
    const n = (key: string): number => num(line[key]);
    const blocks = this.#mm!.allocBlocks(n("start"), n("end"), n("size"), n("min"), n("flags"));
    got["ret"] = isErr(blocks) ? blocks : 0;
    got["blocks"] = isErr(blocks) ? [] : blockList(blocks);
    if (!isErr(blocks)) this.#live.set(n("s"), blocks);
  }

  #describe(mm: DrmBuddy, got: Record<string, Json>): void {
    const blocks = mm.freeBlocks();
    const counts = new Map<number, [number, number, number]>();
    for (const b of blocks) {
      const row = counts.get(b.order) ?? [b.order, 0, 0];
      row[b.cleared ? 2 : 1] += 1;
      counts.set(b.order, row);
    }
    got["avail"] = hex(mm.avail);
    got["clear_avail"] = hex(mm.clearAvail);
    got["free"] = [...counts.values()];
    got["free_blocks"] = blocks.map((b) => [hex(b.offset), b.order, b.cleared ? 1 : 0]);
  }
}

/** The recorded form with the clear states taken out. */
function withoutClear(key: string, value: Json): Json {
  if (key === "free_blocks") return (value as Json[][]).map((block) => block.slice(0, 2));
  if (key === "free") return (value as number[][]).map(([order, dirty, clear]) => [order!, dirty! + clear!]);
  return value;
}
