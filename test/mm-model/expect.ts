import { isErr } from "../../src/base/errno.ts";
import { KernelError } from "../../src/base/errors.ts";
import { AccessFault } from "../../src/mm/access.ts";

/** A result that is not the model's. */
export class Mismatch extends Error {
  override readonly name = "Mismatch";
}

export function expectEqual(got: unknown, wanted: unknown): void {
  if (got !== wanted) throw new Mismatch(`got ${show(got)}, not ${show(wanted)}`);
}

export function expectFault(got: unknown, verdict: string, addr: number): void {
  const isIt = got instanceof AccessFault && got.code === verdict && got.addr === addr;
  if (!isIt) throw new Mismatch(`got ${show(got)}, not ${verdict} at ${addr.toString(16)}`);
}

export async function expectGpuFault(access: Promise<unknown>, verdict: string): Promise<void> {
  try {
    await access;
  } catch (error) {
    if (error instanceof KernelError && error.code === "GPUFAULT") return;
    throw error;
  }
  throw new Mismatch(`the GPU's access did not fail where the CPU's gives ${verdict}`);
}

export function expectBytes(got: unknown, wanted: Uint8Array, at: number): void {
  if (!(got instanceof Uint8Array) || got.length !== wanted.length) throw new Mismatch(`got ${show(got)}, not bytes`);
  const wrong = firstDifference(got, 0, wanted, 0, 1);
  if (wrong >= 0) throw new Mismatch(`byte ${wrong} from ${at} is ${got[wrong]}, not ${wanted[wrong]}`);
}

/** Index of a byte of `wanted` that is another at `found[at …]`; -1 when there is none. Every `step`-th from `first` on is looked at. */
export function firstDifference(
  found: Uint8Array,
  at: number,
  wanted: Uint8Array,
  first: number,
  step: number,
): number {
  for (let i = first; i < wanted.length; i += step) if (found[at + i] !== wanted[i]) return i;
  return -1;
}

function show(x: unknown): string {
  if (x instanceof AccessFault) return `${x.code} at ${x.addr.toString(16)}`;
  return isErr(x) ? String(x) : typeof x === "number" ? x.toString(16) : String(x);
}

/** What placing pages may be refused with: holes, no access, a kind that does not migrate, no room, pinned pages. */
const PLACE_ERRORS = ["ENOENT", "EPERM", "EINVAL", "ENOMEM", "EBUSY", "EFAULT", "ENOSPC"];

export async function expectPlaced(placing: Promise<number>): Promise<void> {
  try {
    await placing;
  } catch (error) {
    if (!(error instanceof KernelError) || !PLACE_ERRORS.includes(error.code)) throw error;
  }
}
