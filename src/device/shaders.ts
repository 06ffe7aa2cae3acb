import { compose } from "../abi/compose.ts";
import type { ComposedShader, ShaderPart } from "../abi/compose.ts";
import { preamble } from "../abi/preamble.ts";
import itemWgsl from "../../shaders/item.wgsl?raw";
import addressWgsl from "../../shaders/lib/address.wgsl?raw";
import classifyWgsl from "../../shaders/lib/classify.wgsl?raw";
import faultWgsl from "../../shaders/lib/fault.wgsl?raw";
import leanWgsl from "../../shaders/lib/lean.wgsl?raw";
import tlbLookupWgsl from "../../shaders/lib/tlb_lookup.wgsl?raw";
import translateWgsl from "../../shaders/lib/translate.wgsl?raw";
import walkLibWgsl from "../../shaders/lib/walk.wgsl?raw";
import walkStraightWgsl from "../../shaders/lib/walk_straight.wgsl?raw";
import missWgsl from "../../shaders/miss.wgsl?raw";
import pteWriteWgsl from "../../shaders/pte_write.wgsl?raw";
import svmWgsl from "../../shaders/svm.wgsl?raw";
import svmAtomicsWgsl from "../../shaders/svm_atomics.wgsl?raw";
import svmCursorWgsl from "../../shaders/svm_cursor.wgsl?raw";
import svmGroupWgsl from "../../shaders/svm_group.wgsl?raw";
import svmPrefaultWgsl from "../../shaders/svm_prefault.wgsl?raw";
import svmPrefaultItemsWgsl from "../../shaders/svm_prefault_items.wgsl?raw";
import svmRoundWgsl from "../../shaders/svm_round.wgsl?raw";
import svmTypedWgsl from "../../shaders/svm_typed.wgsl?raw";
import tlbWgsl from "../../shaders/tlb.wgsl?raw";
import walkWgsl from "../../shaders/walk.wgsl?raw";
import type { KernelDesign } from "../hal/gpu.ts";
import { bankCount, banksWgsl, firstSegment } from "./banks.ts";
import type { BankLayout, BankSet } from "./banks.ts";
import { streamsWgsl } from "./streams.ts";

/** Which parts make which shader: an explicit ordered list each. */
export interface EngineShaders {
  readonly tlb: ComposedShader;
  readonly pteWrite: ComposedShader;
}

/** The translating shaders of one tile. */
export function walkShaders(layout: BankLayout, tile: number): Record<"walk" | "miss", ComposedShader> {
  const parts: ShaderPart[] = [
    ...headParts(layout, tile),
    banksPart(layout, "tables", false),
    ctlPart(1),
    faultqPart(2),
    { file: "shaders/lib/tlb_lookup.wgsl", text: tlbLookupWgsl },
    { file: "shaders/lib/fault.wgsl", text: faultWgsl },
  ];
  return {
    walk: compose([
      ...parts,
      { file: "shaders/lib/translate.wgsl", text: translateWgsl },
      { file: "shaders/lib/walk.wgsl", text: walkLibWgsl },
      { file: "shaders/lib/walk_straight.wgsl", text: walkStraightWgsl },
      { file: "shaders/walk.wgsl", text: walkWgsl },
    ]),
    miss: compose([
      ...parts,
      { file: "shaders/lib/classify.wgsl", text: classifyWgsl },
      { file: "shaders/miss.wgsl", text: missWgsl },
    ]),
  };
}

/** Those that are the same for all tiles, but for the page kernels (ways/page-pipelines.ts). */
export function engineShaders(layout: BankLayout): EngineShaders {
  const head = headParts(layout, 0);
  return {
    tlb: compose([
      ...head,
      ctlPart(1),
      { file: "shaders/lib/tlb_lookup.wgsl", text: tlbLookupWgsl },
      { file: "shaders/tlb.wgsl", text: tlbWgsl },
    ]),
    pteWrite: compose([head[0]!, { file: "shaders/pte_write.wgsl", text: pteWriteWgsl }]),
  };
}

/** What of a kernel's source decides which parts surround it. */
export interface KernelShape {
  readonly atomics: boolean;
  readonly design: KernelDesign;
  /** The kernel has a pre-pass of its own. */
  readonly prefaultsItems: boolean;
}

/** A user kernel with everything around it, for one tile. */
export function kernelShader(
  layout: BankLayout,
  name: string,
  wgsl: string,
  shape: KernelShape,
  tile: number,
): ComposedShader {
  const n = bankCount(layout);
  const { atomics, design, prefaultsItems } = shape;
  return compose([
    ...headParts(layout, tile),
    banksPart(layout, "vram", atomics, firstSegment(layout, tile)),
    ctlPart(n),
    faultqPart(n + 1),
    { file: "shaders/lib/lean.wgsl", text: leanWgsl },
    { file: "shaders/lib/fault.wgsl", text: faultWgsl },
    { file: "shaders/svm.wgsl", text: svmWgsl },
    { file: "shaders/svm_typed.wgsl", text: svmTypedWgsl },
    { file: "shaders/svm_cursor.wgsl", text: svmCursorWgsl },
    ...(atomics ? [{ file: "shaders/svm_atomics.wgsl", text: svmAtomicsWgsl }] : []),
    { file: "<streams>", text: streamsWgsl(layout, atomics, wgsl) },
    { file: "shaders/svm_round.wgsl", text: svmRoundWgsl },
    { file: "shaders/svm_prefault.wgsl", text: svmPrefaultWgsl },
    ...(prefaultsItems ? [{ file: "shaders/svm_prefault_items.wgsl", text: svmPrefaultItemsWgsl }] : []),
    design === "workgroup"
      ? { file: "shaders/svm_group.wgsl", text: svmGroupWgsl }
      : { file: "shaders/item.wgsl", text: itemWgsl },
    // Last, so that what the user leaves open cannot swallow ours.
    { file: name, text: wgsl },
  ]);
}

function headParts(layout: BankLayout, tile: number): ShaderPart[] {
  return [
    { file: "<abi>", text: preamble(layout.shape, tile) },
    { file: "shaders/lib/address.wgsl", text: addressWgsl },
  ];
}

function banksPart(layout: BankLayout, set: BankSet, atomics: boolean, tablesBank = 0): ShaderPart {
  return { file: "<banks>", text: banksWgsl(layout, set, atomics, tablesBank) };
}

function ctlPart(binding: number): ShaderPart {
  return { file: "<tables>", text: `@group(0) @binding(${binding}) var<storage, read_write> ctl: Ctl;\n` };
}

function faultqPart(binding: number): ShaderPart {
  return { file: "<tables>", text: `@group(0) @binding(${binding}) var<storage, read_write> faultq: FaultQueue;\n` };
}
