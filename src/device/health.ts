import { DeviceLostError, GpuError } from "../base/errors.ts";

/**
 * Whether the device is alive, and who must hear when it is not. Promises of WebGPU may resolve, reject or stay pending
 * once a device is lost, so every wait is registered here.
 */
export class Health {
  /** Resolves when the device is lost or `declareLost` was called. */
  readonly lost: Promise<{ reason: string; message: string }>;
  readonly #stopListening: () => void;
  #announce: (loss: { reason: string; message: string }) => void = () => undefined;
  readonly #waiting = new Set<(error: Error) => void>();
  #loss: DeviceLostError | null = null;
  #error: GpuError | null = null;

  constructor(device: GPUDevice) {
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
    return this.#loss !== null;
  }

  /** What stands against further work: the loss, or an error that nobody expected. */
  get error(): Error | null {
    return this.#loss ?? this.#error;
  }

  /** Called by `destroy` too: the WebGPU device may live on with other GPUs. */
  declareLost(reason: string, message: string): void {
    if (this.#loss !== null) return;
    this.#loss = new DeviceLostError(reason, message);
    this.#stopListening();
    this.#fail(this.#loss);
    this.#announce({ reason, message });
  }

  /** What was made cannot be used: everything that waits, and all that comes, rejects with `error`. */
  declareBroken(error: GpuError): void {
    // The first error is the cause, the rest follow from it.
    this.#error ??= error;
    this.#fail(this.#error);
  }

  /** Settles as `promise` does, or rejects when the device fails first. */
  guard<T>(promise: Promise<T>): Promise<T> {
    if (this.error !== null) {
      promise.catch(() => undefined);
      return Promise.reject(this.error);
    }
    return new Promise<T>((resolve, reject) => {
      this.#waiting.add(reject);
      const settle = () => this.#waiting.delete(reject);
      promise.then(
        (value) => {
          settle();
          if (this.error === null) resolve(value);
          else reject(this.error);
        },
        (error: unknown) => {
          settle();
          reject(this.error ?? error);
        },
      );
    });
  }

  #fail(error: Error): void {
    for (const reject of this.#waiting) reject(error);
    this.#waiting.clear();
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

  /** The first error that was reported, or null. */
  async close(): Promise<GpuError | null> {
    const errors = await Promise.all(FILTERS.map(() => this.#device.popErrorScope()));
    const error = errors.find((e) => e !== null);
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
