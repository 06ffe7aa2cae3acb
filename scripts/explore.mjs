/**
 * npm run explore -- [--seeds N] [--from N] [--case NAME] [--seed N] [--mutation NAME] [--mutations] [--workers N] [--list]
 *
 * Schedule exploration (src/explore): races of CPU and GPU, each seed a program and an order of its steps, with every
 * invariant checked after every step, on the plain engine. Runs `--seeds` seeds from `--from` on of every case, or of the
 * case given. What fails is printed with its seed, made as short as it goes. Last line `N schedules, N violations`. Exit
 * status 1 when something failed.
 *
 * `--seed` runs one seed of one case. `--mutation` breaks the stack on purpose and tells which seed shows it;
 * `--mutations` does so with every fault there is and prints a table. `--list` names cases and faults.
 */
import { availableParallelism } from "node:os";
import { Worker } from "node:worker_threads";
import { duration, integer, main, parse, print, progress, UsageError } from "./cli.mjs";
import { bundleTs } from "./load-ts.mjs";

const OPTIONS = {
  seeds: { type: "string" },
  from: { type: "string", default: "1" },
  case: { type: "string" },
  seed: { type: "string" },
  mutation: { type: "string" },
  mutations: { type: "boolean", default: false },
  workers: { type: "string", default: String(Math.min(availableParallelism(), 8)) },
  list: { type: "boolean", default: false },
};
const DEFAULT_SEEDS = "100";
/** Seeds of each case for a fault that is given without a number. */
const MUTATION_SEEDS = "200";
/** A worker reports after every seed; what takes longer has stopped for good. */
const STALL_MS = 180000;
/** Violations after which a case is given up. */
const MAX_FINDINGS = 3;
const host = { tick: (f) => process.nextTick(f) };

await main(async () => {
  const { values: options } = parse({ options: OPTIONS });
  const workers = integer("--workers", options.workers, { min: 1, max: 64 });
  const from = integer("--from", options.from);
  const isMutating = options.mutations || options.mutation !== undefined;
  const seeds = integer("--seeds", options.seeds ?? (isMutating ? MUTATION_SEEDS : DEFAULT_SEEDS), { min: 1 });
  const seed = options.seed === undefined ? null : integer("--seed", options.seed);
  if (seed !== null && options.case === undefined) throw new UsageError("--seed wants a --case.");
  progress("loading the stack");
  const href = await bundleTs("src/explore/index.ts");
  const explorer = await import(href);
  const { CASES, MUTATIONS } = explorer;
  if (options.list) return list(explorer);
  if (options.mutation !== undefined) checkName("--mutation", options.mutation, MUTATIONS);
  if (options.case !== undefined) {
    const names = CASES.map(({ name }) => name);
    checkName("--case", options.case, names);
  }
  if (seed !== null) return runOne(explorer, options.case, seed, options.mutation ?? null);
  const cases = options.case === undefined ? CASES : [explorer.caseByName(options.case)];
  if (!isMutating) return exploreAll(href, explorer, { cases, from, end: from + seeds, workers });
  const wanted = options.mutation === undefined ? MUTATIONS : [options.mutation];
  return findMutations(href, explorer, wanted, { cases: options.case === undefined ? null : cases, seeds, workers });
});

function checkName(option, name, names) {
  if (!names.includes(name)) {
    throw new UsageError(`${option} is ${JSON.stringify(name)}, it must be one of ${names.join(", ")}.`);
  }
}

function list({ CASES, FAULTS }) {
  print("cases:");
  const width = 2 + Math.max(...CASES.map(({ name }) => name.length));
  for (const { name, about } of CASES) print(`  ${name.padEnd(width)}${about}`);
  print("faults:");
  for (const { name, breaks } of FAULTS) print(`  ${name.padEnd(26)}${breaks}`);
  return 0;
}

/** One seed, by itself, maybe under a fault. */
async function runOne(explorer, name, seed, mutation) {
  explorer.mutate(mutation);
  const { violation, steps } = await explorer.runSeed(explorer.caseByName(name), seed, host);
  if (violation === null) {
    print(`${name} seed ${seed}: ${steps} steps, no violation`);
    return 0;
  }
  print(`${name} seed ${seed}: step ${violation.step}: ${violation.message}`);
  await printShrunk(explorer, name, seed, violation);
  return 1;
}

