import type { Stager, WayContext } from "./way.ts";

const PIECE_BYTES = 256 << 10;

/**
 * Host to buffer through the stage, which is written once for all of a submission: what is small and comes behind commands
 * that are recorded. A write of its own would have to send those off first, a submission for each of many short lists.
 */
export class StageStager implements Stager {
  readonly #c: Pick<WayContext, "commands">;

  constructor(context: Pick<WayContext, "commands">) {
    this.#c = context;
  }

  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void {
    for (let done = 0; done < bytes; done += PIECE_BYTES) {
      this.#c.commands.writeBytes(target, at + done, source, from + done, Math.min(bytes - done, PIECE_BYTES));
    }
  }

  flush(): void {}
}
