import { describe, expect, test } from "vitest";
import { EBUSY, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC, type Errno } from "../../src/base/errno.ts";
import { Completion } from "../../src/base/locks.ts";
import {
  type BindOp,
  VM_BIND_CPU_ADDR_MIRROR,
  VM_BIND_IMMEDIATE,
  VM_BIND_MADVISE_AUTORESET,
  VM_BIND_MAX_OPS,
  VM_BIND_NULL,
  VM_BIND_OP_MAP,
  VM_BIND_OP_MAP_USERPTR,
  VM_BIND_OP_PREFETCH,
  VM_BIND_OP_UNMAP,
  VM_BIND_OP_UNMAP_ALL,
} from "../../src/gpuvm/bind-args.ts";
import { GemObject } from "../../src/gpuvm/gem-object.ts";
import { gpuvmInit } from "../../src/gpuvm/gpuvm.ts";
import { GpuVaOp } from "../../src/gpuvm/ops.ts";
import { type BindHost, BindQueue, BindVm, vmBind } from "../../src/gpuvm/vm-bind.ts";

const K = 4096;
const M = 1048576;

/** A driver whose page tables are a record of calls; the `failAt`-th thing that can fail does. */
class Driver {
  readonly log: string[] = [];
  readonly objects = new Map<number, GemObject>();
  readonly bindVm: BindVm;
  readonly mode = { fault: false };
  leaf = K;
  svmRanges = false;
  /** Counts down at everything that can fail. */
  failAfter = Infinity;
  failSubmitHalfway = false;

