/**
 * Replays recorded behaviour of the kernel's GPU VA manager.
 *
 * Every line runs on the 64-bit instance; those whose values the product's instance can represent run on that too. Both
 * the list and the callback form of each request are compared, and applied on a space of their own.
 */
import { type Address, NUMBERS, U64 } from "../../src/gpuvm/arithmetic.ts";
import {
  boUnmapOpsCreate,
  madviseOpsCreate,
  prefetchOpsCreate,
  smMapOpsCreate,
  smUnmapOpsCreate,
} from "../../src/gpuvm/ops.ts";
import type { MapRequest } from "../../src/gpuvm/steps.ts";
import { boPut } from "../../src/gpuvm/vm-bo.ts";
import { type Instance, type MappingText, Space } from "./gpuvm-space.ts";

type Line = Readonly<Record<string, unknown>>;
type Request = [string, string?, number?, string?];

const ON_NUMBERS: Instance<number> = { arithmetic: NUMBERS, parse: (text) => Number(BigInt(text)) };
const ON_U64: Instance<bigint> = { arithmetic: U64, parse: (text) => BigInt(text) };

/** The space of the lines that give none. */
const DEFAULT_WINDOW = ["0x0", "0x10000000", "0x0", "0x0"];

export function recognises(lines: readonly Line[]): boolean {
  const first = lines[0];
  return first !== undefined && (isWalkStart(first) || isWalkStep(first) || isEdge(first) || isSingle(first));
}

export function replay(file: string, lines: readonly Line[]): { passed: number; failed: number; failures: string[] } {
  const failures: string[] = [];
  let passed = 0;
  for (const unit of units(lines)) {
    const runs = [run(ON_U64, unit)];
    if (unit.every((line) => representable(line))) runs.push(run(ON_NUMBERS, unit));
    unit.forEach((line, i) => {
      const differences = runs.flatMap((differencesOf) => differencesOf[i] ?? []);
      if (differences.length === 0) passed += 1;
      else failures.push(`${file}: ${nameOf(line)}: ${[...new Set(differences)].join("; ")}`);
    });
  }
  return { passed, failed: failures.length, failures };
}

function isWalkStart(line: Line): boolean {
  return "w" in line && isObject(line.init) && "mm_start" in line.init;
}

function isWalkStep(line: Line): boolean {
  return "w" in line && "s" in line && typeof line.k === "string";
}

function isEdge(line: Line): boolean {
  return "vm" in line && "pre" in line && "req" in line && "find_first" in line;
}

function isSingle(line: Line): boolean {
  return "pre" in line && "ops" in line && "req" in line && typeof line.k === "string" && !("v" in line);
}

function nameOf(line: Line): string {
  return "w" in line ? `w ${line.w} s ${line.s ?? "init"}` : `id ${line.id}`;
}

/** Lines that depend on each other: a walk with its steps, every other line alone. */
function* units(lines: readonly Line[]): IterableIterator<Line[]> {
  let walk: Line[] = [];
  for (const line of lines) {
    const continues = isWalkStep(line) && walk.length > 0 && walk[0]!.w === line.w;
    if (!continues && walk.length > 0) {
      yield walk;
      walk = [];
    }
    if (continues || isWalkStart(line)) walk.push(line);
    else yield [line];
  }
  if (walk.length > 0) yield walk;
}

/** No address, and no end of a request or mapping, reaches 2^53. */
function representable(value: unknown): boolean {
  if (typeof value === "string") return !value.startsWith("0x") || Number(value) <= Number.MAX_SAFE_INTEGER;
  if (Array.isArray(value)) {
    const sum = (i: number): number =>
      isHex(value[i]) && isHex(value[i + 1]) ? Number(value[i]) + Number(value[i + 1]) : 0;
    const offsetEnd = isHex(value[1]) && isHex(value[3]) ? Number(value[1]) + Number(value[3]) : 0;
    return Math.max(sum(0), sum(2), offsetEnd) <= Number.MAX_SAFE_INTEGER && value.every(representable);
  }
  return !isObject(value) || Object.values(value).every(representable);
}

