import { DeviceLostError, GpuError } from "../base/errors.ts";
import { Nudge } from "./nudge.ts";

/**
 * Whether the GPU works, and who must hear when it does not. Promises of WebGPU may resolve, reject or stay pending once a
 * device is lost, so every wait is registered here.
 *
 * A GPU goes down once, by one of two ways that are the same to whoever uses it: WebGPU's device is lost (or was
 * destroyed), or WebGPU reported an error that nobody expected. What an object of unknown state would give must not be
 * taken for data, so such an error stops the GPU for good. An error outside all scopes names no origin: it stops every
 * GPU that shares the WebGPU device.
 */
export class Health {
  /** Resolves when the GPU goes down. The reason is WebGPU's, or "error". */
  readonly lost: Promise<{ reason: string; message: string }>;
  /** Makes waits end early. */
  readonly nudge: Nudge;
  readonly #stopListening: () => void;
  #announce: (loss: { reason: string; message: string }) => void = () => undefined;
  readonly #waiting = new Set<(error: Error) => void>();
  /** Allocations of which it is not known yet whether there was memory. */
  readonly #allocating = new Set<string>();
  #error: DeviceLostError | GpuError | null = null;

  constructor(device: GPUDevice) {
    this.nudge = new Nudge(device);
    this.lost = new Promise((resolve) => {
      this.#announce = resolve;
    });
    void device.lost.then((info) => this.declareLost(info.reason, info.message));
    const listener = (event: GPUUncapturedErrorEvent) => {
      event.preventDefault();
      this.declareBroken(toGpuError("device", event.error));
    };
    device.addEventListener("uncapturederror", listener);
    this.#stopListening = () => device.removeEventListener("uncapturederror", listener);
  }

  get isLost(): boolean {
    return this.#error !== null;
  }

  /** What stands against further work: the loss, or the error that stopped the GPU. */
  get error(): DeviceLostError | GpuError | null {
    return this.#error;
  }

  /** Called by `destroy` too: the WebGPU device may live on with other GPUs. */
  declareLost(reason: string, message: string): void {
    this.#goDown(new DeviceLostError(reason, message), reason, message);
  }

  /** What was made cannot be used: everything that waits, and all that comes, rejects with `error`. */
  declareBroken(error: GpuError): void {
    this.#goDown(error, "error", error.message);
  }

  /** A buffer `label` is in use already; `outcome` says whether there was memory for it. Without, the GPU stops. */
  awaitMemory(label: string, outcome: Promise<GPUError | null>): void {
    this.#allocating.add(label);
    const settle = (error: GPUError | null) => {
      this.#allocating.delete(label);
      if (error !== null) this.declareBroken(toGpuError(`no memory for ${label}`, error));
    };
    outcome.then(settle, () => settle(null));
  }

  /**
   * Runs `use`, which may name buffers of which it is not known whether they exist. What WebGPU says of that is this GPU's
   * own trouble: outside a scope it would stop the others of the device as well.
   */
  inDoubt<T>(device: GPUDevice, use: () => T): T {
    if (this.#allocating.size === 0) return use();
    const pending = [...this.#allocating].join(", ");
    device.pushErrorScope("validation");
    const result = use();
    const settle = (error: GPUError | null) => {
      if (error !== null) this.declareBroken(toGpuError(`no memory for ${pending}`, error));
    };
    device.popErrorScope().then(settle, () => settle(null));
    return result;
  }

  /** The first error is the cause, the rest follow from it. */
  #goDown(error: DeviceLostError | GpuError, reason: string, message: string): void {
    if (this.#error !== null) return;
    this.#error = error;
    this.#stopListening();
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
    this.#announce({ reason, message });
  }

  /** As `guard`, for what settles when the GPU is done with what was submitted. */
  guardWork<T>(promise: Promise<T>): Promise<T> {
    return this.guard(this.nudge.during(promise));
  }

  /** Settles as `promise` does, or rejects when the device fails first. */
  guard<T>(promise: Promise<T>): Promise<T> {
    if (this.#error !== null) {
      promise.catch(() => undefined);
      return Promise.reject(this.#error);
    }
    return new Promise<T>((resolve, reject) => {
      this.#waiting.add(reject);
      const settle = () => this.#waiting.delete(reject);
      promise.then(
        (value) => {
          settle();
          if (this.#error === null) resolve(value);
          else reject(this.#error);
        },
        (error: unknown) => {
          settle();
          reject(this.#error ?? error);
        },
      );
    });
  }
}

export function toGpuError(label: string, error: GPUError): GpuError {
  const kind =
    error instanceof GPUOutOfMemoryError
      ? "out-of-memory"
      : error instanceof GPUValidationError
        ? "validation"
        : "internal";
  return new GpuError(kind, label, error.message);
}

const FILTERS = ["out-of-memory", "validation", "internal"] as const;

/** Error scopes around what is done until `close`, without an await between: scopes are a stack of the device. */
export class ErrorScopes {
  readonly #device: GPUDevice;
  readonly #label: string;

  constructor(device: GPUDevice, label: string) {
    this.#device = device;
    this.#label = label;
    for (const filter of FILTERS) device.pushErrorScope(filter);
  }

  /** The error that stands behind what was reported, or null. */
  async close(): Promise<GpuError | null> {
    // Innermost first, so lack of memory comes last: it is the cause of whatever the others report.
    const errors = await Promise.all(FILTERS.map(() => this.#device.popErrorScope()));
    const error = errors.findLast((e) => e !== null);
    return error == null ? null : toGpuError(this.#label, error);
  }
}

/** Runs `make` inside error scopes; throws GpuError with `label` when WebGPU reports anything. */
export async function inErrorScopes<T>(device: GPUDevice, label: string, make: () => T | Promise<T>): Promise<T> {
  const scopes = new ErrorScopes(device, label);
  const made = make();
  // Closed before the promise of `make` is awaited.
  const [value, error] = await Promise.all([made, scopes.close()]);
  if (error !== null) throw error;
  return value;
}
