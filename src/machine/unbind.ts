import { PAGE_SIZE } from "../base/addr.ts";
import type { Va } from "../base/addr.ts";
import type { Errno } from "../base/errno.ts";
import { errnoName } from "../base/errno.ts";
import type { LostPages } from "../driver/lost-pages.ts";
import type { Device } from "./device.ts";
import type { Process } from "./process.ts";

/** What could not come home when a device was taken out, by process. Page addresses, ascending. */
export interface UnbindReport {
  /** Everything is in RAM. */
  readonly isEmpty: boolean;
  /** Why not: "EIO", "ENOMEM", … */
  readonly code: string | null;
  /** Still in the device's memory, and valid: an access brings them home, and so does another `unbind`, once there is room. */
  readonly waiting: ReadonlyMap<Process, readonly Va[]>;
  /** The device was lost before: what went with it. */
  readonly lost: ReadonlyMap<Process, LostPages>;
}

/** Looks for what is left. */
export function reportUnbind(device: Device, err: 0 | Errno): UnbindReport {
  const waiting = new Map<Process, Va[]>();
  const lost = new Map<Process, LostPages>();
  for (const process of device.machine.processes) {
    if (device.gpu.isLost) {
      const pages = device.lostPages(process);
      if (pages.vram.length + pages.stale.length > 0) lost.set(process, pages);
      continue;
    }
    const pages = pagesIn(device, process);
    if (pages.length > 0) waiting.set(process, pages);
  }
  const isEmpty = err === 0 && waiting.size === 0;
  return { isEmpty, code: err === 0 ? null : errnoName(err), waiting, lost };
}

function pagesIn(device: Device, { mm }: Process): Va[] {
  const pages: Va[] = [];
  for (const vma of mm.vmas.all()) {
    for (let at = vma.start; at < vma.end; at += PAGE_SIZE) {
      if (device.driver.isResident(mm, at, at + PAGE_SIZE)) pages.push(at);
    }
  }
  return pages;
}
