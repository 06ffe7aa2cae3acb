import { hex } from "../base/addr.ts";

const KIB = 1024;
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/** `"48 MiB"`, `"1.5 MiB"`: three significant digits at most, binary units. */
export function bytes(n: number): string {
  let value = Math.abs(n);
  let unit = 0;
  while (value >= KIB && unit < UNITS.length - 1) {
    value /= KIB;
    unit += 1;
  }
  const digits = unit === 0 || Number.isInteger(value) || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${n < 0 ? "−" : ""}${value.toFixed(digits)} ${UNITS[unit]}`;
}

/** Chunk sizes as the kernel writes them: `"2M"`, `"64K"`. */
export function chunk(n: number): string {
  for (const [size, letter] of [
    [2 ** 30, "G"],
    [2 ** 20, "M"],
    [KIB, "K"],
  ] as const) {
    if (n >= size && n % size === 0) return `${n / size}${letter}`;
  }
  return bytes(n).replace(" ", "");
}

const GROUPED = new Intl.NumberFormat("en-US");
export function count(n: number): string {
  return GROUPED.format(n);
}

/** `"9,870"`, `"12.3k"`, `"4.56M"`. */
export function shortCount(n: number): string {
  if (n < 10_000) return GROUPED.format(n);
  if (n < 1e6) return `${(n / 1e3).toFixed(1)}k`;
  return `${(n / 1e6).toFixed(2)}M`;
}

/** Bytes per second in decimal units, as storage and bus rates are quoted. */
export function rate(bytesPerSecond: number): string {
  const mb = bytesPerSecond / 1e6;
  if (mb >= 1000) return `${(mb / 1000).toFixed(mb >= 10_000 ? 1 : 2)} GB/s`;
  return `${mb >= 100 ? mb.toFixed(0) : mb.toFixed(1)} MB/s`;
}

export function seconds(ms: number): string {
  return ms < 10_000 ? `${(ms / 1000).toFixed(2)} s` : `${(ms / 1000).toFixed(1)} s`;
}

export function address(n: number): string {
  return hex(n);
}
