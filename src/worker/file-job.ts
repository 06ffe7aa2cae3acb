import { ConfigError } from "../base/errors.ts";
import { SZ_2M, PAGE_SIZE } from "../base/addr.ts";
import { Machine } from "../machine/machine.ts";
import type { Engine } from "../machine/machine.ts";
import { mainJobRam, runMainJob } from "../scenario/main-job.ts";
import type { MainJobResult, PhaseReport } from "../scenario/main-job.ts";
import { MachineProbe } from "./machine-probe.ts";
import type { Check } from "./protocol.ts";
import { countBytes, firstTransformError, gzipCrc32, joinCrc32 } from "./verify.ts";
import type { JobContext } from "./workbench.ts";

/** Where each phase begins on the progress line, 0 to 1. */
const PHASES: Readonly<
  Record<PhaseReport["name"], { readonly from: number; readonly share: number; readonly note: string }>
> = {
  map: { from: 0, share: 0.1, note: "the process maps the file" },
  histogram: { from: 0.1, share: 0.3, note: "histogram of all bytes" },
  crc32: { from: 0.4, share: 0.2, note: "CRC-32 of every 4 KiB block" },
  transform: { from: 0.6, share: 0.2, note: "XOR with a keystream, in place" },
  "read back": { from: 0.8, share: 0.2, note: "the CPU reads the result back" },
};

/** VRAM where the user names none: half the file, so that it has to share, between 4 and 48 MiB. */
function defaultVram(size: number): number {
  return Math.min(48 << 20, Math.max(4 << 20, Math.floor(size / 2 / SZ_2M) * SZ_2M));
}

/**
 * The main job over a file of the user's: histogram, CRC-32 and transform through shared virtual memory, each compared
 * with a result that the emulator had no part in. True when all are right.
 */
export async function runFileJob(
  engine: Engine,
  file: File,
  vramBytes: number | null,
  context: JobContext,
): Promise<boolean> {
  // Checked before the machine is built, which would be sized by it.
  if (file.size === 0) throw new ConfigError("file", `${file.name} is empty; at least one byte is wanted`);
  context.tell({ title: file.name, note: "building the machine" });
  const vram = vramBytes ?? defaultVram(file.size);
  const machine = new Machine({ engine, ram: mainJobRam(file.size) });
  try {
    const process = machine.createProcess();
    const vm = machine.createDevice({ vram }).vm(process);
    machine.sched.gate = context.gate.pass;
    context.machine(new MachineProbe(machine));

    const expected = new Uint32Array(256);
    const read = async (offset: number, length: number) =>
      new Uint8Array(await file.slice(offset, offset + length).arrayBuffer());
    let wrongAt = -1;
    const source = {
      size: file.size,
      read: async (offset: number, length: number) => {
        const bytes = await read(offset, length);
        countBytes(expected, bytes);
        return bytes;
      },
    };
    const result = await runMainJob(process, vm, source, {
      onTransformed: async (offset, bytes) => {
        if (wrongAt < 0) wrongAt = firstTransformError(await read(offset, bytes.length), bytes, offset);
        // After the last piece the job unmaps everything; what the page shows is what was there before.
        if (offset + bytes.length >= file.size) context.freeze();
      },
      onProgress: (phase, done) =>
        context.tell({ note: PHASES[phase].note, progress: PHASES[phase].from + PHASES[phase].share * done }),
    });
    context.tell({ note: "comparing with the browser's own results", progress: 1 });
    const crc = await gzipCrc32(file);
    const checks = compare(result, expected, crc, wrongAt, file.size);
    const passed = checks.every(({ ok }) => ok);
    context.tell({
      note: passed ? "all results are right" : "a result differs",
      checks,
      report: report(file, vram, result, passed),
    });
    return passed;
  } finally {
    await machine.close();
  }
}

function compare(result: MainJobResult, bytes: Uint32Array, crc: number, wrongAt: number, size: number): Check[] {
  const bin = result.histogram.findIndex((n, value) => n !== bytes[value]);
  const joined = joinCrc32(result.crc32, PAGE_SIZE, size);
  const must = (ok: boolean, text: string): Check => ({ kind: "must", ok, text });
  return [
    must(
      bin < 0,
      bin < 0
        ? "the histogram equals a count by the CPU"
        : `byte value ${bin} was counted ${result.histogram[bin]} times, not ${bytes[bin]}`,
    ),
    must(joined === crc, `the CRC-32 of all blocks joined is ${hex32(joined)}, gzip's is ${hex32(crc)}`),
    must(
      wrongAt < 0,
      wrongAt < 0 ? "the CPU reads every transformed byte as it should be" : `byte ${wrongAt} is transformed wrongly`,
    ),
  ];
}

function hex32(n: number): string {
  return `0x${n.toString(16).padStart(8, "0")}`;
}

function report(file: File, vram: number, result: MainJobResult, passed: boolean): [string, string][] {
  const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
  const seconds = result.phases.reduce((sum, phase) => sum + phase.seconds, 0);
  const lines: [string, string][] = [
    ["Verified", passed ? "histogram, crc32, transform" : "no: see the checks"],
    ["File", mib(file.size)],
    ["VRAM", mib(vram)],
  ];
  for (const { name, seconds: time } of result.phases)
    lines.push([name, `${(file.size / 1e6 / Math.max(time, 1e-6)).toFixed(0)} MB/s`]);
  lines.push(["Time", `${seconds.toFixed(2)} s`]);
  return lines;
}
