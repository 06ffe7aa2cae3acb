import { InvariantError } from "../base/assert.ts";
import { errnoName, isErr } from "../base/errno.ts";
import type { World } from "./world.ts";

/** The world makes copies fail, which the CPU and the GPU may come to feel. */
export function mayFail({ program }: World): boolean {
  return program.failures.toDevice.length + program.failures.toRam.length > 0;
}

export function list(values: Iterable<unknown>): string {
  return [...values].join(" or ");
}

/** What has no reason to fail, but for those allowed, must not. */
export function check(result: unknown, what: string, ...allowed: readonly number[]): void {
  if (typeof result === "number" && isErr(result) && !allowed.includes(result)) {
    throw new InvariantError(`${what} failed with ${errnoName(result)}`);
  }
}
