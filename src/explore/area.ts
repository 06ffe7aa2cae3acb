import { PAGE_SIZE } from "../base/addr.ts";
import { MemFile } from "../mm/file.ts";
import type { MmapOptions } from "../mm/mmap.ts";
import type { PhysMemory } from "../mm/phys-mem.ts";
import { type AreaKinds, type Memory, contentOf, isFile, isHole, isShared, memoryOf } from "./memory.ts";
import { REST, WORDS } from "./oracle.ts";

/** The file that the area of a program maps, with its content; null: none. */
export async function makeFile(phys: PhysMemory, kinds: AreaKinds, pages: number): Promise<MemFile | null> {
  const filePages = Array.from({ length: pages }, (_, page) => page).filter((page) => isFile(memoryOf(kinds, page)));
  if (filePages.length === 0) return null;
  const file = new MemFile(phys, { size: pages * PAGE_SIZE, name: "explored" });
  const words = new Uint32Array(PAGE_SIZE / 4);
  for (const page of filePages) {
    if (isHole(page)) continue;
    const memory = memoryOf(kinds, page);
    words.fill(contentOf(memory, page, REST));
    for (let word = 0; word < WORDS; word++) words[word] = contentOf(memory, page, word);
    await file.write(page * PAGE_SIZE, new Uint8Array(words.buffer));
  }
  return file;
}

/** How memory of this kind is mapped from page `page` of the area on. */
export function mappingOf(memory: Memory, file: MemFile | null, page: number): MmapOptions {
  const shared = isShared(memory);
  return file === null || !isFile(memory) ? { shared } : { shared, file, offset: page * PAGE_SIZE };
}
