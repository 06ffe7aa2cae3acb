import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/base/errors.ts";
import { GpuSvm } from "../../src/gpusvm/gpusvm.ts";
import type { GpuSvmInit } from "../../src/gpusvm/init.ts";
import { ModelProcess, neverWaits } from "../vectors/gpusvm-process.ts";

const MB = 2 ** 20;

function init(changes: Partial<GpuSvmInit> = {}): GpuSvmInit {
  return {
    name: "test",
    drm: null,
    mm: new ModelProcess([], []),
    mmStart: 0,
    mmRange: 2 ** 47,
    notifierSize: 512 * MB,
    chunkSizes: [2 * MB, 65536, 4096],
    ops: { invalidate: () => undefined },
    scheduler: neverWaits,
    ...changes,
  };
}

/** The parameter that the constructor rejects. */
function rejected(changes: Partial<GpuSvmInit>): string | null {
  try {
    new GpuSvm(init(changes));
    return null;
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as ConfigError).path;
  }
}

describe("init", () => {
  test.each([
    ["the recommended sizes", {}],
    ["one chunk size", { chunkSizes: [4096] }],
    ["a notifier as large as the largest chunk", { notifierSize: 2 * MB }],
    ["a mirror window that ends just below 2^53", { mmStart: 0, mmRange: 2 ** 53 - 512 * MB - 1 }],
  ])("accepts %s", (_name, changes) => {
    expect(rejected(changes)).toBeNull();
  });

  test.each([
    ["no invalidate", { ops: {} as NonNullable<GpuSvmInit["ops"]> }, "gpusvm.ops.invalidate"],
    ["no chunk size", { chunkSizes: [] }, "gpusvm.chunkSizes"],
    ["a chunk size that is no power of two", { chunkSizes: [2 * MB, 65536 + 4096, 4096] }, "gpusvm.chunkSizes[1]"],
    ["a chunk size below a page", { chunkSizes: [4096, 2048] }, "gpusvm.chunkSizes[1]"],
    ["equal chunk sizes", { chunkSizes: [65536, 65536, 4096] }, "gpusvm.chunkSizes[1]"],
    ["ascending chunk sizes", { chunkSizes: [4096, 65536] }, "gpusvm.chunkSizes[1]"],
    ["a last chunk size above a page", { chunkSizes: [2 * MB, 65536] }, "gpusvm.chunkSizes[1]"],
    ["a notifier size that is no power of two", { notifierSize: 3 * MB }, "gpusvm.notifierSize"],
    ["a notifier smaller than the largest chunk", { notifierSize: MB }, "gpusvm.notifierSize"],
    ["a negative start", { mmStart: -4096 }, "gpusvm.mmStart"],
    ["an empty mirror window", { mmRange: 0 }, "gpusvm.mmRange"],
    ["a mirror window whose end is not exact", { mmRange: 2 ** 53 }, "gpusvm.mmRange"],
    ["operations without an mm", { mm: null }, "gpusvm.ops"],
  ] as const)("rejects %s", (_name, changes, path) => {
    expect(rejected(changes as Partial<GpuSvmInit>)).toBe(path);
  });

  test.each(["chunkSizes", "mmRange", "notifierSize"] as const)("pages-only mode rejects %s", (name) => {
    const { [name]: value, scheduler } = init();
    const error = () => new GpuSvm({ name: "userptr", drm: null, mm: null, scheduler, [name]: value });
    expect(error).toThrow(`gpusvm.${name}`);
  });

  test("pages-only mode has no ranges", () => {
    const svm = new GpuSvm({ name: "userptr", drm: null, mm: null, scheduler: neverWaits });
    expect(() => svm.rangeFindOrInsert(0, 0, 4096, {} as never)).toThrow(/pages-only/);
    expect(svm.fini()).toBeUndefined();
  });

  test("a version's compat trusts the sizes, as the kernel does", () => {
    expect(rejected({ notifierSize: MB, compat: "6.18" })).toBeNull();
  });

  test("holds the mm's structure from init to fini", () => {
    let grabbed = 0;
    const mm = new ModelProcess([], []);
    mm.mmgrab = () => void (grabbed += 1);
    mm.mmdrop = () => void (grabbed -= 1);
    const svm = new GpuSvm(init({ mm }));
    expect(grabbed).toBe(1);
    svm.fini();
    expect(grabbed).toBe(0);
  });
});
