import type { Frame, FramePull } from "./protocol.ts";

/** Frames may take this share of the worker's time: building one is followed by so many times its duration without. */
const REST = 8;

/**
 * The worker's end of the frame port. A pull is answered at once when something has changed since the last frame, else
 * when `changed` is called; `build` is given a buffer to reuse, if one came back. Frames that are costly to build come
 * less often; `tick`, called now and then, sends what was put off.
 */
export class FramePort {
  readonly #build: (recycled: ArrayBuffer | null) => Frame;
  #port: MessagePort | null = null;
  #pull: FramePull | null = null;
  #dirty = true;
  readonly #now: () => number;
  #notBefore = 0;

  constructor(build: (recycled: ArrayBuffer | null) => Frame, now: () => number) {
    this.#build = build;
    this.#now = now;
  }

  connect(port: MessagePort): void {
    this.#port?.close();
    this.#port = port;
    this.#dirty = true;
    port.onmessage = (event: MessageEvent<FramePull>) => {
      this.#pull = event.data;
      this.tick();
    };
  }

  changed(): void {
    this.#dirty = true;
    this.tick();
  }

  tick(): void {
    if (this.#dirty && this.#pull !== null && this.#now() >= this.#notBefore) this.#send();
  }

  #send(): void {
    const pull = this.#pull!;
    this.#pull = null;
    this.#dirty = false;
    const began = this.#now();
    const frame = this.#build(pull.recycle);
    const done = this.#now();
    this.#notBefore = done + REST * (done - began);
    const { counters, rounds, events, vmas, ranges, vram, blocks } = frame;
    const buffers = [counters, rounds, events, vmas, ranges, vram, blocks].map((words) => words.buffer as ArrayBuffer);
    this.#port!.postMessage(frame, [...new Set(buffers)]);
  }
}
