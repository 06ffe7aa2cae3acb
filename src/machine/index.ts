/**
 * The public entry point of the library.
 *
 *     import { createMachine } from "webgpu-svm";
 *
 *     const machine = await createMachine({ ram: 256 << 20, devices: [{ vram: 64 << 20 }] });
 *     const process = machine.createProcess();
 *     const vm = machine.devices[0].vm(process);
 */
export { KernelError, ConfigError, DeviceLostError, GpuError, UnsupportedError } from "../base/errors.ts";
export type { Fault } from "../base/errors.ts";
export { InvariantError } from "../base/assert.ts";
export { EVENT_KINDS, TRACE_STRIDE, TraceRing } from "../base/trace.ts";
export type { EventKind } from "../base/trace.ts";
export type { LostPages, StalePage } from "../driver/lost-pages.ts";
export type { WriteBackStats } from "../driver/write-back.ts";
export type { SvmCounters } from "../driver/counters.ts";
export { PRESETS } from "../driver/policy/presets.ts";
export type { PolicyChoice, PresetName } from "../driver/policy/presets.ts";
export type { EvictName, MigrateName, PolicyNames, PrefetchName, ThrashName } from "../driver/policy/policy.ts";
export { STAT_NAMES, SvmStats } from "../driver/stats.ts";
export type { StatName } from "../driver/stats.ts";
export type { RoundReport } from "../driver/launch.ts";
export type { GpuCounters, GpuInfo, KernelSource, ReferenceKernelContext } from "../hal/gpu.ts";
export { SvmArray } from "./array.ts";
export type { NumberArray, NumberArrayType } from "./array.ts";
export { createMachine } from "./create.ts";
export type { CreateMachineOptions } from "./create.ts";
export type { CopyPaths, PathTable } from "../device/index.ts";
export { Device } from "./device.ts";
export type { TileState } from "./device.ts";
export { prepareEngine, REFERENCE_ENGINE } from "./engine.ts";
export type { EngineName, EngineOptions } from "./engine.ts";
export { DEFAULT_RAM, DEFAULT_VM_CONFIG, DEFAULT_VRAM, MIN_VRAM, Machine } from "./machine.ts";
export type { DeviceOptions, Engine, MachineOptions, VmConfig } from "./machine.ts";
export type { UnbindReport } from "./unbind.ts";
export { NULL, UserPtr } from "./bind.ts";
export type { BatchOp, BindOptions, Obj, Va, VaOp } from "./bind.ts";
export { Bo } from "./bo.ts";
export type { BoOptions } from "./bo.ts";
export { File } from "./file.ts";
export { Process } from "./process.ts";
export type { Kind, MmapOptions, Prot } from "./process.ts";
export type { Arg, Args, ParamType, Params, Scalar } from "./params.ts";
export { SvmKernel } from "./svm-kernel.ts";
export type { RunOptions, RunResult, SvmKernelOptions } from "./svm-kernel.ts";
export { Vm } from "./vm.ts";
export type { Atomic, JobOp, KernelOptions, Loc } from "./vm.ts";
