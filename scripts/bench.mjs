/**
 * npm run bench -- [--quick] [--filter TEXT] [--json FILE] ...; `--help` prints the rest.
 *
 * Measures the copy paths and the engine in headless Chrome, and the managers' plain loops in Node, prints tables, and
 * fails when a self-check fails. docs/copy-paths.md explains the method; docs/bench-result.schema.json is the format.
 */
import { existsSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { printComparison, printResult } from "./bench-print.mjs";
import { integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { withPage } from "./headless.mjs";

const HELP = `npm run bench -- [OPTIONS]            measures, prints tables, fails when a byte is wrong
npm run bench -- --compare A B        what changed from result A to result B beyond the noise
npm run bench -- --show FILE          prints a result again

  --quick          fewer sizes and samples: a minute instead of many
  --filter TEXT    only rows whose id contains TEXT: upload, 2MiB, paths/readback, random,
                   "first touch", "8 in flight", svm, buddy; "paths/" is all copy paths
  --select LIST    exactly these copy paths, as in a link of the page: part behind "#bench?", e.g.
                   "kind=upload&size=64KiB,2MiB&layout=random"; --quick: fewer samples only
  --limits WHICH   ask for the limits of the adapter (the default), or for WebGPU's: default
  --gpu            print the GPU's own times (timestamp queries) too
  --json FILE      write the whole result; format: docs/bench-result.schema.json
  --csv FILE       write a line per row
  --plot FOLDER    draw the copy paths: bandwidth by size, path by size, times of one size
  --seed N         other data, places and order
  --help           this

Exit status 1 when a self-check failed, in --show and --compare too. Ctrl-C ends the run: what was
measured until then is printed and written as ever, and the result says that it is incomplete.`;

const PAGE_MODULE = "src/bench/index.ts";

/**
 * Loops that need no browser: the module, and how to run it; the options are those of their functions. All give
 * `opsPerSecond`, `cPerSecond` and `ratio`.
 */
const NODE_LOOPS = {
  gpuvm: {
    entry: "src/bench/gpuvm-loops.ts",
    run: (module, options) => named(module.runGpuvmLoops(options)),
  },
  gpusvm: {
    entry: "src/bench/gpusvm-loops.ts",
    run: (module, options) => named(module.runGpusvmLoops(options)),
  },
  buddy: { entry: "src/bench/buddy-loops.ts", run: (module, options) => module.runBuddyLoops(now, options.stretches) },
};

/** 2 of 3 sizes and 3 of 7 times each, 1 of 3 stretches of the buddy allocator's: a fifth of the time. */
const QUICK_LOOPS = { sizes: [1000, 10000], repetitions: 3, stretches: 1 };

/** What ended the run early; a second signal ends the process at once. */
let interrupted = null;
const EXIT_STATUS = { SIGINT: 130, SIGTERM: 143 };
const signalled = new Promise((_, reject) => {
  for (const signal of Object.keys(EXIT_STATUS)) {
    process.once(signal, () => {
      interrupted = signal;
      reject(new Error(`ended by ${signal}`));
    });
  }
});
signalled.catch(() => {});

/** The size whose single times are drawn. */
const LATENCY_BYTES = [2 << 20, 64 << 10, 4 << 10];

await main(async () => {
  const { values: options, positionals } = parse({
    allowPositionals: true,
    options: {
      quick: { type: "boolean", default: false },
      filter: { type: "string", default: "" },
      select: { type: "string" },
      json: { type: "string" },
      csv: { type: "string" },
      plot: { type: "string" },
      seed: { type: "string", default: "1" },
      limits: { type: "string", default: "adapter" },
      gpu: { type: "boolean", default: false },
      compare: { type: "boolean", default: false },
      show: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (options.help) return print(HELP);
  if (options.compare) return compare(positionals);
  if (positionals.length > 0)
    throw new UsageError(`Unexpected argument ${JSON.stringify(positionals[0])} (see --help).`);
  const seed = integer("--seed", options.seed, { max: 0xffffffff });
  if (!["adapter", "default"].includes(options.limits)) {
    throw new UsageError(`--limits is ${JSON.stringify(options.limits)}, it must be adapter or default.`);
  }
  for (const name of ["json", "csv"]) {
    if (options[name] !== undefined && !existsSync(dirname(resolve(options[name])))) {
      throw new UsageError(`--${name}: the folder of ${options[name]} does not exist.`);
    }
  }
  const { quick, filter, limits, select } = options;
  const selection = select === undefined ? {} : { selection: (await offline()).selectionFromQuery(select) };
  const result =
    options.show === undefined
      ? await run({ quick, filter, seed, limits, ...selection })
      : await readResult(options.show);
  printResult(result, { gpu: options.gpu });
  if (options.json !== undefined) await write(options.json, `${JSON.stringify(result)}\n`);
  if (options.csv !== undefined) await write(options.csv, (await offline()).toCsv(result));
  if (options.plot !== undefined) await plot(result, options.plot);
  if (interrupted !== null) return EXIT_STATUS[interrupted];
  return result.incomplete !== undefined || result.rows.some((row) => row.error !== null) ? 1 : 0;
});

async function run(options) {
  const filter = options.filter.toLowerCase();
  const loops = options.selection === undefined ? await runNodeLoops(filter, options.quick) : [];
  const loopsOnly = filter !== "" && Object.keys(NODE_LOOPS).some((group) => filter.startsWith(group));
  const result = loopsOnly ? emptyResult(options) : await runPage(options, loops.length > 0);
  if (loops.length + result.rows.length === 0 && result.incomplete === undefined) throw noMatch(options.filter);
  if (loops.length > 0) result.loops = loops;
  return result;
}

/**
 * The page's part; empty when the filter names rows of the Node loops only. When the run ends early, by a signal or because
 * the page died, the result is what was measured until then.
 */
async function runPage(options, mayBeEmpty) {
  const rows = [];
  let environment = null;
  const onProgress = (report) => {
    progress(`${Math.round(report.done * 100)} %  ${report.text}`);
    rows.push(...report.rows);
    environment = report.environment ?? environment;
  };
  try {
    return await withPage(
      (page) => {
        const browser = { version: page.browser.version, args: page.browser.args };
        const done = page.call(PAGE_MODULE, "runBench", [{ ...options, browser }], {
          timeoutMs: 3600000,
          onProgress,
        });
        // Nobody waits for it after a signal.
        done.catch(() => {});
        return Promise.race([done, signalled]);
      },
      { modules: [PAGE_MODULE], keepsOnInterrupt: true },
    );
  } catch (error) {
    if (error.name !== "ConfigError" && (rows.length > 0 || interrupted !== null)) {
      return { ...emptyResult(options), environment, rows, incomplete: error.message };
    }
    if (error.name !== "ConfigError") throw error;
    if (mayBeEmpty) return emptyResult(options);
    throw options.selection === undefined
      ? noMatch(options.filter)
      : new UsageError("--select leaves nothing to measure.");
  }
}

function emptyResult(options) {
  return {
    format: "webgpu-svm-bench",
    version: 1,
    date: new Date().toISOString(),
    options,
    environment: null,
    rows: [],
  };
}

function noMatch(filter) {
  return new UsageError(`--filter: no benchmark has ${JSON.stringify(filter)} in its name.`);
}

async function runNodeLoops(filter, quick) {
  const loopOptions = { now, heapUsed, ...(quick ? QUICK_LOOPS : {}) };
  const rows = [];
  for (const [group, { entry, run }] of Object.entries(NODE_LOOPS)) {
    if (!group.includes(filter) && !filter.startsWith(group)) continue;
    const { loadTs } = await import("./load-ts.mjs");
    progress(`${group}: loops in Node`);
    const module = await loadTs(entry);
    for (const row of run(module, loopOptions)) rows.push({ group, ...row });
  }
  return rows.filter((row) => `${row.group}/${row.name}`.toLowerCase().includes(filter));
}

function named(rows) {
  return rows.map((row) => ({ ...row, name: `${row.name}, ${row.n}` }));
}

function now() {
  return performance.now();
}

/** Bytes in use after a collection, those of typed arrays included. */
function heapUsed() {
  setFlagsFromString("--expose-gc");
  runInNewContext("gc")();
  const { heapUsed: onHeap, external } = process.memoryUsage();
  return onHeap + external;
}

/** The project's own code for results, without a browser. */
async function offline() {
  const { loadTs } = await import("./load-ts.mjs");
  return loadTs("src/bench/offline.ts");
}

async function readResult(file) {
  const text = await readFile(file, "utf8").catch((error) => {
    throw new UsageError(
      error.code === "ENOENT" ? `there is no file ${file}.` : `${file} cannot be read: ${error.code}.`,
    );
  });
  return (await offline()).parseResult(text, file);
}

async function compare(files) {
  if (files.length !== 2) throw new UsageError("--compare wants two files, the earlier one first.");
  const [before, after] = [await readResult(files[0]), await readResult(files[1])];
  const comparison = (await offline()).compareResults(before, after);
  printComparison(comparison);
  return after.rows.some((row) => row.error !== null) ? 1 : 0;
}

/** A picture for every table of copy paths, and one of all directions for every shape. */
async function plot(result, folder) {
  const { bandwidthPlot, heatPlot, latencyPlot, facetsOf } = await offline();
  const facets = facetsOf(result.rows);
  if (facets.length === 0) throw new UsageError("--plot: the result has no copy paths.");
  await mkdir(folder, { recursive: true });
  const shapes = groupBy(facets, shapeOf);
  for (const [shape, members] of shapes) await write(join(folder, `heat-${shape}.svg`), heatPlot(result, members));
  for (const facet of facets) {
    const name = `${facet.kind}-${shapeOf(facet)}.svg`;
    const rows = result.rows.filter((row) => row.kind === facet.kind && shapeOf(row) === shapeOf(facet));
    if (new Set(rows.map((row) => row.bytes)).size > 1) {
      await write(join(folder, `bandwidth-${name}`), bandwidthPlot(result, facet));
    }
    const bytes = LATENCY_BYTES.find((size) => rows.some((row) => row.bytes === size)) ?? rows[0].bytes;
    await write(join(folder, `times-${name}`), latencyPlot(result, facet, bytes));
  }
}

function shapeOf({ layout, mode }) {
  return [layout, mode ?? ""]
    .filter((part) => part !== "")
    .join("-")
    .replaceAll(" ", "-");
}

function groupBy(items, key) {
  const groups = new Map();
  for (const item of items) groups.set(key(item), [...(groups.get(key(item)) ?? []), item]);
  return groups;
}

async function write(file, text) {
  await writeFile(file, text);
  print(`written: ${file}`);
}
