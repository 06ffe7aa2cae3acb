/**
 * Kernel outcomes as values.
 *
 * A function of the stack returns `T | Errno`; a status-only function returns `0 | Errno`. An errno is a negative
 * integer with the kernel's number, because the retry ladder on these codes is the contract between the layers.
 */

declare const errnoBrand: unique symbol;
export type Errno = number & { readonly [errnoBrand]: true };

export const EPERM = -1 as Errno;
export const ENOENT = -2 as Errno;
export const EINTR = -4 as Errno;
export const EIO = -5 as Errno;
export const E2BIG = -7 as Errno;
export const EAGAIN = -11 as Errno;
export const ENOMEM = -12 as Errno;
export const EACCES = -13 as Errno;
export const EFAULT = -14 as Errno;
export const EBUSY = -16 as Errno;
export const EEXIST = -17 as Errno;
export const ENODEV = -19 as Errno;
export const EINVAL = -22 as Errno;
export const ENOSPC = -28 as Errno;
export const EDEADLK = -35 as Errno;
export const ENODATA = -61 as Errno;
export const ETIME = -62 as Errno;
export const ENOLINK = -67 as Errno;
export const EOVERFLOW = -75 as Errno;
export const EOPNOTSUPP = -95 as Errno;
export const ECANCELED = -125 as Errno;

const NAMES: Readonly<Record<number, string>> = {
  1: "EPERM",
  2: "ENOENT",
  4: "EINTR",
  5: "EIO",
  7: "E2BIG",
  11: "EAGAIN",
  12: "ENOMEM",
  13: "EACCES",
  14: "EFAULT",
  16: "EBUSY",
  17: "EEXIST",
  19: "ENODEV",
  22: "EINVAL",
  28: "ENOSPC",
  35: "EDEADLK",
  61: "ENODATA",
  62: "ETIME",
  67: "ENOLINK",
  75: "EOVERFLOW",
  95: "EOPNOTSUPP",
  125: "ECANCELED",
};

/** True for an errno value. Do not use it on a type that has negative numbers of its own. */
export function isErr(value: unknown): value is Errno {
  return typeof value === "number" && value < 0;
}

/** `-16` becomes `"EBUSY"`. */
export function errnoName(code: number): string {
  return NAMES[Math.abs(code)] ?? `E${Math.abs(code)}`;
}
