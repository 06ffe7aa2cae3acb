import { describe, expect, test } from "vitest";
import { InvariantError } from "../../src/base/assert.ts";
import { EAGAIN, ENOMEM, ENOSPC, EOPNOTSUPP, type Errno, isErr } from "../../src/base/errno.ts";
import { Completion } from "../../src/base/locks.ts";
import { DmaResv, RESV_USAGE_BOOKKEEP, RESV_USAGE_KERNEL, RESV_USAGE_WRITE } from "../../src/gpuvm/dma-resv.ts";
import { DrmExec, EALREADY, EXEC_IGNORE_DUPLICATES } from "../../src/gpuvm/drm-exec.ts";
import { boEvict, boExtobjAdd, boGemEvict } from "../../src/gpuvm/evict.ts";
import { GpuVmExec, prepareObjects, smMapExecLock, smUnmapExecLock, validate } from "../../src/gpuvm/exec.ts";
import { GemObject } from "../../src/gpuvm/gem-object.ts";
import { GpuVa } from "../../src/gpuvm/gpuva.ts";
import { GPUVM_IMMEDIATE_MODE, GPUVM_RESV_PROTECTED, type GpuVm, gpuvmInit } from "../../src/gpuvm/gpuvm.ts";
import { gpuvaLink, gpuvaUnlink, gpuvaUnlinkDefer } from "../../src/gpuvm/link.ts";
import {
  boCreate,
  boDeferredCleanup,
  boFind,
  boObtain,
  boObtainPrealloc,
  boPut,
  boPutDeferred,
  type GpuVmBo,
} from "../../src/gpuvm/vm-bo.ts";
import type { GpuVmOps } from "../../src/gpuvm/vm-ops.ts";

const free = { isHeld: true };

function newVm(flags = 0, ops: GpuVmOps = {}): GpuVm {
  return gpuvmInit({ name: "vm", flags, start: 0, range: 1000, ops: { vmFree: () => {}, ...ops } });
}

function newObject(name: string, vm?: GpuVm): GemObject {
  const obj = new GemObject(name, 1000, vm?.rObj.resv);
  obj.setGpuvaLock(free);
  return obj;
}

function obtain(vm: GpuVm, obj: GemObject): GpuVmBo {
  const vmBo = boObtain(vm, obj);
  if (isErr(vmBo)) throw new Error("no vm_bo");
  return vmBo;
}

async function holding<T>(resv: DmaResv, body: () => T): Promise<T> {
  const guard = await resv.lock();
  try {
    return body();
  } finally {
    guard.release();
  }
}

/** Names, because comparing objects that refer to each other in a circle takes the test runner forever. */
function names(exec: DrmExec): string[] {
  return exec.objects.map((obj) => obj.name);
}

