import { NUMBERS } from "../gpuvm/arithmetic.ts";
import { GPUVM_RESV_PROTECTED, GpuVm } from "../gpuvm/gpuvm.ts";
import type { GpuVmOps } from "../gpuvm/vm-ops.ts";
import type { VmBinds } from "./vm-binds.ts";

/** The view of a driver's address space: which object backs which range. @kernel xe_vm.gpuvm */
export class SvmGpuVm extends GpuVm {
  readonly binds: VmBinds;

  /** `[0, range)` is managed; nothing is reserved. */
  constructor(binds: VmBinds, name: string, range: number, ops: GpuVmOps<number, unknown>) {
    super({ arithmetic: NUMBERS, name, flags: GPUVM_RESV_PROTECTED, start: 0, range, ops });
    this.binds = binds;
  }
}
