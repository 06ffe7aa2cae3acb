import { PeerCard } from "../driver/peer-card.ts";
import type { PeerRequest } from "../driver/peer-card.ts";
import type { PeerGpu } from "../driver/peer-gpu.ts";
import { PeerLinks } from "../driver/peer-links.ts";
import { ConfigError } from "../base/errors.ts";
import type { Engine } from "./machine.ts";

/** The slots for devices with `p2p`: which card each goes on. */
export class Interconnect {
  /** All devices of the machine. */
  readonly links = new PeerLinks();
  readonly #engine: Engine;
  #open: PeerCard | null = null;

  constructor(engine: Engine) {
    this.#engine = engine;
  }

  /** A device on the card that is open, or else on a new one. Throws ConfigError for what fits none. */
  plugIn(request: PeerRequest): PeerGpu {
    const engine = this.#engine;
    const joined = this.#open?.join(request) ?? null;
    if (joined !== null) return joined;
    const card = new PeerCard({
      create: (config) => engine.createGpu(config),
      fits: (config) => engine.fits?.(config) ?? true,
    });
    const first = card.join(request);
    if (first === null)
      throw new ConfigError("device.vram", `this adapter cannot have ${request.heapBytes} bytes of it`);
    this.#open = card;
    return first;
  }
}
