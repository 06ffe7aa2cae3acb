import { PAGE_SIZE } from "../base/addr.ts";
import type { Random } from "../base/random.ts";
import { PTE_AE, PTE_DM, PTE_W, encodeDirectory, encodeLeafInto, ptIndex } from "../abi/pte.ts";
import { AP_HOST, AP_VRAM, ASID_FAULT_MODE, ASID_VALID, PageList } from "../hal/gpu.ts";
import type { Gpu } from "../hal/gpu.ts";

/** Page tables by hand: an area of 4 KiB pages that lie in VRAM in random order, as after a long life of faults. */
export const KERNEL_ASID = 2;
export const KERNEL_BASE = 0x7f00_0000_0000;
/** PA of the root of its page tables: the first page that can be one. */
export const KERNEL_ROOT = 2 * PAGE_SIZE;

/** Maps `pages` pages from KERNEL_BASE to random pages behind `firstPage`; the page of each, as PA / 4096. */
export function mapScattered(gpu: Gpu, pages: number, firstPage: number, random: Random): Uint32Array {
  const places = Uint32Array.from({ length: pages }, (_, i) => firstPage + i);
  for (let i = pages - 1; i > 0; i--) {
    const j = random.below(i + 1);
    [places[i], places[j]] = [places[j]!, places[i]!];
  }
  let next = KERNEL_ROOT / PAGE_SIZE;
  const table = () => {
    const pa = next++ * PAGE_SIZE;
    gpu.ptWrite(pa, new Uint32Array(1024));
    return pa;
  };
  const [root, level2, level1] = [table(), table(), table()];
  gpu.ptWrite(root + ptIndex(KERNEL_BASE, 3) * 8, encodeDirectory(level2));
  gpu.ptWrite(level2 + ptIndex(KERNEL_BASE, 2) * 8, encodeDirectory(level1));
  for (let first = 0; first < pages; first += 512) {
    const leaves = table();
    gpu.ptWrite(level1 + ptIndex(KERNEL_BASE + first * PAGE_SIZE, 1) * 8, encodeDirectory(leaves));
    const words = new Uint32Array(1024);
    for (let i = 0; i < Math.min(512, pages - first); i++) {
      encodeLeafInto(words, 2 * i, places[first + i]! * PAGE_SIZE, PTE_W | PTE_AE | PTE_DM, 0);
    }
    gpu.ptWrite(leaves, words);
  }
  gpu.asidSet(KERNEL_ASID, root, ASID_VALID | ASID_FAULT_MODE);
  return places;
}

/** Copies host pages `[0, places.length)` to their places. */
export async function fillScattered(gpu: Gpu, places: Uint32Array): Promise<void> {
  const list = new PageList(places.length);
  for (const [i, page] of places.entries()) list.push(AP_HOST, i, AP_VRAM, page, 1);
  const copied = gpu.copy(list);
  await gpu.idle();
  await copied;
}

/** Copies the places back to host pages `[0, places.length)`. */
export async function readScattered(gpu: Gpu, places: Uint32Array): Promise<void> {
  const list = new PageList(places.length);
  for (const [i, page] of places.entries()) list.push(AP_VRAM, page, AP_HOST, i, 1);
  await gpu.copy(list);
}
