import { DeviceLostError, GpuError } from "../base/errors.ts";

/**
 * Whether the device is alive, and who must hear when it is not. Promises of WebGPU may resolve, reject or stay pending
 * once a device is lost, so every wait is registered here.
 */
export class Health {
  readonly lost: Promise<{ reason: string; message: string }>;
  readonly #waiting = new Set<(error: Error) => void>();
  #loss: DeviceLostError | null = null;
  #error: GpuError | null = null;

  constructor(device: GPUDevice) {
    this.lost = device.lost.then((info) => {
      this.declareLost(info.reason, info.message);
      return { reason: info.reason, message: info.message };
    });
    device.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      // The first error is the cause, the rest follow from it.
      this.#error ??= toGpuError("device", event.error);
      this.#fail(this.#error);
    });
  }

  get isLost(): boolean {
    return this.#loss !== null;
  }

  /** What stands against further work: the loss, or an error that nobody expected. */
  get error(): Error | null {
    return this.#loss ?? this.#error;
  }

  /** Called by `destroy` too, so that nothing waits for the event. */
  declareLost(reason: string, message: string): void {
    this.#loss ??= new DeviceLostError(reason, message);
    this.#fail(this.#loss);
  }

  /** What was made cannot be used: everything that waits, and all that comes, rejects with `error`. */
  declareBroken(error: GpuError): void {
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
