import { assert } from "../src/base/assert.ts";
import { isErr } from "../src/base/errno.ts";
import type { Device } from "../src/machine/device.ts";
import { DEFAULT_VM_CONFIG } from "../src/machine/machine.ts";
import type { Process } from "../src/machine/process.ts";
import { Vm } from "../src/machine/vm.ts";

/** An address space of the process that is without fault mode, and shows nothing yet. */
export function openResident(device: Device, process: Process): Vm {
  const { chunks, notifier, checkPages, leafSizes, window } = DEFAULT_VM_CONFIG;
  const svm = device.driver.createVm(process.mm, {
    chunkSizes: chunks,
    notifierSize: notifier,
    checkPagesThreshold: checkPages,
    leafSizes,
    migrate: true,
    window,
    mirror: false,
    faultMode: false,
  });
  assert(!isErr(svm), "there is room for another address space");
  const vm = new Vm(device, process, svm);
  process.attach(vm);
  return vm;
}
