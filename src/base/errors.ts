import { errnoName } from "./errno.ts";

/** A fault that the GPU could not have served. */
export interface Fault {
  kind: "NOENT" | "PERM" | "INVAL" | "BUS";
  /** Address of the word, bytes. */
  addr: number;
  access: "read" | "write" | "atomic";
}

/** An outcome of the kernel at the public surface: what was asked, where, and what would have been right. */
export class KernelError extends Error {
  override readonly name = "KernelError";
  /** `"EINVAL"`, or `"SEGV"`, `"BUS"` for CPU accesses, `"GPUFAULT"` for GPU accesses. */
  readonly code: string;
  readonly addr?: number;
  readonly fault?: Fault;

  constructor(code: string, message: string, details: { addr?: number; fault?: Fault } = {}) {
    super(`${code}: ${message}`);
    this.code = code;
    if (details.addr !== undefined) this.addr = details.addr;
    if (details.fault !== undefined) this.fault = details.fault;
  }

  static fromErrno(errno: number, message: string, addr?: number): KernelError {
    return new KernelError(errnoName(errno), message, addr === undefined ? {} : { addr });
  }
}

/** WebGPU reported an error on an object or a submission. */
export class GpuError extends Error {
  override readonly name = "GpuError";
  /** What the kernel would call it. */
  readonly code: "EINVAL" | "ENOMEM" | "EIO";
  readonly kind: "validation" | "out-of-memory" | "internal";
  readonly label: string;

  constructor(kind: "validation" | "out-of-memory" | "internal", label: string, message: string) {
    super(`${label}: ${message}`);
    this.code = kind === "validation" ? "EINVAL" : kind === "out-of-memory" ? "ENOMEM" : "EIO";
    this.kind = kind;
    this.label = label;
  }
}

/** The GPU device is gone; every pending promise of it rejects with this. */
export class DeviceLostError extends Error {
  override readonly name = "DeviceLostError";
  readonly code = "EIO";
  readonly reason: string;

  constructor(reason: string, message: string) {
    super(`the GPU device was lost (${reason}): ${message}`);
    this.reason = reason;
  }
}

/** Something that the environment must offer is missing. `missing` says what, `hint` how to get it. */
export class UnsupportedError extends Error {
  override readonly name = "UnsupportedError";
  readonly missing: readonly string[];
  readonly hint: string;

  constructor(missing: readonly string[], hint: string) {
    super(`missing: ${missing.join(", ")}. ${hint}`);
    this.missing = missing;
    this.hint = hint;
  }
}

/** Bad configuration or argument from the user. `path` names it: `"device.vram"`. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly code = "EINVAL";
  readonly path: string;

  constructor(path: string, message: string) {
    super(`${path}: ${message}`);
    this.path = path;
  }
}
