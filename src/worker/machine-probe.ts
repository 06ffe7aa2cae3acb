import { PAGE_SIZE } from "../base/addr.ts";
import type { Device } from "../machine/device.ts";
import type { Machine } from "../machine/machine.ts";
import type { Vm } from "../machine/vm.ts";
import type { MachineView } from "./machine-view.ts";
import {
  COUNTERS,
  PAGE_FREE,
  PAGE_FRESH,
  PAGE_RANGE,
  PAGE_RESERVED,
  PAGE_TABLE,
  RANGE_INVALID,
  RANGE_IN_SYSTEM,
  RANGE_IN_VRAM,
  VMA_ANONYMOUS,
  VMA_READ,
  VMA_WRITE,
} from "./protocol.ts";
import type { CounterName, DeviceSize } from "./protocol.ts";

const ALL = 2 ** 47;

/** The memory of one tile. */
type Region = Device["driver"]["regions"][number];

/** What each counter of the page is called in the driver. */
const DRIVER_NAME = {
  faults: "gpuFault",
  rounds: "rounds",
  bytesIn: "toDevBytes",
  bytesOut: "toSysBytes",
  evictions: "evict",
  tlbInvalidations: "tlbInval",
  invalidations: "inval",
  cpuFaults: "cpuFault",
} as const satisfies Record<CounterName, keyof Vm["counters"]>;

/** Looks at a machine through its probes, which change nothing: all its processes, address spaces and devices. */
export class MachineProbe implements MachineView {
  readonly #machine: Machine;
  /** Every address space there has been: a total must not shrink when one is closed. */
  readonly #seen = new Set<Vm>();

  constructor(machine: Machine) {
    this.#machine = machine;
  }

  get events(): Machine["trace"] {
    return this.#machine.trace;
  }

  counters(out: Float64Array): void {
    for (const vm of this.#vms()) this.#seen.add(vm);
    out.fill(0);
    for (const vm of this.#seen) {
      for (const [i, name] of COUNTERS.entries()) out[i]! += vm.counters[DRIVER_NAME[name]];
    }
  }

  vmas(): Float64Array {
    const out: number[] = [];
    for (const process of this.#machine.processes) {
      for (const { start, end, prot, kind } of process.vmas(0, ALL)) {
        const access = prot === "RW" ? VMA_READ + VMA_WRITE : prot === "R" ? VMA_READ : 0;
        out.push(process.pid, start, end, access + (kind === "anon" ? VMA_ANONYMOUS : 0));
      }
    }
    return Float64Array.from(out);
  }

  ranges(): Float64Array {
    const out: number[] = [];
    for (const vm of this.#vms()) {
      for (const { start, end, inVram, mapped, unmapped } of vm.svm.ranges(0, ALL)) {
        const place = unmapped ? RANGE_INVALID : inVram ? RANGE_IN_VRAM : mapped ? RANGE_IN_SYSTEM : RANGE_INVALID;
        out.push(vm.process.pid, vm.svm.asid, start, end, place);
      }
    }
    return Float64Array.from(out);
  }

  devices(): DeviceSize[] {
    return this.#machine.devices.map((device) => ({ name: device.name, pages: pagesOf(device) }));
  }

  blocks(): Float64Array {
    const out: number[] = [];
    let first = 0;
    for (const device of this.#machine.devices) {
      this.#pushBlocks(device, first, out);
      first += pagesOf(device);
    }
    return Float64Array.from(out);
  }

  #pushBlocks(device: Device, first: number, out: number[]): void {
    const { phys } = this.#machine;
    let base = first;
    for (const region of device.driver.regions) {
      const blocks = [...region.buffers].flatMap((bo) => bo.blocks).sort((a, b) => a.offset - b.offset);
      for (const { offset, size } of blocks) {
        const page = offset / PAGE_SIZE;
        const [mapping] = phys.rmap.list(region.pgmap.firstPfn + page);
        const owner = mapping && this.#machine.processes.find(({ mm }) => mm === phys.mmById(mapping.mm));
        out.push(base + page, size / PAGE_SIZE, mapping ? mapping.vpn * PAGE_SIZE : -1, owner?.pid ?? 0);
      }
      base += pagesOfRegion(device, region);
    }
  }

  get isLost(): boolean {
    return this.#machine.devices.some((device) => device.gpu.isLost);
  }

  get vramPages(): number {
    return this.#machine.devices.reduce((sum, device) => sum + pagesOf(device), 0);
  }

  vram(out: Uint8Array): void {
    out.fill(PAGE_FREE);
    let first = 0;
    for (const device of this.#machine.devices) {
      const pages = pagesOf(device);
      this.#classify(device, out.subarray(first, first + pages));
      first += pages;
    }
  }

  #classify(device: Device, out: Uint8Array): void {
    let base = 0;
    for (const region of device.driver.regions) {
      const pages = pagesOfRegion(device, region);
      this.#classifyRegion(region, out.subarray(base, base + pages));
      base += pages;
    }
  }

  #classifyRegion({ buffers, pgmap, tablePages }: Region, out: Uint8Array): void {
    const { phys } = this.#machine;
    for (const offset of tablePages) out[offset / PAGE_SIZE] = PAGE_TABLE;
    for (const bo of buffers) {
      const held = bo.pins > 0 ? PAGE_FRESH : PAGE_RANGE;
      for (const { offset, size } of bo.blocks) {
        const end = (offset + size) / PAGE_SIZE;
        for (let page = offset / PAGE_SIZE; page < end; page++) {
          out[page] = phys.mapcount(pgmap.firstPfn + page) > 0 ? held : PAGE_RESERVED;
        }
      }
    }
  }

  #vms(): Vm[] {
    return this.#machine.devices.flatMap((device) => [...device.vms]);
  }
}

function pagesOf(device: Device): number {
  return device.driver.regions.reduce((sum, region) => sum + pagesOfRegion(device, region), 0);
}

function pagesOfRegion({ gpu }: Device, { heapBytes }: Region): number {
  return (gpu.info.ptBytes + heapBytes) / PAGE_SIZE;
}