/** For each line of the unit what differed from the record. */
function run<A extends Address>(instance: Instance<A>, unit: readonly Line[]): string[][] {
  const first = unit[0]!;
  if (!isWalkStart(first)) return [guarded((report) => alone(instance, first, report))];
  const spaces: Space<A>[] = [];
  return unit.map((line, i) =>
    guarded((report) => {
      if (i === 0) spaces.push(...openWalk(instance, line.init as Line));
      else if (spaces.length === 2) walkStep(spaces[0]!, spaces[1]!, line, report);
      else report("walk", "opened", "not opened");
    }),
  );
}

type Report = (what: string, got: unknown, expected: unknown) => void;

/** Collects differences; a line that cannot be read, or that breaks an invariant, is one. */
function guarded(body: (report: Report) => void): string[] {
  const differences: string[] = [];
  try {
    body((what, got, expected) => {
      const [g, e] = [JSON.stringify(got), JSON.stringify(expected)];
      if (g !== e) differences.push(`${what} is ${g}, recorded ${e}`);
    });
  } catch (error) {
    differences.push(error instanceof Error ? error.message : String(error));
  }
  return differences;
}

/** Two spaces: in one, lists are applied when complete, in the other each step inside its callback. */
function openWalk<A extends Address>(instance: Instance<A>, init: Line): Space<A>[] {
  const bounds = [init.mm_start, init.mm_range, init.reserve_start, init.reserve_range] as string[];
  return [openSpace(instance, bounds), openSpace(instance, bounds)];
}

function openSpace<A extends Address>(instance: Instance<A>, bounds: readonly string[]): Space<A> {
  const [start, range, reserveStart, reserveRange] = bounds.map((text) => instance.parse(text));
  return new Space(instance, {
    start: start!,
    range: range!,
    reserveStart: reserveStart!,
    reserveRange: reserveRange!,
  });
}

function alone<A extends Address>(instance: Instance<A>, line: Line, report: Report): void {
  if (isEdge(line)) edge(instance, line, report);
  else if (isSingle(line)) single(instance, line, report);
  else throw new Error("the line is of no known form");
}

function spaceWith<A extends Address>(instance: Instance<A>, bounds: readonly string[], pre: unknown): Space<A> {
  const space = openSpace(instance, bounds);
  for (const mapping of pre as Request[]) {
    if (space.insert(space.request(...mapping)) !== 0) throw new Error(`${JSON.stringify(mapping)} cannot be inserted`);
  }
  return space;
}

function single<A extends Address>(instance: Instance<A>, line: Line, report: Report): void {
  const byList = spaceWith(instance, DEFAULT_WINDOW, line.pre);
  const byCallback = spaceWith(instance, DEFAULT_WINDOW, line.pre);
  requestStep(byList, byCallback, line, line.ret === 0, report);
  if ("post" in line) {
    report("mappings", byList.mappings(), line.post);
    report("mappings by callback", byCallback.mappings(), line.post);
  }
}

function edge<A extends Address>(instance: Instance<A>, line: Line, report: Report): void {
  const space = spaceWith(instance, line.vm as string[], line.pre);
  const { vm } = space;
  const req = space.request(...(line.req as Request));
  const map = line.map as { bo: number; off: string; ret: number; ops: unknown };
  const unmap = line.unmap as { ret: number; ops: unknown };
  const mapRequest: MapRequest<A> = { ...req, obj: space.object(map.bo), offset: instance.parse(map.off) };
  const same = { ret: map.ret, ops: map.ops };
  report("valid", vm.rangeValid(req.addr, req.range), line.valid);
  report("map", space.list(smMapOpsCreate(vm, mapRequest), false), same);
  report("map by callback", space.smMap(mapRequest, false), same);
  report("unmap", space.list(smUnmapOpsCreate(vm, req.addr, req.range), false), { ret: unmap.ret, ops: unmap.ops });
  report("unmap by callback", space.smUnmap(req, false), { ret: unmap.ret, ops: unmap.ops });
  report("find_first", space.text(vm.findFirst(req.addr, req.range)), line.find_first);
  report("find", space.text(vm.find(req.addr, req.range)), line.find);
  report("empty", vm.intervalEmpty(req.addr, req.range), line.empty);
  report("find_prev", space.text(vm.findPrev(req.addr)), line.find_prev);
  report("find_next", space.text(vm.findNext(req.addr)), line.find_next);
  report("prefetch", space.list(prefetchOpsCreate(vm, req.addr, req.range), false).ops, line.prefetch);
  report("mappings afterwards", space.mappings(), sortedByAddress(line.pre as MappingText[]));
}

