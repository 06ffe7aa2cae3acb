import { PAGE_SIZE } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import type { MaybePromise } from "../base/maybe-promise.ts";
import type { AccessFault } from "../mm/access.ts";
import type { MemFile } from "../mm/file.ts";
import { Mm } from "../mm/mm.ts";
import { mappingOf } from "./area.ts";
import { check, list } from "./judge.ts";
import type { OpOf } from "./program.ts";
import type { World } from "./world.ts";

/** The file of which the area maps nothing but shared pages; null: there is none. */
function sharedFile({ file, program }: World): MemFile | null {
  return program.memory === "shared-file" && program.tail === undefined ? file : null;
}

export async function fileRead(world: World, { page, word }: OpOf<"pread">): Promise<void> {
  const file = sharedFile(world);
  const { oracle } = world.processes[0]!;
  if (file === null) return;
  const seen = oracle.word(page, word).observe();
  const watch = oracle.watch(page);
  const bytes = await file.read(page * PAGE_SIZE + 4 * word, 4);
  watch.end();
  oracle.word(page, word).unobserve(seen);
  if (!(bytes instanceof Uint8Array)) return check(bytes, "read");
  if (bytes.length === 0 && watch.mayBeBeyond) return;
  const value = new Uint32Array(bytes.buffer)[0];
  if (value !== undefined && !watch.isBeyond && seen.has(value)) return;
  throw new InvariantError(`the file has ${value} at page ${page} word ${word}, not ${list(seen)}`);
}

export async function fileWrite(world: World, { page, word }: OpOf<"pwrite">): Promise<void> {
  const file = sharedFile(world);
  const { oracle } = world.processes[0]!;
  if (file === null) return;
  const value = world.newValue();
  const grown = oracle.beginGrow(page + 1);
  const fill = oracle.beginFill(page, 1, value, word);
  const words = new Uint32Array(PAGE_SIZE / 4 - word).fill(value);
  check(await file.write(page * PAGE_SIZE + 4 * word, new Uint8Array(words.buffer)), "write");
  fill.end(true);
  grown();
}

export async function cutFile(world: World, op: OpOf<"punch" | "truncate">): Promise<void> {
  const file = sharedFile(world);
  const { oracle } = world.processes[0]!;
  if (file === null) return;
  if (op.op === "truncate") {
    const resized = oracle.beginResize(op.page);
    check(await file.truncate(op.page * PAGE_SIZE), "truncate");
    resized();
    return;
  }
  const zeros = oracle.beginFill(op.page, op.pages, 0);
  check(await file.punchHole(op.page * PAGE_SIZE, op.pages * PAGE_SIZE), "punch");
  zeros.end(true);
}

/** Where the other process maps its page. */
const ELSEWHERE = 0x10000000;
/** Its stores go to a word that nobody looks at: were they to reach the file, the page's words would differ at rest. */
const MARK = PAGE_SIZE - 4;

export async function copyOfFile(world: World, op: OpOf<"copy">): Promise<void> {
  const file = sharedFile(world);
  if (file === null) return;
  const mm = new Mm({ phys: world.rig.phys });
  const mapping = mappingOf("private-file", file, op.page);
  check(await mm.mmap(PAGE_SIZE, { ...mapping, at: ELSEWHERE }), "mmap");
  const look = () => mm.load32(ELSEWHERE + 4 * op.word);
  const mark = () => mm.store32(ELSEWHERE + MARK, world.newValue());
  // The store meets nothing, and then the file's page.
  await judgeCopy(world, op, async () => (await mark()) ?? look());
  check(await mm.dontneed(ELSEWHERE, PAGE_SIZE), "dontneed");
  await judgeCopy(world, op, look);
  for (let i = 0; i < op.points; i++) await world.rig.sched.point("mapped");
  await judgeCopy(world, op, async () => (await mark()) ?? look());
  await mm.exit();
}

/** What `look` finds must have been in the file since it began. */
async function judgeCopy(
  world: World,
  { page, word }: OpOf<"copy">,
  look: () => MaybePromise<number | AccessFault>,
): Promise<void> {
  const { oracle } = world.processes[0]!;
  const seen = oracle.word(page, word).observe();
  const watch = oracle.watch(page);
  const found = await look();
  watch.end();
  oracle.word(page, word).unobserve(seen);
  if (typeof found === "number" ? seen.has(found) : watch.mayBeBeyond) return;
  const what = typeof found === "number" ? `${found}, not ${list(seen)}` : found.code;
  throw new InvariantError(`a copy of page ${page} of the file has ${what} at word ${word}`);
}
