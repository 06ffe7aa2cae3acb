/** What all commands share: options, the one sentence of a failure, a progress line, numbers for people. */
import { parseArgs } from "node:util";

/** Wrong use of a command; the message is the sentence that the user sees. */
export class UsageError extends Error {
  name = "UsageError";
}

/**
 * Runs a command's body and turns what it throws into one sentence on stderr and exit status 1.
 * @param {() => Promise<void | number>} body an exit status, 0 when there is none
 */
export async function main(body) {
  try {
    process.exitCode = (await body()) ?? 0;
  } catch (error) {
    progress("");
    process.stderr.write(`error: ${sentence(error)}\n`);
    if (process.env.DEBUG) process.stderr.write(`${error?.pageStack ?? error?.stack}\n`);
    process.exitCode = 1;
  }
}

function sentence(error) {
  const text = String(error?.message ?? error).split("\n", 1)[0];
  return /[.!?]$/.test(text) ? text : `${text}.`;
}

/**
 * `parseArgs` with our kind of message.
 * @template {import("node:util").ParseArgsConfig} T
 * @param {T} config
 * @returns {ReturnType<typeof parseArgs<T>>}
 * @throws {UsageError}
 */
export function parse(config) {
  try {
    return parseArgs({ ...config, args: process.argv.slice(2) });
  } catch (error) {
    const names = Object.keys(config.options ?? {}).map((name) => `--${name}`);
    throw new UsageError(`${error.message.split(/\.\s/, 1)[0]} (options: ${names.join(", ")}).`);
  }
}

/** A whole number of an option. @throws {UsageError} */
export function integer(name, text, { min = 0, max = Number.MAX_SAFE_INTEGER } = {}) {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!(value >= min && value <= max)) {
    throw new UsageError(`${name} is ${JSON.stringify(text)}, it must be a whole number from ${min} to ${max}.`);
  }
  return value;
}

let shown = false;
let printedAt = -Infinity;

/** The progress line on stderr, replaced by the next one; "" takes it away. Where stderr is a file: a line now and then. */
export function progress(text) {
  if (process.stderr.isTTY) {
    if (text === "" && !shown) return;
    process.stderr.write(`\r\x1b[2K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
    shown = text !== "";
  } else if (text !== "" && performance.now() - printedAt > 5000) {
    printedAt = performance.now();
    process.stderr.write(`${text}\n`);
  }
}

/** Takes the progress line away and prints to stdout. */
export function print(text) {
  progress("");
  process.stdout.write(`${text}\n`);
}

/** `"104.2 MiB"`. */
export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const unit = Math.min(3, Math.floor(Math.log2(n) / 10));
  const value = n / 1024 ** unit;
  return `${Number.isInteger(value) ? value : value.toFixed(1)} ${["B", "KiB", "MiB", "GiB"][unit]}`;
}

/** `"1.45 ms"`, `"72 µs"`. */
export function duration(ms) {
  if (ms < 0.001) return `${Math.round(ms * 1e6)} ns`;
  if (ms < 1) return `${Math.round(ms * 1000)} µs`;
  if (ms < 1000) return `${ms.toPrecision(3)} ms`;
  return `${(ms / 1000).toFixed(2)} s`;
}
