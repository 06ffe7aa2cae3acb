import { PAGE_SIZE, hex } from "../base/addr.ts";
import { EACCES, EFAULT, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC, EPERM, errnoName } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { ACCESS_WRITE } from "../abi/fault.ts";
import type { MergedFault } from "./fault-record.ts";
import type { SvmVm } from "./vm.ts";

/** In words, why a fault could not be served; `shortOf`: what it found no room in. */
export function reasonOf(vm: SvmVm, errno: Errno, fault: MergedFault, shortOf: string): string {
  const where = `page ${hex(fault.page)}`;
  if (errno === ENOENT) return `nothing is mapped at ${where}`;
  if (errno === EINVAL) return `the GPU's address space has nothing at ${where}`;
  if (errno === EPERM || errno === EACCES) {
    return fault.access >= ACCESS_WRITE ? `${where} may not be written` : `${where} may not be read`;
  }
  if (errno === ENOSPC) return `${shortOf} has no room for ${where}`;
  if (errno === ENOMEM) return `no memory to map ${where}`;
  if (errno === EIO) return lossOf(vm, fault.page);
  // Elsewhere the page is no address of the process.
  const size = errno === EFAULT && vm.binds.at(fault.page)?.isMirror === true ? vm.mm.fileSizeBefore(fault.page) : null;
  if (size !== null) return `${where} lies behind the end of its file, which has ${size} bytes`;
  return `${where} could not be made resident (${errnoName(errno)})`;
}

/** A range moves and is mapped as a whole, so a page that is lost stands for all of it. */
function lossOf(vm: SvmVm, page: number): string {
  const { start, end } = vm.rangeAt(page) ?? { start: page, end: page + PAGE_SIZE };
  const lost = vm.device.firstLostPage(vm.mm, start, end) ?? page;
  const which = lost === page ? `page ${hex(page)}` : `page ${hex(lost)}, in one range with ${hex(page)},`;
  return `the data of ${which} went with a device that was lost; unmap or discard it`;
}
