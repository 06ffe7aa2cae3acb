/**
 * npm run demo -- [FILE] [--vram MIB] [--device webgpu|reference] [--trace OUT.pftrace]
 *
 * The main job without a window: maps FILE (default: the running Node executable) into a process of the emulated
 * machine in headless Chrome and runs three kernels over it through virtual addresses: byte histogram, CRC-32 per
 * 4 KiB block, in-place XOR with a keystream. All results are checked here against the file itself (demo-check.mjs).
 *
 * `--trace` writes what happened as a Perfetto trace, to be opened in ui.perfetto.dev.
 *
 * The page's half is `runDemo` of src/worker/headless-demo.ts. It fetches the file from this process and sends its results
 * back: the checksums as they are, the transformed file as digests of its pieces, and a piece whole where its digest is not
 * that of what is computed here.
 */
import { accessSync, constants, existsSync, statSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { bytes, duration, integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { FileOracle } from "./demo-check.mjs";
import { demoRoutes } from "./demo-routes.mjs";
import { withPage } from "./headless.mjs";
import { checkWritable } from "./receive.mjs";

const DEFAULT_VRAM_MIB = 48;
const MIN_VRAM_MIB = 4;
const PAGE_MODULE = "src/worker/headless-demo.ts";
/** The page waits for WebGPU between two reports, and the software adapter may take its time. */
const STALL_MS = 180000;

await main(async () => {
  const { values: options, positionals } = parse({
    allowPositionals: true,
    options: {
      vram: { type: "string", default: String(DEFAULT_VRAM_MIB) },
      device: { type: "string", default: "webgpu" },
      trace: { type: "string" },
    },
  });
  if (positionals.length > 1) throw new UsageError(`one file at a time: ${positionals.length} were given.`);
  if (options.device !== "webgpu" && options.device !== "reference") {
    throw new UsageError(`--device is ${JSON.stringify(options.device)}, it must be webgpu or reference.`);
  }
  const vramBytes = vramOf(options.vram);
  const path = resolve(positionals[0] ?? process.execPath);
  checkReadable(path);
  if (options.trace !== undefined) checkWritable(options.trace);

  const unreadable = (error) => {
    throw new UsageError(`${path} cannot be read: ${error.message}`);
  };
  const oracle = await FileOracle.open(path).catch(unreadable);
  try {
    const start = performance.now();
    const { result, crcs, trace } = await runInPage(oracle, {
      vramBytes,
      device: options.device,
      traced: options.trace !== undefined,
    });
    if (options.trace !== undefined) writeFileSync(options.trace, trace);
    await oracle.ready.catch(unreadable);
    const seconds = (performance.now() - start) / 1000;
    const verdicts = {
      histogram: oracle.checkHistogram(result.histogram),
      crc32: oracle.checkCrcs(crcs),
      transform: oracle.checkTransformed(),
    };
    printReport(path, oracle.size, vramBytes, result, seconds);
    if (options.trace !== undefined)
      print(`trace     ${options.trace}, ${bytes(trace.length)}; opens in ui.perfetto.dev\n`);
    return printVerdicts(verdicts) ? 0 : 1;
  } finally {
    await oracle.close();
  }
});

/** Bytes of a `--vram` in MiB. @throws {UsageError} */
function vramOf(text) {
  const mib = integer("--vram", text);
  if (mib < MIN_VRAM_MIB) throw new UsageError(`--vram is ${mib} MiB, the machine needs at least ${MIN_VRAM_MIB} MiB.`);
  if (mib % 2 !== 0) throw new UsageError(`--vram is ${mib} MiB, it must be a multiple of 2 MiB.`);
  return mib * 1048576;
}

/** @throws {UsageError} */
function checkReadable(path) {
  if (!existsSync(path)) throw new UsageError(`there is no file ${path}.`);
  const stat = statSync(path);
  if (!stat.isFile()) throw new UsageError(`${path} is not a file.`);
  if (stat.size === 0) throw new UsageError(`${path} is empty, there is nothing to compute.`);
  try {
    accessSync(path, constants.R_OK);
  } catch {
    throw new UsageError(`${path} may not be read by this user.`);
  }
}

async function runInPage(oracle, { vramBytes, device, traced }) {
  const { routes, urls, received } = demoRoutes(oracle);
  const options = { ...urls, traceUrl: traced ? urls.traceUrl : null, size: oracle.size, vramBytes, device };
  progress("starting the browser");
  const result = await withPage(
    (page) =>
      page.call(PAGE_MODULE, "runDemo", [options], {
        timeoutMs: 3600000,
        stallMs: STALL_MS,
        onProgress: ({ done, text }) => progress(`${percent(done)}  ${text}`),
      }),
    { modules: [PAGE_MODULE], routes },
  );
  return { result, ...received };
}

function printReport(path, size, vramBytes, { adapter, phases }, seconds) {
  const { vendor, architecture, description, fallback } = adapter;
  const name = [vendor, architecture, description, fallback ? "(software)" : ""].filter(Boolean).join(" ");
  print(`file      ${path}, ${bytes(size)}`);
  print(`adapter   ${name}`);
  print(`VRAM      ${bytes(vramBytes)}, ${Math.round((vramBytes / size) * 100)} % of the file\n`);
  print(row(["", "faults", "rounds", "in", "out", "evicted", "MiB in", "MiB out", "seconds", "MB/s"]));
  const total = {};
  for (const { name: phase, seconds: time, counters } of phases) {
    print(phaseRow(phase, counters, time, size));
    for (const [key, value] of Object.entries(counters)) total[key] = (total[key] ?? 0) + value;
  }
  const inAll = phases.reduce((sum, phase) => sum + phase.seconds, 0);
  print(phaseRow("all", total, inAll, null));
  print("in, out: migrations to VRAM and back; evicted: ranges put out to make room");
  print(`${duration(seconds * 1000)} with the browser's start and the checks\n`);
}

/** `size`: bytes that the phase worked on, null for no rate. */
function phaseRow(name, counters, seconds, size) {
  const mib = (n) => (n / 1048576).toFixed(1);
  const { gpuFault, cpuFault, rounds, migrationsIn, migrationsOut, evict, toDevBytes, toSysBytes } = counters;
  const rate = size === null ? "" : Math.round(size / Math.max(seconds, 1e-6) / 1e6);
  const cells = [gpuFault + cpuFault, rounds, migrationsIn, migrationsOut, evict, mib(toDevBytes), mib(toSysBytes)];
  return row([name, ...cells, seconds.toFixed(2), rate]);
}

function row([name, ...cells]) {
  return String(name).padEnd(10) + cells.map((cell) => String(cell).padStart(8)).join("");
}

/** True when all results are right. */
function printVerdicts(verdicts) {
  const right = Object.keys(verdicts).filter((name) => verdicts[name] === null);
  for (const [name, wrong] of Object.entries(verdicts)) {
    if (wrong !== null) print(`WRONG ${name}: ${wrong}`);
  }
  print(`verified: ${right.length > 0 ? right.join(", ") : "nothing"}`);
  return right.length === Object.keys(verdicts).length;
}

function percent(done) {
  return `${Math.floor(done * 100)} %`;
}
