import { PAGE_SIZE } from "../base/addr.ts";
import { ConfigError } from "../base/errors.ts";
import type { Commands } from "./commands.ts";
import { AP_SLOT } from "./copy-runs.ts";
import type { Memory } from "./memory.ts";

const SMALLEST = 256 * 1024;

/** Where the bytes of AP_VRAM, AP_WINDOW and AP_SLOT lie: a bank (buffer) and the byte in it. Slots are the last bank. */
export class CopyBanks {
  readonly memory: Memory;
  readonly slotBank: number;
  /** Grows when the slot buffer is another one: bind groups that name it are stale. */
  version = 0;
  readonly #commands: Commands;
  readonly #maxBytes: number;
  #slots: GPUBuffer | null = null;

  constructor(commands: Commands, memory: Memory, maxBytes: number) {
    this.#commands = commands;
    this.memory = memory;
    this.slotBank = memory.banks.length;
    this.#maxBytes = maxBytes;
  }

  /** The buffer of slots, made on first use. */
  get slots(): GPUBuffer {
    return this.#slots ?? this.reserveSlots(PAGE_SIZE);
  }

  /** A buffer of at least `bytes` for slots; its content is unknown. Throws ConfigError beyond what can be bound. */
  reserveSlots(bytes: number): GPUBuffer {
    if (this.#slots !== null && this.#slots.size >= bytes) return this.#slots;
    if (bytes > this.#maxBytes) {
      throw new ConfigError(
        "jobs",
        `the batch needs ${bytes} bytes of host memory on the GPU; this device binds ${this.#maxBytes}`,
      );
    }
    // What is recorded may still name the old one.
    this.#commands.submit();
    this.#slots?.destroy();
    this.version += 1;
    this.#slots = this.#commands.createBuffer({
      label: "copy slots",
      size: Math.min(2 ** Math.ceil(Math.log2(Math.max(bytes, SMALLEST))), this.#maxBytes),
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    return this.#slots;
  }

  buffer(bank: number): GPUBuffer {
    return bank === this.slotBank ? this.slots : this.memory.banks[bank]!;
  }

  bankOf(aperture: number, at: number): number {
    return aperture === AP_SLOT ? this.slotBank : this.memory.bankOf(aperture, Math.floor(at / PAGE_SIZE));
  }

  /** Byte in the bank. */
  offsetOf(aperture: number, at: number): number {
    if (aperture === AP_SLOT) return at;
    return this.memory.pageIn(aperture, Math.floor(at / PAGE_SIZE)) * PAGE_SIZE + (at % PAGE_SIZE);
  }

  /** Bytes from `at` on that lie in one bank without a gap. */
  runFrom(aperture: number, at: number): number {
    if (aperture === AP_SLOT) return Infinity;
    return this.memory.runIn(aperture, Math.floor(at / PAGE_SIZE)) * PAGE_SIZE - (at % PAGE_SIZE);
  }

  destroy(): void {
    this.#slots?.destroy();
  }
}