function sortedByAddress(mappings: readonly MappingText[]): MappingText[] {
  return mappings.toSorted((a, b) => (BigInt(a[0]) < BigInt(b[0]) ? -1 : 1));
}

function walkStep<A extends Address>(byList: Space<A>, byCallback: Space<A>, line: Line, report: Report): void {
  const { k } = line;
  if (k === "map" || k === "unmap" || k === "madvise" || k === "prefetch") {
    const applied = k === "madvise" ? line.applied === true : line.ret === 0;
    requestStep(byList, byCallback, line, applied, report);
  } else if (k === "bo_unmap") {
    for (const space of [byList, byCallback]) report("ops", boUnmap(space, line.bo as number), line.ops);
  } else if (k === "insert") {
    for (const space of [byList, byCallback])
      report("ret", space.insert(space.request(...(line.req as Request))), line.ret);
  } else {
    query(byList, line, report);
  }
  for (const space of [byList, byCallback]) {
    space.vm.checkInvariants();
    const mappings = space.mappings();
    report("mappings", mappings.length, line.n);
    if ("maps" in line) report("maps", mappings, line.maps);
  }
}

function requestStep<A extends Address>(
  byList: Space<A>,
  byCallback: Space<A>,
  line: Line,
  applied: boolean,
  report: Report,
): void {
  const request = line.req as Request;
  const req = byList.request(...request);
  const expected = { ret: line.ret, ops: line.ops };
  const { vm } = byList;
  switch (line.k) {
    case "map":
      report("callbacks", byCallback.smMap(byCallback.request(...request), applied), expected);
      return report("list", byList.list(smMapOpsCreate(vm, req), applied), expected);
    case "unmap":
      report("callbacks", byCallback.smUnmap(req, applied), expected);
      return report("list", byList.list(smUnmapOpsCreate(vm, req.addr, req.range), applied), expected);
    case "madvise":
      byCallback.list(madviseOpsCreate(byCallback.vm, byCallback.request(...request)), applied);
      return report("list", byList.list(madviseOpsCreate(vm, req), applied), expected);
    case "prefetch":
      return report("list", byList.list(prefetchOpsCreate(vm, req.addr, req.range), false), expected);
    default:
      throw new Error(`unknown kind ${JSON.stringify(line.k)}`);
  }
}

function boUnmap<A extends Address>(space: Space<A>, bo: number): unknown {
  const vmBo = space.vmBo(bo);
  if (vmBo === null) return null;
  const { ops } = space.list(boUnmapOpsCreate(vmBo), true);
  boPut(vmBo);
  return ops;
}

function query<A extends Address>(space: Space<A>, line: Line, report: Report): void {
  const { vm } = space;
  const { addr, range } = space.request(...(line.req as Request));
  switch (line.k) {
    case "find_first":
      return report("result", space.text(vm.findFirst(addr, range)), line.res);
    case "find":
      return report("result", space.text(vm.find(addr, range)), line.res);
    case "find_prev":
      return report("result", space.text(vm.findPrev(addr)), line.res);
    case "find_next":
      return report("result", space.text(vm.findNext(addr)), line.res);
    case "interval_empty":
      return report("result", vm.intervalEmpty(addr, range), line.res);
    case "range_valid":
      return report("result", vm.rangeValid(addr, range), line.res);
    default:
      throw new Error(`unknown kind ${JSON.stringify(line.k)}`);
  }
}

function isHex(value: unknown): boolean {
  return typeof value === "string" && value.startsWith("0x");
}

function isObject(value: unknown): value is Line {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