describe("vm_bo", () => {
  test("there is one for a pair, counted, and it holds the VM and the object", () => {
    const vm = newVm();
    const obj = newObject("A");
    const one = obtain(vm, obj);
    expect(obtain(vm, obj) === one).toBe(true);
    expect([one.refs, vm.refs, obj.refs]).toEqual([2, 2, 2]);
    expect(boFind(vm, obj) === one).toBe(true);
    expect(boFind(newVm(), obj) === null).toBe(true);
    expect([boPut(one), boPut(one), boPut(one)]).toEqual([false, false, true]);
    expect([vm.refs, obj.refs, obj.vmBos.size]).toEqual([1, 1, 0]);
    expect(boPut(null)).toBe(false);
  });

  test("a preallocated one is used, or put when the pair has one", () => {
    const vm = newVm();
    const obj = newObject("A");
    const first = boCreate(vm, obj)!;
    expect(obj.vmBos.size).toBe(0);
    expect(boObtainPrealloc(first) === first).toBe(true);
    expect(boObtainPrealloc(boCreate(vm, obj)!) === first).toBe(true);
    expect([first.refs, obj.vmBos.size, vm.refs]).toEqual([2, 1, 2]);
  });

  test("without memory: -ENOMEM, and nothing is held", () => {
    const vm = newVm(0, { vmBoAlloc: () => null });
    const obj = newObject("A");
    expect(boObtain(vm, obj)).toBe(ENOMEM);
    expect([vm.refs, obj.refs]).toEqual([1, 1]);
  });

  test("the lock of the list is asserted", () => {
    const obj = new GemObject("A", 1000);
    expect(() => boObtain(newVm(), obj)).toThrow(/must be held/);
  });

  test("linking holds it; unlinking the last mapping frees it, and is harmless a second time", () => {
    const vm = newVm();
    const obj = newObject("A");
    const va = new GpuVa(10, 10, obj, 0);
    vm.insert(va);
    const vmBo = obtain(vm, obj);
    gpuvaLink(va, vmBo);
    expect([...obj.gpuvas()].map((v) => v === va)).toEqual([true]);
    expect(() => gpuvaLink(va, vmBo)).toThrow(InvariantError);
    boPut(vmBo);
    gpuvaUnlink(va);
    expect([va.vmBo === null, obj.vmBos.size]).toEqual([true, 0]);
    gpuvaUnlink(va);
    expect(vm.warnings.count).toBe(0);
  });

  test("a mapping of another object is linked with a warning, one without object not at all", () => {
    const vm = newVm();
    const vmBo = obtain(vm, newObject("A"));
    const va = new GpuVa(10, 10, newObject("B"), 0);
    vm.insert(va);
    gpuvaLink(va, vmBo);
    expect(vm.warnings.countOf("gpuva_link")).toBe(1);
    const bare = new GpuVa(30, 10, null, 0);
    vm.insert(bare);
    gpuvaLink(bare, vmBo);
    expect(bare.vmBo === null).toBe(true);
  });

  test.each([0, GPUVM_RESV_PROTECTED])("in immediate mode it is freed later, flags %i", async (flags) => {
    const freed: GpuVmBo[] = [];
    const vm = newVm(GPUVM_IMMEDIATE_MODE | flags, { vmBoFree: (vmBo) => freed.push(vmBo) });
    const obj = newObject("A");
    const vmBo = boObtainPrealloc(boCreate(vm, obj)!);
    await holding(vm.rObj.resv, () => boExtobjAdd(vmBo));
    const va = new GpuVa(10, 10, obj, 0);
    vm.insert(va);
    gpuvaLink(va, vmBo);
    boPutDeferred(vmBo);
    gpuvaUnlinkDefer(va);
    expect([obj.vmBos.size, vm.boDefer.size, freed.length]).toEqual([0, 1, 0]);
    await boDeferredCleanup(vm);
    expect([vm.boDefer.size, vm.extobj.size, obj.refs]).toEqual([0, 0, 1]);
    expect(freed.map((gone) => gone === vmBo)).toEqual([true]);
    expect(vm.warnings.count).toBe(0);
  });

  test("obtaining under the lock in immediate mode, and deferring outside of it, are warned of", () => {
    const vm = newVm(GPUVM_IMMEDIATE_MODE);
    const vmBo = obtain(vm, newObject("A"));
    expect(vm.warnings.countOf("gpuvm_bo_obtain")).toBe(1);
    boPut(vmBo);
    const plain = newVm();
    boPutDeferred(obtain(plain, newObject("A")));
    expect(plain.warnings.countOf("gpuvm_bo_put_deferred")).toBe(1);
  });
});

