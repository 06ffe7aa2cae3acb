import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ArrayType, Scalar, StructType } from "../../src/abi/layout.ts";
import { sizeOf } from "../../src/abi/layout.ts";
import { preamble } from "../../src/abi/preamble.ts";
import * as tables from "../../src/abi/tables.ts";
import { testDevice } from "./support.ts";

/** Every field of every shared structure, written from WGSL and found by TypeScript at its offset. */
const SHAPE = {
  tileBytes: [1 << 24],
  ptBytes: 1 << 20,
  syswBytes: 1 << 20,
  segShift: 24,
  nseg: 1,
  faultQueueCapacity: 64,
  dedupSlots: 4096,
};

const STRUCTS: StructType[] = [
  tables.CtlHeader,
  tables.EngineEntry,
  tables.AsidEntry,
  tables.TlbEntry,
  tables.InvalRequest,
  tables.Ctl,
  tables.Request,
  tables.Result,
  tables.Miss,
  tables.FaultRecord,
  tables.faultQueueType(SHAPE.faultQueueCapacity, SHAPE.dedupSlots),
  tables.LaunchParams,
];

interface Leaf {
  path: string;
  byte: number;
  isAtomic: boolean;
}

/** The words of a type; of an array the first and the last element. */
function leaves(path: string, type: Scalar | StructType | ArrayType, byte: number): Leaf[] {
  if (type === "u32" || type === "atomic<u32>") return [{ path, byte, isAtomic: type !== "u32" }];
  if (type === "vec2u" || type === "vec4u") {
    return [..."xyzw"]
      .slice(0, type === "vec2u" ? 2 : 4)
      .map((c, i) => ({ path: `${path}.${c}`, byte: byte + i * 4, isAtomic: false }));
  }
  if (type.kind === "array") {
    const last = type.count - 1;
    return [0, last].flatMap((i) => leaves(`${path}[${i}]`, type.element, byte + i * sizeOf(type.element)));
  }
  return Object.entries(type.type).flatMap(([name, field]) =>
    leaves(`${path}.${name}`, field, byte + type.offset[name]!),
  );
}

let device: GPUDevice;
beforeAll(async () => {
  ({ device } = await testDevice());
});
afterAll(() => device.destroy());

describe("fields lie in WGSL where TypeScript says", () => {
  test.each(STRUCTS.map((s) => [s.name, s] as const))("%s", async (name, type) => {
    const fields = leaves("s", type, 0);
    const stores = fields.map((f, i) =>
      f.isAtomic ? `atomicStore(&${f.path}, ${i + 1}u);` : `${f.path} = ${i + 1}u;`,
    );
    const code = `${preamble(SHAPE)}
@group(0) @binding(0) var<storage, read_write> s: ${name};
@compute @workgroup_size(1) fn main() {
${stores.join("\n")}
}`;
    device.pushErrorScope("validation");
    const pipeline = await device.createComputePipelineAsync({
      layout: "auto",
      compute: { module: device.createShaderModule({ code }) },
    });
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC;
    const buffer = device.createBuffer({ size: type.size, usage });
    const read = device.createBuffer({ size: type.size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    pass.setPipeline(pipeline);
    pass.setBindGroup(
      0,
      device.createBindGroup({
        layout: pipeline.getBindGroupLayout(0),
        entries: [{ binding: 0, resource: { buffer } }],
      }),
    );
    pass.dispatchWorkgroups(1);
    pass.end();
    encoder.copyBufferToBuffer(buffer, 0, read, 0, type.size);
    device.queue.submit([encoder.finish()]);
    await read.mapAsync(GPUMapMode.READ);
    const words = new Uint32Array(read.getMappedRange());
    expect(await device.popErrorScope()).toBeNull();
    // Where first and last element are one, the later store wins.
    const expected = new Map(fields.map((f, i) => [f.byte, i + 1]));
    for (const [byte, value] of expected) expect(`${byte}: ${words[byte / 4]}`).toBe(`${byte}: ${value}`);
    const stray = words.reduce((n, w) => n + (w === 0 ? 0 : 1), 0);
    expect(stray).toBe(expected.size);
    buffer.destroy();
    read.destroy();
  });
});
