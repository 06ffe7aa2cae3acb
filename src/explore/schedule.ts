import { PAGE_SIZE } from "../base/addr.ts";
import { InvariantError } from "../base/assert.ts";
import { AccessFault } from "../mm/access.ts";
import { checkQuiescent } from "../mm/invariants.ts";
import { perform } from "./actors.ts";
import { checkWorld } from "./invariants.ts";
import { type GpuAccess, launch } from "./kernel.ts";
import { REST, WORDS } from "./oracle.ts";
import { NO_FAILURES, type Program } from "./program.ts";
import { type Host, Rig } from "./rig.ts";
import { type ExploredProcess, Violation, World } from "./world.ts";

/** What one schedule came to. */
export interface Outcome {
  readonly violation: Violation | null;
  /** Scheduling steps, each followed by a check. */
  readonly steps: number;
}

/** Schedules that a machine goes through at most: what one leaves behind unseen should not mix with too many others. */
const MAX_USES = 256;

/** Runs schedules, on machines that it makes and keeps. */
export class Explorer {
  readonly #host: Host;
  /** By what they are made for. */
  readonly #rigs = new Map<string, Rig>();

  constructor(host: Host) {
    this.#host = host;
  }

  /**
   * Runs a program with its activities interleaved as `seed` says, and checks everything: after each step the invariants,
   * of each operation whether it could end so, at the end every byte of memory, and after that that nothing is left over.
   * On a "fresh" machine the outcome depends on nothing else.
   */
  async run(program: Program, seed: number, machine: "kept" | "fresh" = "kept"): Promise<Outcome> {
    const { vram, huge = false, cards } = program;
    const key = `${vram} ${huge} ${cards}`;
    const kept = machine === "kept" ? this.#rigs.get(key) : undefined;
    this.#rigs.delete(key);
    const rig = kept ?? new Rig(vram * PAGE_SIZE, huge, this.#host, cards);
    const world = new World(program, rig, checkWorld);
    try {
      await Promise.race([world.failed, run(world, seed)]);
      rig.uses += 1;
      if (rig.uses < MAX_USES && !rig.isSpent && machine === "kept") this.#rigs.set(key, rig);
      return { violation: null, steps: world.steps };
    } catch (error) {
      if (!(error instanceof Violation)) throw error;
      return { violation: error, steps: world.steps };
    }
  }
}

async function run(world: World, seed: number): Promise<void> {
  try {
    const { setup, activities } = world.program;
    await world.map();
    for (const op of setup) await bounded(world, perform(world, op));
    await world.rig.sched.race(
      seed,
      activities.map((ops) => async () => {
        try {
          for (const op of ops) await perform(world, op);
        } catch (error) {
          world.fail(error);
        }
      }),
    );
    await bounded(world, world.rig.sched.settle());
    world.rig.failCopies(NO_FAILURES);
    checkAtRest(world);
    settleSize(world);
    // Either may be the first to look, so that each finds what the race has left.
    if (seed % 2 === 0) await bounded(world, lookByGpu(world));
    for (const process of world.processes) await bounded(world, lookByCpu(world, process));
    await bounded(world, lookByGpu(world));
    checkAtRest(world);
    await bounded(world, tearDown(world));
  } catch (error) {
    world.fail(error);
    await world.failed;
  }
}

/** Waits for what nothing but itself can delay: if it does not end in as many steps as a race may have, it never will. */
async function bounded<T>(world: World, promise: Promise<T>): Promise<T> {
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  promise.then(over, over);
  // Most of it ends without ever waiting for another turn.
  for (let i = 0; i < PATIENCE && !isOver; i++) await Promise.resolve();
  for (let i = 0; !isOver; i++) {
    if (i > PATIENCE * PATIENCE) throw new InvariantError("what was left to do never ends");
    await world.rig.turn();
  }
  return promise;
}

const PATIENCE = 32;

function checkAtRest(world: World): void {
  checkWorld(world);
  checkQuiescent(world.rig.phys);
  for (const { svm } of world.vms) {
    if (svm.lock.isHeld) throw new InvariantError(`the lock of vm ${svm.asid} is held at rest`);
    if (svm.gpusvm.notifierLock.isHeld) throw new InvariantError(`the notifier lock of vm ${svm.asid} is held at rest`);
    if (svm.isClosed) continue;
    for (const range of svm.ranges(0, Number.MAX_SAFE_INTEGER)) {
      if (range.unmapped) throw new InvariantError("a dead range was not collected (I11)");
    }
  }
}

/** Of changes of the file's size that overlapped, it shows which was the last. */
function settleSize({ file, processes, program }: World): void {
  if (file === null) return;
  for (let page = 0; page < program.pages; page++) {
    const beyond = processes[0]!.oracle.beyond(page);
    const isBeyond = page * PAGE_SIZE >= file.size;
    if (!beyond.possible.has(isBeyond)) throw new InvariantError(`the file has ${file.size} bytes at rest`);
    beyond.end(beyond.begin(isBeyond));
  }
}

/** Whether the page can be read at rest. */
function mayRead({ oracle }: ExploredProcess, page: number): boolean {
  const { possible } = oracle.access(page);
  if (possible.size !== 1) throw new InvariantError(`the access of page ${page} is unsure at rest`);
  return (possible.has("RW") || possible.has("R")) && oracle.beyond(page).possible.has(false);
}

/** Every byte of a process, as its CPU sees it. */
async function lookByCpu(world: World, process: ExploredProcess): Promise<void> {
  const { mm, oracle, exiting } = process;
  if (exiting) return;
  const who = world.processes.indexOf(process);
  const bytes = new Uint8Array(PAGE_SIZE);
  const words = new Uint32Array(bytes.buffer);
  for (let page = 0; page < oracle.pages; page++) {
    const isReadable = mayRead(process, page);
    const at = `page ${page} of process ${who}`;
    const read = await mm.read(world.addressOf(who, page), PAGE_SIZE, bytes);
    if (read instanceof AccessFault) {
      if (isReadable) throw new InvariantError(`${at} cannot be read at rest: ${read.code}`);
      continue;
    }
    if (!isReadable) throw new InvariantError(`${at} can be read at rest`);
    for (let word = 0; word < WORDS; word++) settleWord(process, page, word, words[word]!, "CPU");
    settleWord(process, page, REST, words[WORDS]!, "CPU");
    for (let word = WORDS + 1; word < words.length; word++) {
      if (words[word] === words[WORDS]) continue;
      throw new InvariantError(`word ${word} of ${at} is ${words[word]}, not ${words[WORDS]} as the others`);
    }
  }
}

/** The word has this value now, and will at the next look. */
function settleWord({ oracle }: ExploredProcess, page: number, word: number, value: number, who: string): void {
  const cell = oracle.word(page, word);
  if (!cell.possible.has(value)) {
    const expected = [...cell.possible].join(" or ");
    throw new InvariantError(`at rest the ${who} reads ${value} at page ${page} word ${word}, not ${expected}`);
  }
  cell.end(cell.begin(value));
}

/** The words of process 0 as the GPU sees them, through every address space that is open. */
async function lookByGpu(world: World): Promise<void> {
  const process = world.processes[0]!;
  if (process.exiting) return;
  for (const [index, vm] of world.vms.entries()) {
    if (vm.closing) continue;
    for (const tile of vm.svm.device.regions.keys()) await lookByTile(world, index, tile);
  }
}

async function lookByTile(world: World, index: number, tile: number): Promise<void> {
  const process = world.processes[0]!;
  const looks: { readonly page: number; readonly word: number }[] = [];
  for (let page = 0; page < process.oracle.pages; page++) {
    if (mayRead(process, page)) looks.push({ page, word: (page + index + tile) % WORDS });
  }
  if (looks.length === 0) return;
  const accesses: GpuAccess[] = looks.map(({ page, word }) => ({
    addr: world.addressOf(0, page) + 4 * word,
    store: null,
  }));
  const words = await launch(world, index, accesses, [], tile);
  if (typeof words === "string") throw new InvariantError(`at rest a kernel of vm ${index} failed: ${words}`);
  looks.forEach(({ page, word }, i) => settleWord(process, page, word, words[i]!, "GPU"));
}

/** I16, I24, I31, I32: everything that was taken is given back. */
async function tearDown(world: World): Promise<void> {
  const { devices, phys, sched, freeAtRest } = world.rig;
  for (const { svm } of world.vms) await svm.close();
  for (const { mm, exiting } of world.processes) if (!exiting) await mm.exit();
  world.file?.close();
  await sched.settle();
  checkQuiescent(phys);
  const left = (what: string, amount: number) => {
    if (amount !== 0) throw new InvariantError(`${amount} ${what} left at the end`);
  };
  for (const { device, dmaLive } of devices) {
    left("bytes of VRAM are", device.vramUsed);
    left("mappings of the window are", dmaLive.size);
    for (const { dpagemap } of device.regions) left("references on a page map are", dpagemap.refcount);
  }
  left("address spaces are", phys.mms.length);
  left("frames of RAM are", freeAtRest - phys.freePages);
  left("pages of swap are", phys.swap.used);
}
