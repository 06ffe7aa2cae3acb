import type { Frame, FramePull } from "./protocol.ts";

/**
 * The worker's end of the frame port. A pull is answered at once when something has changed since the last frame, else
 * when `changed` is called; `build` is given a buffer to reuse, if one came back.
 */
export class FramePort {
  readonly #build: (recycled: ArrayBuffer | null) => Frame;
  #port: MessagePort | null = null;
  #pull: FramePull | null = null;
  #dirty = true;

  constructor(build: (recycled: ArrayBuffer | null) => Frame) {
    this.#build = build;
  }

  connect(port: MessagePort): void {
    this.#port?.close();
    this.#port = port;
    this.#dirty = true;
    port.onmessage = (event: MessageEvent<FramePull>) => {
      this.#pull = event.data;
      if (this.#dirty) this.#send();
    };
  }

  /** True while the page waits for a frame. */
  get wanted(): boolean {
    return this.#pull !== null;
  }

  changed(): void {
    this.#dirty = true;
    if (this.#pull !== null) this.#send();
  }

  #send(): void {
    const pull = this.#pull!;
    this.#pull = null;
    this.#dirty = false;
    const frame = this.#build(pull.recycle);
    const { counters, rounds, events, vmas, ranges, vram, blocks } = frame;
    const buffers = [counters, rounds, events, vmas, ranges, vram, blocks].map((words) => words.buffer as ArrayBuffer);
    this.#port!.postMessage(frame, [...new Set(buffers)]);
  }
}
