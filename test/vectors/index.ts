/** Which replayer a recorded file belongs to: by the form of its lines, never by its name. */
import * as buddy from "./buddy.ts";
import * as gpusvm from "./gpusvm.ts";
import * as gpuvm from "./gpuvm.ts";

export type Line = Readonly<Record<string, unknown>>;

export interface ReplayResult {
  readonly passed: number;
  readonly failed: number;
  /** A sentence for each line that failed. */
  readonly failures: readonly string[];
}

interface Replayer {
  recognises(lines: readonly Line[]): boolean;
  replay(file: string, lines: readonly Line[]): ReplayResult;
}

const REPLAYERS: Readonly<Record<string, Replayer>> = { gpuvm, gpusvm, buddy };

/** Name of the component that the lines were recorded from, or null. */
export function componentOf(lines: readonly Line[]): string | null {
  return Object.keys(REPLAYERS).find((name) => REPLAYERS[name]!.recognises(lines)) ?? null;
}

/** Replays the lines of one file. Null when they are of no known form. */
export function replayFile(file: string, lines: readonly Line[]): ReplayResult | null {
  const component = componentOf(lines);
  return component === null ? null : REPLAYERS[component]!.replay(file, lines);
}
