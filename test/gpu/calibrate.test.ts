import { afterAll, beforeAll, expect, test } from "vitest";
import type { AcquiredDevice } from "../../src/device/acquire.ts";
import { calibratePaths } from "../../src/device/calibrate.ts";
import type { PathCache } from "../../src/device/calibrate.ts";
import { WebGpuEngine } from "../../src/device/index.ts";
import { checkTable, defaultTable, pinWays } from "../../src/device/path-choice.ts";
import { prepareEngine } from "../../src/machine/engine.ts";
import { AP_HOST, AP_VRAM, PageList } from "../../src/hal/gpu.ts";
import { LIMITS_OPTIONS, MIB, testDevice } from "./support.ts";

let acquired: AcquiredDevice;
beforeAll(async () => {
  acquired = await testDevice();
});
afterAll(() => acquired.device.destroy());

/** A clock that stands still but for `step` milliseconds per look. */
function steps(step: number): () => number {
  let time = 0;
  return () => (time += step);
}

function memoryCache(): PathCache & { readonly kept: Map<string, string> } {
  const kept = new Map<string, string>();
  return {
    kept,
    get: async (key) => kept.get(key) ?? null,
    put: async (key, text) => void kept.set(key, text),
  };
}

test("a calibration measures in less than a second, and is kept for the same adapter", async () => {
  const cache = memoryCache();
  const first = await calibratePaths(acquired, { now: () => performance.now(), cache });
  // On a machine so busy that not everything could be measured once, the default stands and is not kept.
  expect(first.calibrationMs).toBeLessThan(2000);
  if (first.source === "default") {
    expect(cache.kept.size).toBe(0);
    return;
  }
  expect(first.source).toBe("calibrated");
  expect(checkTable(first.table)).toBe(first.table);
  expect(cache.kept.size).toBe(1);
  const { source, table } = await calibratePaths(acquired, { now: steps(0), cache });
  expect(source).toBe("cached");
  expect(table).toEqual(first.table);
  const other = { ...acquired, adapter: { ...acquired.adapter, description: "another" } };
  await calibratePaths(other, { now: steps(1), cache });
  expect(cache.kept.size).toBe(2);
});

test("when all ways take the same time the default stands, but that a copy within one buffer takes it twice", async () => {
  const { source, table } = await calibratePaths(acquired, { now: steps(2) });
  expect(source).toBe("calibrated");
  const { inside } = table;
  expect(table).toEqual({ ...defaultTable(acquired.adapter.fallback), inside });
  for (const [first] of [inside.contiguous, inside.scattered]) expect(first!.way).toBe(compute());
});

function compute(): string {
  return acquired.adapter.fallback ? "compute, p/inv" : "compute, p/wg";
}

test("when time is up before anything was compared, the default stands and is not kept", async () => {
  const cache = memoryCache();
  const { source, table } = await calibratePaths(acquired, { now: steps(100), cache });
  expect(source).toBe("default");
  expect(table).toEqual(defaultTable(acquired.adapter.fallback));
  expect(cache.kept.size).toBe(0);
});

test("when time is up before everything was measured once, what was measured counts, and is not kept", async () => {
  const cache = memoryCache();
  expect((await calibratePaths(acquired, { now: steps(16), cache })).source).toBe("calibrated");
  expect(cache.kept.size).toBe(0);
});

const EMPTY = { contiguous: [], scattered: [] };
test.each([
  ["no JSON", "gone"],
  ["a table without steps", JSON.stringify({ ...defaultTable(true), fill: EMPTY })],
])("what was kept and is %s is measured anew", async (_what, text) => {
  const cache: PathCache = { get: async () => text, put: () => Promise.reject(new Error("full")) };
  expect((await calibratePaths(acquired, { now: steps(2), cache })).source).toBe("calibrated");
});

test("the engine honours a pinned table, tells it, and keeps it over a loss", async () => {
  const table = pinWays({ upload: "write + scatter, p/inv", readback: "gather + map, p/inv" });
  const engine = await WebGpuEngine.prepare({ ...LIMITS_OPTIONS, copyPaths: table });
  expect(engine.copyPaths).toEqual({ source: "pinned", table });
  const labels = new Set<string>();
  const watch = () => {
    const { device } = engine.acquired;
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      labels.add(descriptor.label ?? "");
      return create(descriptor);
    };
  };
  const move = async () => {
    const hostMemory = new Uint8Array(MIB);
    const gpu = engine.createGpu({
      vramBytes: 4 * MIB,
      ptBytes: MIB,
      syswBytes: 0,
      faultQueueCapacity: 64,
      hostMemory,
    });
    hostMemory.fill(7, 0, 4096);
    const list = new PageList();
    list.push(AP_HOST, 0, AP_VRAM, 300, 1);
    void gpu.copy(list);
    list.clear();
    list.push(AP_VRAM, 300, AP_HOST, 5, 1);
    await gpu.copy(list);
    gpu.destroy();
    return hostMemory[5 * 4096];
  };
  watch();
  expect(await move()).toBe(7);
  expect([...labels]).toEqual(expect.arrayContaining(["upload staging", "download staging"]));
  engine.acquired.device.destroy();
  await expect.poll(() => engine.isLost).toBe(true);
  await engine.renew();
  expect(engine.copyPaths.source).toBe("pinned");
  labels.clear();
  watch();
  expect(await move()).toBe(7);
  expect([...labels]).toEqual(expect.arrayContaining(["upload staging", "download staging"]));
  engine.destroy();
});

test("the machine's option: the default, a table that is checked, and a calibration that the browser keeps", async () => {
  const plain = await prepareEngine("webgpu");
  expect(plain.copyPaths!.source).toBe("default");
  plain.destroy();
  const wrong = { ...defaultTable(true), upload: { contiguous: [{ from: 0, way: "by mail" }], scattered: [] } };
  await expect(prepareEngine("webgpu", { copyPaths: wrong as never })).rejects.toMatchObject({
    name: "ConfigError",
    message: expect.stringContaining('"by mail" is none of the ways: writeBuffer per run;') as string,
  });
  const measured = await prepareEngine("webgpu", { copyPaths: "calibrate" });
  measured.destroy();
  if (measured.copyPaths!.source === "default") return;
  const again = await prepareEngine("webgpu", { copyPaths: "calibrate" });
  expect(again.copyPaths).toEqual({ source: "cached", table: measured.copyPaths!.table });
  again.destroy();
});