describe("external and evicted objects", () => {
  test("only an object with a reservation of its own is external, and it is listed once", () => {
    const vm = newVm();
    const local = obtain(vm, newObject("L", vm));
    const external = obtain(vm, newObject("E"));
    for (const vmBo of [local, external, external]) boExtobjAdd(vmBo);
    expect([vm.extobj.size, vm.extobj.has(external)]).toEqual([1, true]);
    boPut(external);
    expect(vm.extobj.size).toBe(0);
    boPut(local);
  });

  test("eviction needs the reservation, and is noted in every VM that maps the object", async () => {
    const vms = [newVm(), newVm()];
    const obj = newObject("A");
    const vmBos = vms.map((vm) => obtain(vm, obj));
    expect(() => boEvict(vmBos[0]!, true)).toThrow(/must be held/);
    await holding(obj.resv, () => boGemEvict(obj, true));
    expect(vms.map((vm) => vm.evict.size)).toEqual([1, 1]);
    await holding(obj.resv, () => boGemEvict(obj, false));
    expect(vms.map((vm) => vm.evict.size)).toEqual([0, 0]);
  });

  test("RESV_PROTECTED: an external eviction becomes visible when the objects are prepared", async () => {
    const vm = newVm(GPUVM_RESV_PROTECTED);
    const obj = newObject("A");
    const vmBo = obtain(vm, obj);
    expect(() => boExtobjAdd(vmBo)).toThrow(/must be held/);
    await holding(vm.rObj.resv, () => boExtobjAdd(vmBo));
    await holding(obj.resv, () => boEvict(vmBo, true));
    expect([vmBo.evicted, vm.evict.size]).toEqual([true, 0]);
    const vmExec = new GpuVmExec(vm, 1);
    expect(await vmExec.lock()).toBe(0);
    expect(vm.evict.has(vmBo)).toBe(true);
    vmExec.unlock();
  });

  test.each([0, GPUVM_RESV_PROTECTED])(
    "validation empties the list in order and stops at the first error, flags %i",
    async (flags) => {
      const seen: string[] = [];
      let failing: string | null = "B";
      const vm = newVm(flags, {
        vmBoValidate: (vmBo): 0 | Errno => {
          seen.push(vmBo.obj.name);
          if (vmBo.obj.name === failing) return ENOSPC;
          if (flags === 0) boEvict(vmBo, false);
          else vmBo.evicted = false;
          return 0;
        },
      });
      const objects = ["A", "B", "C"].map((name) => newObject(name, vm));
      const vmBos = objects.map((obj) => obtain(vm, obj));
      const vmExec = new GpuVmExec(vm, 1);
      await vmExec.lock();
      for (const vmBo of vmBos) boEvict(vmBo, true);
      expect(await vmExec.validate()).toBe(ENOSPC);
      expect([seen, vm.evict.size]).toEqual([["A", "B"], 2]);
      failing = null;
      expect(await vmExec.validate()).toBe(0);
      expect([seen, vm.evict.size]).toEqual([["A", "B", "B", "C"], 0]);
      vmExec.unlock();
    },
  );

  test("validation without a callback is -EOPNOTSUPP", async () => {
    expect(await validate(newVm(), new DrmExec())).toBe(EOPNOTSUPP);
  });

  test("two walks of a list at the same time are warned of; what is added meanwhile is visited", async () => {
    const vm = newVm();
    const vmBos = ["A", "B"].map((name) => obtain(vm, newObject(name)));
    boExtobjAdd(vmBos[0]!);
    const seen: string[] = [];
    const gate = new Completion();
    const walk = vm.extobj.forEach(async (vmBo) => {
      seen.push(vmBo.obj.name);
      await gate.wait();
      return 0 as const;
    });
    boExtobjAdd(vmBos[1]!);
    await vm.extobj.forEach(() => 0);
    gate.complete();
    await walk;
    expect(seen[0]).toBe("A");
    expect(vm.warnings.count).toBe(1);
    expect(vm.extobj.size).toBe(2);
  });
});