  constructor() {
    const vm = gpuvmInit({
      name: "vm",
      start: 0,
      range: 256 * M,
      ops: { opAlloc: () => (this.#fails() ? null : new GpuVaOp()), vmFree: () => {} },
    });
    this.objects.set(1, new GemObject("A", 8 * M, vm.rObj.resv));
    this.objects.set(2, new GemObject("B", 8 * M));
    this.objects.set(3, new GemObject("C", 8 * M));
    this.bindVm = new BindVm(vm, this.#host());
  }

  bind(...ops: BindOp[]): Promise<0 | Errno> {
    return vmBind(this.bindVm, ops);
  }

  state(): string[] {
    return Array.from(this.bindVm.vm.vas(), (va) => {
      const where = `[${va.addr / K},${(va.addr + va.range) / K})`;
      return va.obj === null ? `-${where} f${va.flags}` : `${va.obj.name}${where}+${va.offset / K}`;
    });
  }

  /** Nothing is locked, and objects have a vm_bo exactly where they are mapped. */
  checkQuiet(): void {
    expect(this.bindVm.lock.isHeld).toBe(false);
    this.bindVm.vm.checkInvariants();
    for (const obj of this.objects.values()) {
      expect(obj.resv.isHeld).toBe(false);
      const mapped = [...this.bindVm.vm.vas()].filter((va) => va.obj === obj).length;
      expect([...obj.gpuvas()].length).toBe(mapped);
      expect(obj.vmBos.size).toBe(mapped > 0 ? 1 : 0);
    }
  }

  #fails(): boolean {
    this.failAfter -= 1;
    return this.failAfter < 0;
  }

  #host(): BindHost {
    const record = (text: string): 0 | Errno => {
      if (this.#fails()) return ENOSPC;
      this.log.push(text);
      return 0;
    };
    const pages = (start: number, range: number): string => `${start / K} ${(start + range) / K}`;
    const { mode } = this;
    return {
      pageSize: K,
      get faultMode() {
        return mode.fault;
      },
      hasRegion: (region) => region <= 1,
      lookupObject: (handle) => this.objects.get(handle) ?? null,
      needs64K: (obj) => obj.name === "C",
      leafSize: () => this.leaf,
      hasSvmRanges: () => this.svmRanges,
      validate: (obj) => record(`validate ${obj.name}`),
      prefetch: (va, region) => record(`prefetch ${pages(va.addr, va.range)} to ${region}`),
      beginUpdate: () => {
        let submitted = false;
        return {
          bind: (va) => record(`bind ${pages(va.addr, va.range)}`),
          unbind: (start, range) => record(`unbind ${pages(start, range)}`),
          submit: () => {
            submitted = this.failSubmitHalfway;
            return submitted ? EIO : record("submit");
          },
          abort: () => this.log.push("abort"),
          get submitted() {
            return submitted;
          },
        };
      },
    };
  }
}

const map = (addr: number, range: number, obj = 1, offset = 0, flags = 0): BindOp => ({
  op: VM_BIND_OP_MAP,
  flags,
  obj,
  offset: offset * K,
  addr: addr * K,
  range: range * K,
});
const unmap = (addr: number, range: number): BindOp => ({ op: VM_BIND_OP_UNMAP, addr: addr * K, range: range * K });

describe("peer cases", () => {
  const base = 0x1a00000;

  test.each([
    ["one-partial", 1, 1, 2, ["A[0,1)+0", "A[3,4)+3"]],
    ["either-side-partial", 2, 1, 2, ["A[0,1)+0", "A[3,4)+3"]],
    ["end", 2, 0, 3, ["A[3,4)+3"]],
    ["front", 2, 1, 3, ["A[0,1)+0"]],
  ])("P22 munmap-style unbind, %s: %i binds, unbind at %i of %i pages", async (_name, binds, at, pages, left) => {
    const driver = new Driver();
    const size = 4 / binds;
    for (let i = 0; i < binds; i++) expect(await driver.bind(map(base / K + i * size, size, 1, i * size))).toBe(0);
    expect(await driver.bind(unmap(base / K + at, pages))).toBe(0);
    const shifted = driver.state().map((text) => text.replace(/\d+(?=[,)])/g, (n) => String(Number(n) - base / K)));
    expect(shifted).toEqual(left);
    expect(await driver.bind(map(base / K + at, pages, 1, at))).toBe(0);
    driver.checkQuiet();
  });

  test("P23 a bind over the middle of another", async () => {
    const driver = new Driver();
    await driver.bind(map(0, 4));
    await driver.bind(map(1, 2, 2, 1));
    expect(driver.state()).toEqual(["A[0,1)+0", "B[1,3)+1", "A[3,4)+3"]);
  });

  const conflict = [map(0, 256), map(256, 512, 1, 256), map(768, 768, 1, 768), unmap(256, 1024)];
  test.each([
    ["in one call", [conflict]],
    ["one by one", conflict.map((op) => [op])],
  ])("P24 conflicting operations %s", async (_name, calls) => {
    const driver = new Driver();
    for (const ops of calls) expect(await driver.bind(...ops)).toBe(0);
    expect(driver.state()).toEqual(["A[0,256)+0", "A[1280,1536)+1280"]);
    driver.checkQuiet();
  });
});

describe("arguments", () => {
  const bad: [string, BindOp][] = [
    ["an unknown op", { ...map(0, 1), op: 5 }],
    ["an unknown flag", map(0, 1, 1, 0, 128)],
    ["a reserved word", { ...map(0, 1), reserved: 1 }],
    ["NULL with an object", map(0, 1, 1, 0, VM_BIND_NULL)],
    ["NULL with an offset", map(0, 1, 0, 1, VM_BIND_NULL)],
    ["NULL on an unmap", { ...unmap(0, 1), flags: VM_BIND_NULL }],
    ["a map without object", map(0, 1, 0)],
    ["an object for an unmap", { ...unmap(0, 1), obj: 1 }],
    ["an object for user memory", { ...map(0, 1), op: VM_BIND_OP_MAP_USERPTR }],
    ["unmap-all without object", { op: VM_BIND_OP_UNMAP_ALL }],
    ["unmap-all with a range", { op: VM_BIND_OP_UNMAP_ALL, obj: 1, range: K }],
    ["a region for a map", { ...map(0, 1), region: 1 }],
    ["a region that does not exist", { op: VM_BIND_OP_PREFETCH, addr: 0, range: K, region: 2 }],
    ["an unaligned address", { ...map(0, 1), addr: 1 }],
    ["an unaligned range", { ...map(0, 1), range: K + 1 }],
    ["an unaligned offset", { ...map(0, 1), offset: 5 }],
    ["an empty range", map(0, 0)],
    ["an end behind the VM", map((256 * M) / K - 1, 2)],
    ["an end behind the object", map(0, 2, 1, 2047)],
    ["an offset behind the object", map(0, 1, 1, 4096)],
    ["4 KiB of an object in 64 KiB pages", map(0, 1, 3)],
    ["a negative address", { ...map(0, 1), addr: -K }],
    ["a CPU mirror outside fault mode", map(0, 1, 0, 0, VM_BIND_CPU_ADDR_MIRROR)],
    ["autoreset without CPU mirror", map(0, 1, 1, 0, VM_BIND_MADVISE_AUTORESET)],
  ];
  test.each(bad)("%s is -EINVAL, and the good op before it is not done", async (_name, op) => {
    const driver = new Driver();
    expect(await driver.bind(map(100, 1), op)).toBe(EINVAL);
    expect([driver.state(), driver.log]).toEqual([[], []]);
    driver.checkQuiet();
  });

  test("both sides of the limits", async () => {
    const driver = new Driver();
    expect(await driver.bind(map((256 * M) / K - 1, 1, 1, 2047), map(0, 16, 3))).toBe(0);
    const many = (n: number): BindOp[] => Array.from({ length: n }, () => unmap(50, 1));
    expect(await driver.bind(...many(VM_BIND_MAX_OPS))).toBe(0);
    expect(await driver.bind(...many(VM_BIND_MAX_OPS + 1))).toBe(EINVAL);
  });

  test("an unknown object, a closed VM or queue are -ENOENT; a queue of another VM is -EINVAL", async () => {
    const driver = new Driver();
    expect(await driver.bind(map(0, 1, 9))).toBe(ENOENT);
    const queue = new BindQueue(driver.bindVm);
    expect(await vmBind(new Driver().bindVm, [map(0, 1)], { queue })).toBe(EINVAL);
    queue.closed = true;
    expect(await vmBind(driver.bindVm, [map(0, 1)], { queue })).toBe(ENOENT);
    driver.bindVm.closed = true;
    expect(await driver.bind(map(0, 1))).toBe(ENOENT);
    expect(await driver.bind(map(0, 0))).toBe(EINVAL);
  });
});

describe("page table work", () => {
  test.each([
    ["a cut on leaf boundaries leaves the pieces alone", K, ["unbind 4 8", "submit"]],
    ["a cut through a leaf binds that piece again", 8 * K, ["unbind 0 8", "validate A", "bind 0 4", "submit"]],
    [
      "two cuts through leaves bind both again",
      16 * K,
      ["unbind 0 16", "validate A", "bind 0 4", "validate A", "bind 8 16", "submit"],
    ],
  ])("%s", async (_name, leaf, expected) => {
    const driver = new Driver();
    driver.leaf = leaf;
    await driver.bind(map(0, 16));
    driver.log.length = 0;
    await driver.bind(unmap(4, 4));
    expect(driver.log).toEqual(expected);
  });

  test("pieces of user memory are always bound again", async () => {
    const driver = new Driver();
    await driver.bind({ op: VM_BIND_OP_MAP_USERPTR, offset: 16 * K, addr: 0, range: 8 * K });
    driver.log.length = 0;
    await driver.bind(unmap(4, 4));
    expect(driver.log).toEqual(["unbind 0 8", "bind 0 4", "submit"]);
  });

  test("in fault mode a map waits for its first fault, unless it is immediate", async () => {
    const driver = new Driver();
    driver.mode.fault = true;
    await driver.bind(map(0, 1));
    expect(driver.log).toEqual(["submit"]);
    await driver.bind(map(1, 1, 1, 1, VM_BIND_IMMEDIATE));
    expect(driver.log).toEqual(["submit", "validate A", "bind 1 2", "submit"]);
  });

  test("prefetch moves and binds what is there, unmap-all takes every mapping of the object", async () => {
    const driver = new Driver();
    await driver.bind(map(0, 1), map(4, 1, 2), map(8, 1, 1, 1));
    driver.log.length = 0;
    await driver.bind({ op: VM_BIND_OP_PREFETCH, addr: 0, range: 6 * K, region: 1 });
    expect(driver.log).toEqual(["prefetch 0 1 to 1", "bind 0 1", "prefetch 4 5 to 1", "bind 4 5", "submit"]);
    await driver.bind({ op: VM_BIND_OP_UNMAP_ALL, obj: 1 });
    expect(driver.state()).toEqual(["B[4,5)+0"]);
    driver.checkQuiet();
  });

  test("a CPU mirror that holds SVM ranges is -EBUSY to unmap, and keeps its pieces' entries when it does not", async () => {
    const driver = new Driver();
    driver.mode.fault = true;
    driver.leaf = 2 * M;
    await driver.bind(map(0, 16, 0, 0, VM_BIND_CPU_ADDR_MIRROR));
    const before = driver.state();
    driver.svmRanges = true;
    expect(await driver.bind(unmap(4, 4))).toBe(EBUSY);
    expect(driver.state()).toEqual(before);
    driver.svmRanges = false;
    driver.log.length = 0;
    expect(await driver.bind(unmap(4, 4))).toBe(0);
    expect(driver.log).toEqual(["unbind 4 8", "submit"]);
    driver.checkQuiet();
  });
});

describe("all or nothing", () => {
  const before = [map(0, 16), map(16, 16, 2, 4), map(40, 8, 0, 0, VM_BIND_NULL)];
  const call = [map(4, 4, 2), unmap(12, 8), map(14, 30, 1, 100), { op: VM_BIND_OP_UNMAP_ALL, obj: 2 }, map(0, 2, 2, 8)];

  test("a failure at any step leaves the VM as it was", async () => {
    let failures = 0;
    for (let failAfter = 0; ; failAfter++) {
      const driver = new Driver();
      driver.leaf = 2 * M;
      await driver.bind(...before);
      const state = driver.state();
      driver.failAfter = failAfter;
      const ret = await driver.bind(...call);
      driver.checkQuiet();
      if (ret === 0) break;
      expect([ENOMEM, ENOSPC]).toContain(ret);
      expect(driver.state()).toEqual(state);
      expect(driver.bindVm.banned).toBe(false);
      failures += 1;
    }
    expect(failures).toBeGreaterThan(20);
  });

  test("a failure after page tables were written bans the VM", async () => {
    const driver = new Driver();
    await driver.bind(map(0, 4));
    driver.failSubmitHalfway = true;
    expect(await driver.bind(unmap(0, 2))).toBe(EIO);
    expect(driver.state()).toEqual(["A[0,4)+0"]);
    expect(await driver.bind(map(8, 1))).toBe(ENOENT);
    driver.checkQuiet();
  });
});

describe("fences", () => {
  test("page tables change after the waits, signals complete after that", async () => {
    const driver = new Driver();
    const [wait, signal] = [new Completion(), new Completion()];
    const binding = vmBind(driver.bindVm, [map(0, 1)], { waits: [wait], signals: [signal] });
    for (let i = 0; i < 20; i++) await Promise.resolve();
    expect([driver.log, signal.isDone]).toEqual([[], false]);
    wait.complete();
    expect(await binding).toBe(0);
    expect([driver.log.at(-1), signal.isDone]).toEqual(["submit", true]);
  });

  test("with nothing to do they complete too; on an error they do not", async () => {
    const driver = new Driver();
    const queue = new BindQueue(driver.bindVm);
    const signals = [new Completion(), new Completion(), new Completion()];
    expect(await vmBind(driver.bindVm, [], { queue, signals: [signals[0]!] })).toBe(0);
    expect(await vmBind(driver.bindVm, [unmap(0, 8)], { queue, signals: [signals[1]!] })).toBe(0);
    driver.failAfter = 0;
    expect(await vmBind(driver.bindVm, [map(0, 8)], { queue, signals: [signals[2]!] })).toBe(ENOMEM);
    expect(signals.map((s) => s.isDone)).toEqual([true, true, false]);
    expect(driver.log).toEqual([]);
  });
});
