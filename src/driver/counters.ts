/** What the scenarios and the page count, per GPU address space; a device's figures are the sum. */
export interface SvmCounters {
  /** Faults handled; duplicates within one batch count once. */
  gpuFault: number;
  /** CPU faults on pages in device memory. */
  cpuFault: number;
  /** Bytes of SVM pages that got a device page, zeroed ones included. */
  toDevBytes: number;
  /** Bytes of SVM pages copied back to RAM. */
  toSysBytes: number;
  /** Notifier callbacks that met at least one range. */
  inval: number;
  /** Ranges put out of VRAM to make room. */
  evict: number;
  tlbInval: number;
  /** Hints that could not be served. */
  hintDropped: number;
  /** Rounds of kernel replay, first dispatches included. */
  rounds: number;
  /** Migrations (one range each) to VRAM, and back to RAM for any reason. */
  migrationsIn: number;
  migrationsOut: number;
  /** Times a fault's service began again because the CPU side changed meanwhile. */
  retries: number;
  /** Times a service gave way to others because its time slice was over. */
  slices: number;
}

export function zeroCounters(): SvmCounters {
  return {
    gpuFault: 0,
    cpuFault: 0,
    toDevBytes: 0,
    toSysBytes: 0,
    inval: 0,
    evict: 0,
    tlbInval: 0,
    hintDropped: 0,
    rounds: 0,
    migrationsIn: 0,
    migrationsOut: 0,
    retries: 0,
    slices: 0,
  };
}

export function addCounters(into: SvmCounters, from: SvmCounters): void {
  for (const key of Object.keys(into) as (keyof SvmCounters)[]) into[key] += from[key];
}

export function subtractCounters(a: SvmCounters, b: SvmCounters): SvmCounters {
  const out = zeroCounters();
  for (const key of Object.keys(out) as (keyof SvmCounters)[]) out[key] = a[key] - b[key];
  return out;
}
