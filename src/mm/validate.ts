import { PAGE_SIZE, type Va, alignUp, isAligned } from "../base/addr.ts";
import { TASK_SIZE } from "./vma.ts";

/** A whole page's address. */
export function isAddress(addr: number): boolean {
  return Number.isSafeInteger(addr) && addr >= 0 && isAligned(addr, PAGE_SIZE);
}

/** Above 0 bytes. */
export function isLength(length: number): boolean {
  return isLengthOrZero(length) && length > 0;
}

export function isLengthOrZero(length: number): boolean {
  return Number.isSafeInteger(length) && length >= 0;
}

/** The end of `length` bytes from `start`, rounded up to pages, or -1 when they leave the address space. */
export function endOf(start: Va, length: number): Va {
  const end = start + alignUp(length, PAGE_SIZE);
  return end <= TASK_SIZE ? end : -1;
}
