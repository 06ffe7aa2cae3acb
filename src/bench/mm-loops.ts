import { SZ_2M } from "../base/addr.ts";
import { assert } from "../base/assert.ts";
import { REFERENCE_ENGINE } from "../machine/engine.ts";
import { Machine } from "../machine/machine.ts";
import type { Process } from "../machine/process.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import { type Case, measure } from "./harness.ts";
import type { BenchRow } from "./result.ts";
import type { Summary } from "./stats.ts";

/**
 * The emulated CPU side by itself, without a GPU: the system calls that programs make most, and the speed at which a
 * process reads its memory, beside a plain copy of the same bytes between typed arrays.
 */
const GROUP = "mm";
const LOOP_BYTES = SZ_2M;
const FORK_BYTES = 64 << 20;
const READ_BYTES = 32 << 20;
const PIECE = 1 << 20;
/** A sequential read is to be at least so fast, as a part of the plain copy's speed. */
const LEAST_READ_SPEED = 0.5;

type Row = Omit<BenchRow, "ms" | "error">;

export const mmLoops: BenchGroup = {
  name: GROUP,
  async run(context) {
    const row = (kind: string, name: string, bytes: number): Row => ({ group: GROUP, kind, name, bytes, layout: "" });
    const loops = [
      { row: row("call", "mmap, touch, munmap", LOOP_BYTES), make: touchLoop },
      { row: row("call", "mmap populated, munmap", LOOP_BYTES), make: populateLoop },
      { row: row("call", "fork, child exits", FORK_BYTES), make: forkLoop },
    ].filter((loop) => context.selected(loop.row));
    const reads: [Row, Row] = [row("read", "through the process", READ_BYTES), row("read", "plain copy", READ_BYTES)];
    const rows: BenchRow[] = [];
    for (const { row: of, make } of loops) rows.push({ ...of, ...(await timeLoop(make, of.name, context)) });
    if (reads.some((r) => context.selected(r))) rows.push(...(await compareReads(reads, context)));
    return rows;
  },
};

type Loop = (process: Process) => Promise<() => Promise<void>>;

/** A fresh mapping, a store to each of its pages by one write, and its end. */
const touchLoop: Loop = async (process) => {
  const data = new Uint8Array(LOOP_BYTES).fill(7);
  return async () => {
    const a = await process.mmap(LOOP_BYTES);
    await process.write(a, data);
    await process.munmap(a, LOOP_BYTES);
  };
};

const populateLoop: Loop = async (process) => async () => {
  const a = await process.mmap(LOOP_BYTES, { populate: true });
  await process.munmap(a, LOOP_BYTES);
};

const forkLoop: Loop = async (process) => {
  const a = await process.mmap(FORK_BYTES);
  await process.fill(a, FORK_BYTES, 7);
  return async () => {
    const child = await process.fork();
    await child.exit();
  };
};

function openMachine(bytes: number): Machine {
  return new Machine({ engine: REFERENCE_ENGINE, ram: bytes + (16 << 20), traceEvents: 64 });
}

async function timeLoop(make: Loop, name: string, context: BenchContext): Promise<{ ms: Summary; error: null }> {
  const machine = openMachine(FORK_BYTES);
  const loop = await make(machine.createProcess());
  const [outcome] = await measure([{ name, run: loop }], options(context));
  await machine.close();
  if ("error" in outcome!) throw outcome.error;
  return { ms: outcome!.ms, error: null };
}

/** Both read the same bytes in pieces of 1 MiB into fresh arrays; a sum over each proves that they arrived. */
async function compareReads([through, plain]: [Row, Row], context: BenchContext): Promise<BenchRow[]> {
  const machine = openMachine(READ_BYTES);
  const process = machine.createProcess();
  const source = new Uint8Array(READ_BYTES);
  for (let i = 0; i < source.length; i += 4) source[i] = context.random.u32();
  const a = await process.mmap(READ_BYTES);
  await process.write(a, source);
  let last: Uint8Array = source;
  const cases: Case[] = [
    {
      name: through.name,
      async run() {
        for (let at = 0; at < READ_BYTES; at += PIECE) last = await process.read(a + at, PIECE);
      },
    },
    {
      name: plain.name,
      run() {
        for (let at = 0; at < READ_BYTES; at += PIECE) last = source.slice(at, at + PIECE);
      },
    },
  ];
  const [read, copy] = await measure(cases, options(context));
  const whole = await process.read(a, READ_BYTES);
  const isRight = last.length === PIECE && whole.every((byte, i) => byte === source[i]);
  await machine.close();
  assert("ms" in read! && "ms" in copy!, "a read failed");
  const part = copy.ms.median / read.ms.median;
  const error = !isRight
    ? "the bytes read are not those written"
    : part < LEAST_READ_SPEED
      ? `${(part * 100).toFixed(0)} % of the plain copy's speed, ${LEAST_READ_SPEED * 100} % is the least`
      : null;
  return [
    { ...through, ms: read.ms, error, note: `${(part * 100).toFixed(0)} % of the plain copy's speed` },
    { ...plain, ms: copy.ms, error: null },
  ];
}

function options(context: BenchContext) {
  const { random, quick } = context;
  return {
    random,
    now: context.now,
    warmUps: 3,
    samples: quick ? 10 : 40,
    timeBoxMs: quick ? 500 : 3000,
    minSamples: 5,
    onProgress: (done: number) => context.progress(done, "system calls and reads"),
  };
}
