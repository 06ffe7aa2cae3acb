import { PAGE_SIZE } from "../base/addr.ts";
import { mutated } from "../base/mutation.ts";
import { AP_HOST, AP_VRAM, PageList } from "../hal/gpu.ts";
import { DRM_INTERCONNECT_SYSTEM } from "../pagemap/pagemap-addr.ts";

/** Room for runs in the list of a migration. */
const RUNS = 16;

/**
 * What one migration copies, slot by slot: a device frame (0: none) and the address of the other end (0: none), as
 * `DrmPagemapDevmemOps` gets them.
 */
export interface Migrated {
  readonly pages: Uint32Array;
  readonly addrs: Float64Array;
  readonly npages: number;
  /** The page of VRAM, as the copy engine counts them, of device frame 0. */
  readonly origin: number;
}

/**
 * Into VRAM: from RAM, or where `protos` names another way from a peer's memory; what has no address is zeroed. The list is
 * `into`, whose runs go.
 */
export function listInward(m: Migrated, protos: Uint32Array | null, into = new PageList(RUNS)): PageList {
  const { pages, addrs, npages, origin } = m;
  into.clear();
  for (let i = 0; i < npages;) {
    const count = runLength(m, protos, i);
    const addr = addrs[i]!;
    const page = origin + pages[i]!;
    const from = protos === null || protos[i] === DRM_INTERCONNECT_SYSTEM ? AP_HOST : AP_VRAM;
    if (pages[i] !== 0 && addr !== 0) into.push(from, addr / PAGE_SIZE, AP_VRAM, page, count);
    else if (pages[i] !== 0 && !mutated("zeroing-skipped")) into.pushClear(AP_VRAM, page, count);
    i += count;
  }
  return into;
}

/** Back to RAM. A slot that lacks either end is not copied. */
export function listHomeward(m: Migrated): PageList {
  const { pages, addrs, npages, origin } = m;
  const list = new PageList(Math.min(npages, RUNS));
  for (let i = 0; i < npages;) {
    const count = runLength(m, null, i);
    const addr = addrs[i]!;
    if (pages[i] !== 0 && addr !== 0) list.push(AP_VRAM, origin + pages[i]!, AP_HOST, addr / PAGE_SIZE, count);
    i += count;
  }
  return list;
}

/** How many slots from `i` on are one run at both ends; with a 0 at one end, which slots in a row have that. */
function runLength({ pages, addrs, npages }: Migrated, protos: Uint32Array | null, i: number): number {
  const page = pages[i]!;
  const addr = addrs[i]!;
  const pageStep = page === 0 ? 0 : 1;
  const addrStep = addr === 0 ? 0 : PAGE_SIZE;
  let n = 1;
  while (
    i + n < npages &&
    pages[i + n] === page + n * pageStep &&
    addrs[i + n] === addr + n * addrStep &&
    (protos === null || protos[i + n] === protos[i])
  ) {
    n += 1;
  }
  return n;
}
