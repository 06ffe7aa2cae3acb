import { SZ_2M } from "../../base/addr.ts";
import { DEFAULT_RAM, DEFAULT_WINDOW } from "../../machine/machine.ts";
import { COPIES, bufferBytes } from "./buffers.ts";
import type { MatrixCase } from "./cases.ts";
import { ENGINES } from "./matrix.ts";
import type { Flag } from "./sections.ts";

/** What a machine needs for a case, bytes. */
export interface Room {
  readonly ram: number;
  /** Of the device's system window. */
  readonly window: number;
}

/** RAM beside the buffers, bytes: tables, fences, what migrates meanwhile. */
const SPARE_RAM = 96 << 20;

const IN_PLACE: readonly Flag[] = ["MMAP_SHARED", "HUGE_PAGE", "FILE_BACKED", "RACE"];

/**
 * The default sizes, doubled until everything has room that the case holds at a time: the original's machines have
 * gigabytes, and their GPUs reach all of it in place.
 */
export function roomFor({ template, section: { flags } }: MatrixCase): Room {
  const keeps = flags.has("NEW") && !flags.has("FREE");
  const buffers = keeps ? template.execs + 1 : flags.has("MULTI_FAULT") ? COPIES : 1;
  const activities = template.group === "single" ? 1 : ENGINES;
  const all = buffers * activities * bufferBytes(template);
  // Memory that does not migrate, and what the CPU does not let go of.
  const inPlace = IN_PLACE.some((flag) => flags.has(flag)) || (keeps && flags.has("MMAP"));
  // A buffer that is kept has served one exec, which touches one range, of 2 MiB at most; others are touched all over.
  const mapped = keeps ? Math.min(all, buffers * activities * SZ_2M) : all;
  return { ram: doubled(DEFAULT_RAM, all + SPARE_RAM), window: doubled(DEFAULT_WINDOW, inPlace ? mapped + SZ_2M : 0) };
}

function doubled(least: number, wanted: number): number {
  let size = least;
  while (size < wanted) size *= 2;
  return size;
}
