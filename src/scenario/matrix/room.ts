import { DEFAULT_RAM } from "../../machine/machine.ts";
import { COPIES, bufferBytes } from "./buffers.ts";
import type { MatrixCase } from "./cases.ts";
import { ENGINES } from "./matrix.ts";

/** RAM beside the buffers, bytes: tables, fences, what migrates meanwhile. */
const SPARE_RAM = 96 << 20;

/**
 * Bytes of RAM that a case wants: the default, doubled until everything has room that the case holds at a time. The original's
 * machines have gigabytes. The system window is that of any device: what is reached in place takes turns in it.
 */
export function ramFor({ template, section: { flags } }: MatrixCase): number {
  const keeps = flags.has("NEW") && !flags.has("FREE");
  const buffers = keeps ? template.execs + 1 : flags.has("MULTI_FAULT") ? COPIES : 1;
  const activities = template.group === "single" ? 1 : ENGINES;
  let ram = DEFAULT_RAM;
  while (ram < buffers * activities * bufferBytes(template) + SPARE_RAM) ram *= 2;
  return ram;
}
