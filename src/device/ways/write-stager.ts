import type { WayContext, Stager } from "./way.ts";

/** Host to buffer by `queue.writeBuffer`: the browser stages the bytes by itself. The quickest way for what is small. */
export class WriteStager implements Stager {
  readonly #c: Pick<WayContext, "commands">;

  constructor(context: Pick<WayContext, "commands">) {
    this.#c = context;
  }

  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void {
    const { commands } = this.#c;
    // A write takes effect now, so what was recorded before must reach the queue before it.
    if (!commands.isEmpty) commands.submit();
    commands.writes.put(target, at, source, from, bytes);
  }

  /** They go before whatever is recorded next. */
  flush(): void {}
}
