import { ConfigError } from "../base/errors.ts";

/** Tables that have all: a driver has one for all its allocations. */
const complete = new WeakSet<object>();

/** As `requireOps`, once for each table. */
export function requireOpsOnce<T extends object>(path: string, ops: T, names: readonly (keyof T & string)[]): void {
  if (complete.has(ops)) return;
  requireOps(path, ops, names);
  complete.add(ops);
}

/** Throws ConfigError naming the first entry of an operations table that is not a function. `path` names the table. */
export function requireOps<T extends object>(
  path: string,
  ops: T | undefined,
  names: readonly (keyof T & string)[],
): void {
  if (ops === undefined || ops === null) throw new ConfigError(path, "is required");
  for (const name of names) {
    if (typeof ops[name] !== "function") throw new ConfigError(`${path}.${name}`, "is required and must be a function");
  }
}
