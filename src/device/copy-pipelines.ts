import { compose } from "../abi/compose.ts";
import type { ComposedShader } from "../abi/compose.ts";
import { consts } from "../abi/layout.ts";
import { preamble } from "../abi/preamble.ts";
import { E_DEVICE, E_FAULT, E_OVERLAP, JOB_OK, JOB_PENDING } from "../hal/copy-job.ts";
import copyWgsl from "../../shaders/copy.wgsl?raw";
import finishWgsl from "../../shaders/copy_finish.wgsl?raw";
import vaWgsl from "../../shaders/copy_va.wgsl?raw";
import fillWgsl from "../../shaders/fill.wgsl?raw";
import { bankCount, banksWgsl } from "./banks.ts";
import type { BankLayout } from "./banks.ts";
import type { Geometry } from "./geometry.ts";
import type { Pipelines } from "./pipelines.ts";

/** What only batches of jobs need, made with the first of them. */
export interface CopyPipelines {
  /** Group 1 of parts of jobs: the list (dynamic offset), progress. */
  readonly parts: GPUBindGroupLayout;
  /** Group 0 of VA jobs: all banks, slots, work, results of the translator. */
  readonly va: GPUBindGroupLayout;
  /** Group 1 of `finish`: entries, progress, outcomes. */
  readonly outcome: GPUBindGroupLayout;
  readonly copyPages: GPUComputePipeline;
  readonly copyPagesSame: GPUComputePipeline;
  readonly copyWords: GPUComputePipeline;
  readonly copyWordsSame: GPUComputePipeline;
  readonly fillPages: GPUComputePipeline;
  readonly fillWords: GPUComputePipeline;
  readonly vaCheck: GPUComputePipeline;
  readonly vaAliasCheck: GPUComputePipeline;
  readonly vaMove: GPUComputePipeline;
  readonly finish: GPUComputePipeline;
}

/** The shaders of the job form. */
export function copyJobShaders(layout: BankLayout): Record<"copy" | "fill" | "va" | "finish", ComposedShader> {
  const head = { file: "<abi>", text: preamble(layout.shape) };
  const codes = { file: "<jobs>", text: consts({ E_DEVICE, E_FAULT, E_OVERLAP, JOB_OK, JOB_PENDING }) };
  const n = bankCount(layout);
  const vaBindings = [
    `@group(0) @binding(${n}) var<storage, read_write> slots: array<u32>;`,
    `@group(0) @binding(${n + 1}) var<storage, read_write> work: array<atomic<u32>>;`,
    `@group(0) @binding(${n + 2}) var<storage, read> results: array<Result>;`,
  ];
  const banks = { file: "<banks>", text: banksWgsl(layout, "vram", false) };
  const ctl = { file: "<tables>", text: "@group(0) @binding(1) var<storage, read_write> ctl: Ctl;\n" };
  return {
    copy: compose([{ file: "shaders/copy.wgsl", text: copyWgsl }]),
    fill: compose([{ file: "shaders/fill.wgsl", text: fillWgsl }]),
    va: compose([
      head,
      codes,
      banks,
      { file: "<bindings>", text: vaBindings.join("\n") },
      { file: "shaders/copy_va.wgsl", text: vaWgsl },
    ]),
    finish: compose([head, codes, ctl, { file: "shaders/copy_finish.wgsl", text: finishWgsl }]),
  };
}

/** `pagePerWorkgroup`: see copy.wgsl. Errors arrive in the scopes of the caller. */
export function createCopyPipelines(
  device: GPUDevice,
  geometry: Geometry,
  shared: Pipelines,
  pagePerWorkgroup: boolean,
): CopyPipelines {
  const group = (label: string, buffers: GPUBufferBindingLayout[]) =>
    device.createBindGroupLayout({
      label,
      entries: buffers.map((buffer, binding) => ({ binding, visibility: GPUShaderStage.COMPUTE, buffer })),
    });
  const rw: GPUBufferBindingLayout = { type: "storage" };
  const ro: GPUBufferBindingLayout = { type: "read-only-storage" };
  const banks = Array.from({ length: bankCount(geometry) }, () => rw);
  const layouts = {
    parts: group("parts", [{ type: "read-only-storage", hasDynamicOffset: true }, rw]),
    va: group("va jobs", [...banks, rw, rw, ro]),
    outcome: group("outcome", [ro, ro, rw]),
  };
  const shaders = copyJobShaders(geometry);
  const module = (name: keyof typeof shaders) => device.createShaderModule({ label: name, code: shaders[name].code });
  const make = (
    code: GPUShaderModule,
    entryPoint: string,
    groups: GPUBindGroupLayout[],
    constants: Record<string, number> = {},
  ) =>
    device.createComputePipeline({
      label: `copy ${entryPoint}`,
      layout: device.createPipelineLayout({ bindGroupLayouts: groups }),
      compute: { module: code, entryPoint, constants },
    });
  const shape = { PAGE_PER_WORKGROUP: pagePerWorkgroup ? 1 : 0, WORKGROUP: pagePerWorkgroup ? 256 : 64 };
  const same = { ...shape, SAME_BUFFER: 1 };
  const [copy, fill, va] = [module("copy"), module("fill"), module("va")];
  const two = [shared.copyBuffers, layouts.parts];
  const one = [shared.oneBuffer, layouts.parts];
  return {
    ...layouts,
    copyPages: make(copy, "job_pages", two, shape),
    copyPagesSame: make(copy, "job_pages", two, same),
    copyWords: make(copy, "job_words", two, shape),
    copyWordsSame: make(copy, "job_words", two, same),
    fillPages: make(fill, "job_pages", one, shape),
    fillWords: make(fill, "job_words", one, shape),
    vaCheck: make(va, "check", [layouts.va]),
    vaAliasCheck: make(va, "alias_check", [layouts.va]),
    vaMove: make(va, "move_pieces", [layouts.va], shape),
    finish: make(module("finish"), "finish", [shared.tables, layouts.outcome]),
  };
}
