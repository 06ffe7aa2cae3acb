import type { SvmDevice } from "./device.ts";

/**
 * Makes room for page tables. Entries that were zapped lead nowhere, but their tables stay, since the next bind mostly wants
 * them again; when the aperture is full they go, in every address space of the device. The number of ranges that have lost
 * theirs. Nothing is waited for, so no bind of another address space is between its check and its entries.
 */
export function freeZappedTables(device: SvmDevice): number {
  let ranges = 0;
  for (const vm of device.vms) {
    const [start, end] = vm.window;
    for (const notifier of vm.gpusvm.forEachNotifier(start, end)) {
      for (const range of notifier.forEachRange(start, end)) {
        if (range.isBound || range.tilePresent === 0) continue;
        vm.unbindRange(range);
        ranges += 1;
      }
    }
  }
  return ranges;
}