async function printShrunk(explorer, name, seed, violation) {
  progress("leaving out what is not needed");
  const program = explorer.programOf(explorer.caseByName(name), seed);
  const shrunk = await explorer.shrink(program, seed, violation, host);
  print(`  ${explorer.describeProgram(shrunk.program).replaceAll("\n", "\n  ")}`);
  print(`  in this order of steps (seed ${shrunk.seed}): step ${shrunk.violation.step}: ${shrunk.violation.message}`);
}

async function exploreAll(href, explorer, { cases, from, end, workers }) {
  const started = performance.now();
  let wanted = 0;
  for (let seed = from; seed < end; seed++) {
    wanted += cases.filter(({ every = 1 }) => cases.length === 1 || seed % every === 0).length;
  }
  const names = cases.map(({ name }) => name);
  let schedules = 0;
  let steps = 0;
  const findings = [];
  const shares = Array.from({ length: Math.min(workers, end - from) }, (_, i) => i);
  await Promise.all(
    shares.map((i) => {
      const request = { names, from: from + i, end, stride: shares.length, maxFindings: MAX_FINDINGS };
      return inWorker(href, { explore: request }, (message) => {
        schedules += message.schedules;
        steps += message.steps;
        findings.push(...message.findings);
        const rate = schedules / ((performance.now() - started) / 1000);
        progress(`${schedules} of ${wanted} schedules, ${Math.round(rate)}/s, ${findings.length} violations`);
      });
    }),
  );
  const ms = performance.now() - started;
  for (const { name, seed, message, isRepeatable } of findings) {
    print(`FAIL ${name} seed ${seed}: ${message}`);
    if (!isRepeatable) {
      print("  only on a machine that has gone through the seeds before it");
      continue;
    }
    print(`  npm run explore -- --case ${name} --seed ${seed}`);
    const { violation } = await explorer.runSeed(explorer.caseByName(name), seed, host);
    if (violation !== null) await printShrunk(explorer, name, seed, violation);
  }
  print(
    `${steps} steps in ${duration(ms)}, ${Math.round(schedules / (ms / 1000))} schedules/s with ${workers} workers`,
  );
  print(`${schedules} schedules, ${findings.length} violations`);
  return findings.length === 0 ? 0 : 1;
}

async function findMutations(href, { FAULTS }, wanted, { cases, seeds, workers }) {
  const left = [...wanted];
  const width = Math.max(...wanted.map((name) => name.length));
  let missed = 0;
  const work = async () => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      const known = FAULTS.find((fault) => fault.name === name);
      const names = cases === null ? [known.case] : cases.map((each) => each.name);
      let found = null;
      progress(`${name}: ${known.breaks}`);
      const request = { mutation: name, names, seeds };
      await inWorker(href, { mutation: request }, (message) => {
        found = message.finding;
      });
      if (found === null) missed += 1;
      const result =
        found === null
          ? `not found in ${seeds} seeds of ${names.join(", ")}`
          : `${found.name.padEnd(13)}${String(found.seed).padStart(4)}  ${found.message}`;
      print(`${name.padEnd(width)}  ${result}`);
    }
  };
  print(`${"fault".padEnd(width)}  case         seed  found as`);
  await Promise.all(Array.from({ length: Math.min(workers, wanted.length) }, work));
  print(`${wanted.length} faults, ${wanted.length - missed} found`);
  return missed === 0 ? 0 : 1;
}

/** Runs one request in a thread of its own; rejects when it fails or stands still. */
function inWorker(href, request, onMessage) {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL("./explore-worker.mjs", import.meta.url), { workerData: { href, request } });
    let at = "the start";
    let timer = null;
    const watch = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        void worker.terminate();
        reject(new Error(`a schedule does not end, after ${at}`));
      }, STALL_MS);
    };
    watch();
    worker.on("message", (message) => {
      watch();
      at = message.at ?? at;
      onMessage(message);
    });
    worker.on("error", (error) => {
      clearTimeout(timer);
      reject(error);
    });
    worker.on("exit", (code) => {
      clearTimeout(timer);
      if (code === 0) resolve();
      else reject(new Error(`a worker ended with status ${code} after ${at}`));
    });
  });
}
