/**
 * npm run bench -- [--quick] [--filter TEXT] [--json FILE] [--seed N]
 *
 * Measures the copy paths and the engine in headless Chrome, and the managers' plain loops in Node, prints tables, and
 * fails when a self-check fails. `--filter` keeps the rows whose id contains TEXT, for example `upload`, `2MiB`,
 * `paths/readback/gather`, `buddy`; `--json` writes the whole result (format: src/bench/result.ts).
 */
import { existsSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { bytes, duration, integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { withPage } from "./headless.mjs";

/** Loops that need no browser: the module, and how to run it. All give `opsPerSecond`, `cPerSecond` and `ratio`. */
const NODE_LOOPS = {
  gpuvm: {
    entry: "src/bench/gpuvm-loops.ts",
    run: (module) => module.runGpuvmLoops({ now, heapUsed }).map((row) => ({ ...row, name: `${row.name}, ${row.n}` })),
  },
  gpusvm: {
    entry: "src/bench/gpusvm-loops.ts",
    run: (module) => module.runGpusvmLoops({ now, heapUsed }).map((row) => ({ ...row, name: `${row.name}, ${row.n}` })),
  },
  buddy: { entry: "src/bench/buddy-loops.ts", run: (module) => module.runBuddyLoops(now) },
};

/** Widths of the tables: four sizes fit a terminal of 80 columns. */
const NAME_WIDTH = 24;
const CELL_WIDTH = 14;
const RATE_WIDTH = 6;

await main(async () => {
  const { values: options } = parse({
    options: {
      quick: { type: "boolean", default: false },
      filter: { type: "string", default: "" },
      json: { type: "string" },
      seed: { type: "string", default: "1" },
    },
  });
  const seed = integer("--seed", options.seed, { max: 0xffffffff });
  if (options.json !== undefined && !existsSync(dirname(resolve(options.json)))) {
    throw new UsageError(`--json: the folder of ${options.json} does not exist.`);
  }
  const filter = options.filter.toLowerCase();
  const loops = await runNodeLoops(filter);
  const pageOptions = { quick: options.quick, filter: options.filter, seed };
  const loopsOnly = filter !== "" && Object.keys(NODE_LOOPS).some((group) => filter.startsWith(group));
  const result = loopsOnly ? emptyResult(pageOptions) : await runPage(pageOptions, loops.length > 0);
  if (loops.length + result.rows.length === 0) throw noMatch(options.filter);
  if (loops.length > 0) result.loops = loops;
  printResult(result);
  if (options.json !== undefined) {
    await writeFile(options.json, `${JSON.stringify(result, null, 2)}\n`);
    print(`written: ${options.json}`);
  }
  return result.rows.some((row) => row.error !== null) ? 1 : 0;
});

/** The page's part; empty when the filter names rows of the Node loops only. */
async function runPage(options, mayBeEmpty) {
  try {
    return await withPage((page) => {
      const browser = { version: page.browser.version, args: page.browser.args };
      return page.call("src/bench/index.ts", "runBench", [{ ...options, browser }], {
        timeoutMs: 1800000,
        onProgress: ({ done, text }) => progress(`${Math.round(done * 100)} %  ${text}`),
      });
    });
  } catch (error) {
    if (error.name !== "ConfigError") throw error;
    if (mayBeEmpty) return emptyResult(options);
    throw noMatch(options.filter);
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

async function runNodeLoops(filter) {
  const rows = [];
  for (const [group, { entry, run }] of Object.entries(NODE_LOOPS)) {
    if (!group.includes(filter) && !filter.startsWith(group)) continue;
    const { loadTs } = await import("./load-ts.mjs");
    progress(`${group}: loops in Node`);
    const module = await loadTs(entry);
    for (const row of run(module)) rows.push({ group, ...row });
  }
  return rows.filter((row) => `${row.group}/${row.name}`.toLowerCase().includes(filter));
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

function printResult({ rows, loops = [], environment }) {
  if (environment) {
    const { gpu, browser, cores } = environment;
    const { vendor, architecture, description, fallback } = gpu?.adapter ?? {};
    const adapter = [vendor, architecture, description, fallback ? "(software)" : ""].filter(Boolean).join(" ");
    print(
      `adapter: ${adapter || "none needed"}; browser: ${browser?.version ?? environment.userAgent}; ${cores} cores`,
    );
  }
  for (const { title, members } of tablesOf(rows)) printTable(title, members);
  for (const row of rows) if (row.note !== undefined) print(`${row.group}: ${row.name}: ${row.note}`);
  if (loops.length > 0) printLoops(loops);
  for (const row of rows.filter((row) => row.error !== null)) {
    print(`FAILED ${[row.kind, row.name, bytes(row.bytes), row.layout].join(", ")}: ${row.error}`);
  }
  const measured = rows.filter((row) => row.ms !== null);
  if (measured.length > 0) {
    const spread = measured.map(({ ms }) => (ms.high - ms.low) / 2 / ms.median).sort((a, b) => a - b);
    const typical = Math.round(spread[spread.length >> 1] * 100);
    print(`\nmedian time and MB/s; * best of its column; typical 95 % interval of a median: ±${typical} %`);
    const wrong = rows.filter((row) => row.error !== null).length;
    print(
      wrong === 0
        ? `self-check: ${rows.length} of ${rows.length} passed`
        : `self-check: ${wrong} of ${rows.length} FAILED`,
    );
  }
}

/** Rows that belong into one table: same group, kind and layout. */
function tablesOf(rows) {
  const tables = new Map();
  for (const row of rows) {
    const key = [row.group === "paths" ? "" : row.group, row.kind, row.layout].filter((part) => part !== "").join(", ");
    if (!tables.has(key)) tables.set(key, { title: key, members: [] });
    tables.get(key).members.push(row);
  }
  return tables.values();
}

function printTable(title, rows) {
  const sizes = [...new Set(rows.map((row) => row.bytes))].sort((a, b) => a - b);
  const names = [...new Set(rows.map((row) => row.name))];
  const find = (name, size) => rows.find((row) => row.name === name && row.bytes === size);
  const best = new Map(
    sizes.map((size) => [size, Math.min(...rows.filter((r) => r.bytes === size && r.ms).map((r) => r.ms.median))]),
  );
  print(
    `\n${title.padEnd(NAME_WIDTH)}${sizes.map((size) => (size > 0 ? bytes(size) : "").padStart(CELL_WIDTH)).join("")}`,
  );
  for (const name of names) {
    const cells = sizes.map((size) => {
      const row = find(name, size);
      if (row === undefined) return "".padStart(CELL_WIDTH);
      if (row.ms === null) return "failed".padStart(CELL_WIDTH);
      const star = names.length > 1 && row.ms.median === best.get(size) && row.kind !== "bound" ? "*" : "";
      const moves = row.bytes > 0 && !row.name.startsWith("submit");
      const rate = moves ? Math.round(row.bytes / row.ms.median / 1000) : "";
      return `${star}${duration(row.ms.median)}`.padStart(CELL_WIDTH - RATE_WIDTH) + String(rate).padStart(RATE_WIDTH);
    });
    print(`${name.padEnd(NAME_WIDTH)}${cells.join("")}`);
  }
}

function printLoops(loops) {
  print(
    `\n${"loops in Node".padEnd(44)}${["M op/s", "C here*", "of C"].map((title) => title.padStart(9)).join("")}   B/item`,
  );
  for (const { group, name, opsPerSecond, ratio, bytesPerMapping } of loops) {
    const cells = [(opsPerSecond / 1e6).toFixed(2), (opsPerSecond / ratio / 1e6).toFixed(2), ratio.toFixed(2)];
    const memory = bytesPerMapping ? String(Math.round(bytesPerMapping)).padStart(9) : "";
    print(`${`${group}: ${name}`.padEnd(44)}${cells.map((cell) => cell.padStart(9)).join("")}${memory}`);
  }
  print("* the kernel's code in C on the reference machine, scaled by calibration loops that ran there and here");
}
