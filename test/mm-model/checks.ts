import type { Process } from "../../src/machine/process.ts";
import { PG_DEVICE_WRITTEN } from "../../src/mm/frame-table.ts";
import { PTE_DEVICE_EXCLUSIVE, PTE_KIND, PTE_PRESENT, PTE_SWAP, ptePfn } from "../../src/mm/page-table.ts";
import { Mismatch, firstDifference } from "./expect.ts";
import { type FlatProcess, PAGE } from "./flat-model.ts";

/** One byte of so many is in a sample. */
const STRIDE = 61;

/** The areas are the model's. `base`: address of the window's first page. */
export function checkAreas({ mm, pid }: Process, flat: FlatProcess, base: number): void {
  const found = mm.vmas.all();
  const wanted = flat.areas();
  if (found.length !== wanted.length) throw new Mismatch(`${found.length} areas, not ${wanted.length}`);
  for (const [i, [page, end]] of wanted.entries()) {
    const vma = found[i]!;
    const p = flat.pages[page]!;
    const same =
      vma.start === base + page * PAGE &&
      vma.end === base + end * PAGE &&
      vma.prot === p.prot &&
      vma.shared === p.shared &&
      vma.hugetlb === p.huge &&
      vma.locked === p.locked &&
      vma.thp === p.thp;
    if (!same) throw new Mismatch(`area ${i} of process ${pid} is not [${page}, ${end}) of the model`);
  }
}

/**
 * The pages that lie in RAM or in swap have the model's bytes, looked at without touching them: every byte, or a sample,
 * another for each number.
 */
export function checkPages({ mm, pid }: Process, flat: FlatProcess, base: number, sample: "all" | number): void {
  const { phys, tables } = mm;
  const [first, step] = sample === "all" ? [0, 1] : [sample % STRIDE, STRIDE];
  for (let i = 0; i < flat.pages.length; i++) {
    if (flat.pages[i] === null) continue;
    const word = tables.read((base + i * PAGE) / PAGE);
    const kind = word & PTE_KIND;
    const pfn = ptePfn(word);
    let at: number;
    let bytes: Uint8Array;
    if (kind === PTE_SWAP) {
      at = 0;
      bytes = phys.swap.read(pfn);
    } else if (kind === PTE_PRESENT || kind === PTE_DEVICE_EXCLUSIVE) {
      if ((phys.frames.flags[pfn]! & PG_DEVICE_WRITTEN) !== 0) continue;
      at = pfn * PAGE;
      bytes = phys.ram;
    } else {
      continue;
    }
    const wrong = firstDifference(bytes, at, flat.bytes(i), first, step);
    if (wrong >= 0) throw new Mismatch(`byte ${wrong} of page ${i} of process ${pid} is not the model's`);
  }
}