describe("locking many objects", () => {
  test("a contended one makes the body drop what comes after it, wait for it and begin again", async () => {
    const vm = newVm();
    const [a, b] = ["A", "B"].map((name) => newObject(name));
    for (const obj of [b!, a!]) boExtobjAdd(obtain(vm, obj));
    const other = await a!.resv.lock();
    const vmExec = new GpuVmExec(vm, 1);
    const locking = vmExec.lock();
    for (let i = 0; i < 10; i++) await Promise.resolve();
    expect(b!.resv.isHeld).toBe(false);
    other.release();
    expect(await locking).toBe(0);
    expect(vmExec.exec.restarts).toBe(1);
    expect([a, b].map((obj) => obj!.resv.isHeld)).toEqual([true, true]);
    vmExec.unlock();
    expect([vm.rObj, a, b].map((obj) => obj!.resv.isHeld)).toEqual([false, false, false]);
  });

  test("two that lock the same objects in opposite order both get them", async () => {
    const objects = ["A", "B"].map((name) => newObject(name));
    const order: string[] = [];
    const run = async (name: string, wanted: GemObject[]): Promise<void> => {
      const exec = new DrmExec();
      const ret = await exec.untilAllLocked(async () => {
        for (const obj of wanted) {
          const locked = exec.lockObj(obj);
          if (locked !== 0) return locked;
          await Promise.resolve();
        }
        return 0;
      });
      order.push(`${name} ${ret}`);
      await Promise.resolve();
      exec.fini();
    };
    await Promise.all([run("one", objects), run("two", objects.toReversed())]);
    expect(order.toSorted()).toEqual(["one 0", "two 0"]);
    expect(objects.some((obj) => obj.resv.isHeld)).toBe(false);
  });

  test("objects that share a reservation are duplicates, an error unless they are to be ignored", () => {
    const resv = new DmaResv("shared");
    const [a, b] = [new GemObject("A", 1, resv), new GemObject("B", 1, resv)];
    const strict = new DrmExec();
    expect([strict.lockObj(a), strict.lockObj(b), strict.lockObj(a)]).toEqual([0, EALREADY, EALREADY]);
    strict.fini();
    const lenient = new DrmExec(EXEC_IGNORE_DUPLICATES);
    expect([lenient.lockObj(a), lenient.lockObj(b), lenient.lockObj(a)]).toEqual([0, 0, 0]);
    expect(names(lenient)).toEqual(["A", "B"]);
    lenient.fini();
  });

  test("an error leaves nothing locked", async () => {
    const vm = newVm();
    const vmExec = new GpuVmExec(vm, 1);
    expect(await vmExec.lock(() => ENOSPC)).toBe(ENOSPC);
    expect(vm.rObj.resv.isHeld).toBe(false);
  });

  test("a request locks its object and those in its way, and changes nothing", async () => {
    const vm = newVm();
    const [a, b, c, q] = ["A", "B", "C", "Q"].map((name) => newObject(name));
    vm.insert(new GpuVa(0, 10, a!, 0));
    vm.insert(new GpuVa(10, 10, b!, 0));
    vm.insert(new GpuVa(20, 10, null, 0));
    vm.insert(new GpuVa(40, 10, c!, 0));
    const exec = new DrmExec(EXEC_IGNORE_DUPLICATES);
    expect(smMapExecLock(vm, exec, 1, { addr: 5, range: 20, obj: q!, offset: 0 })).toBe(0);
    expect(names(exec)).toEqual(["Q", "A", "B"]);
    exec.fini();
    expect(smUnmapExecLock(vm, exec, 35, 10)).toBe(0);
    expect(names(exec)).toEqual(["C"]);
    exec.fini();
    const ranged = new GpuVmExec(vm, 1);
    expect(await ranged.lockRange(15, 30)).toBe(0);
    expect(names(ranged.exec)).toEqual(["B", "C"]);
    ranged.unlock();
    expect(vm.size).toBe(4);
    const guard = await a!.resv.lock();
    expect(smUnmapExecLock(vm, exec, 0, 5)).toBe(EAGAIN);
    guard.release();
  });

  test("a fence is kept by usage: external objects with the one, the VM's own with the other", async () => {
    const vm = newVm();
    const external = newObject("E");
    boExtobjAdd(obtain(vm, external));
    const vmExec = new GpuVmExec(vm, 1);
    await vmExec.lockArray([newObject("L", vm)]);
    const fence = new Completion();
    vmExec.resvAddFence(fence, RESV_USAGE_BOOKKEEP, RESV_USAGE_WRITE);
    vmExec.unlock();
    expect(vm.rObj.resv.fences(RESV_USAGE_WRITE)).toEqual([]);
    expect(vm.rObj.resv.fences(RESV_USAGE_BOOKKEEP)).toEqual([fence]);
    expect(external.resv.fences(RESV_USAGE_WRITE)).toEqual([fence]);
    expect(external.resv.fences(RESV_USAGE_KERNEL)).toEqual([]);
    const waiting = external.resv.wait(RESV_USAGE_WRITE);
    fence.complete();
    await waiting;
    expect(external.resv.fences(RESV_USAGE_BOOKKEEP)).toEqual([]);
  });

  test("a fence without a reserved slot is a broken invariant", async () => {
    const obj = newObject("A");
    await holding(obj.resv, () => {
      expect(() => obj.resv.addFence(new Completion(), RESV_USAGE_WRITE)).toThrow(/slot/);
      obj.resv.reserveFences(1);
      obj.resv.addFence(new Completion(), RESV_USAGE_WRITE);
    });
  });

  test("preparing objects restores the order of the list after an error", async () => {
    const vm = newVm();
    const objects = ["A", "B", "C"].map((name) => newObject(name));
    for (const obj of objects) boExtobjAdd(obtain(vm, obj));
    const guard = await objects[1]!.resv.lock();
    const exec = new DrmExec();
    expect(await prepareObjects(vm, exec, 0)).toBe(EAGAIN);
    exec.fini();
    guard.release();
    const seen: string[] = [];
    await vm.extobj.forEach((vmBo) => {
      seen.push(vmBo.obj.name);
      return 0;
    });
    expect(seen).toEqual(["A", "B", "C"]);
  });
});
