/** What a section changes, in the words of the original. */
export type Flag =
  | "MMAP"
  | "NEW"
  | "FREE"
  | "BUSY"
  | "BO_UNMAP"
  | "BO_MAP"
  | "RACE"
  | "SKIP_MEMSET"
  | "FILE_BACKED"
  | "LOCK"
  | "MMAP_SHARED"
  | "HUGE_PAGE"
  | "FORK_READ"
  | "FORK_READ_AFTER"
  | "MREMAP"
  | "DONTUNMAP"
  | "READ_ONLY_REMAP"
  | "EVERY_OTHER_CHECK"
  | "MULTI_FAULT"
  | "PREFETCH"
  | "MADVISE_SWIZZLE";

export interface Section {
  readonly name: string;
  readonly flags: ReadonlySet<Flag>;
}

const MALLOC = table("malloc", [], {
  "": [],
  madvise: ["MADVISE_SWIZZLE"],
  prefetch: ["PREFETCH"],
  "prefetch-madvise": ["PREFETCH", "MADVISE_SWIZZLE"],
  "multi-fault": ["MULTI_FAULT"],
  "fork-read": ["FORK_READ"],
  "fork-read-after": ["FORK_READ", "FORK_READ_AFTER"],
  mlock: ["LOCK"],
  race: ["RACE"],
  "prefetch-race": ["PREFETCH", "RACE"],
  busy: ["BUSY"],
  "bo-unmap": ["BO_UNMAP"],
});

const MMAP = table("mmap", ["MMAP"], {
  "": [],
  prefetch: ["PREFETCH"],
  remap: ["MREMAP"],
  "remap-madvise": ["MREMAP", "MADVISE_SWIZZLE"],
  "remap-dontunmap": ["MREMAP", "DONTUNMAP"],
  "remap-ro": ["MREMAP", "READ_ONLY_REMAP"],
  "remap-ro-dontunmap": ["MREMAP", "READ_ONLY_REMAP", "DONTUNMAP"],
  "remap-eocheck": ["MREMAP", "EVERY_OTHER_CHECK"],
  "remap-dontunmap-eocheck": ["MREMAP", "DONTUNMAP", "EVERY_OTHER_CHECK"],
  "remap-ro-eocheck": ["MREMAP", "READ_ONLY_REMAP", "EVERY_OTHER_CHECK"],
  "remap-ro-dontunmap-eocheck": ["MREMAP", "READ_ONLY_REMAP", "DONTUNMAP", "EVERY_OTHER_CHECK"],
  huge: ["HUGE_PAGE"],
  shared: ["LOCK", "MMAP_SHARED"],
  "prefetch-shared": ["PREFETCH", "LOCK", "MMAP_SHARED"],
  "shared-remap": ["MMAP_SHARED", "MREMAP"],
  "shared-remap-dontunmap": ["MMAP_SHARED", "MREMAP", "DONTUNMAP"],
  "shared-remap-eocheck": ["MMAP_SHARED", "MREMAP", "EVERY_OTHER_CHECK"],
  "shared-remap-dontunmap-eocheck": ["MMAP_SHARED", "MREMAP", "DONTUNMAP", "EVERY_OTHER_CHECK"],
  mlock: ["LOCK"],
  file: ["FILE_BACKED"],
  "file-mlock": ["FILE_BACKED", "LOCK"],
  race: ["RACE"],
});

const FREE = table("free", ["NEW", "FREE"], { "": [], madvise: ["MADVISE_SWIZZLE"], race: ["RACE"] });

const NEW = table("new", ["NEW"], {
  "": [],
  madvise: ["MADVISE_SWIZZLE"],
  prefetch: ["PREFETCH"],
  race: ["RACE"],
  "bo-map": ["BO_MAP"],
  busy: ["BUSY"],
});

const PER_EXEC = { "": [], madvise: ["MADVISE_SWIZZLE"], huge: ["HUGE_PAGE"], race: ["RACE"] } as const;
const MMAP_FREE = table("mmap-free", ["MMAP", "NEW", "FREE"], PER_EXEC);
const MMAP_NEW = table("mmap-new", ["MMAP", "NEW"], PER_EXEC);

const POPULATED = [...MALLOC, ...MMAP, ...FREE, ...NEW, ...MMAP_FREE, ...MMAP_NEW];

/** Of these there is a second section, in which the CPU does not fill the buffer first. */
const ALSO_NOMEMSET = new Set([
  ...["malloc", "malloc-mlock", "malloc-race", "malloc-busy", "malloc-bo-unmap"],
  ...["mmap", "mmap-huge", "mmap-shared", "mmap-mlock", "mmap-file", "mmap-file-mlock", "mmap-race"],
  ...["free", "free-race", "new", "new-race", "new-bo-map", "new-busy"],
  ...["mmap-free", "mmap-free-huge", "mmap-free-race", "mmap-new", "mmap-new-huge", "mmap-new-race"],
]);

/** The 75 sections, named as in the original: where the memory comes from, what is done with it, `nomemset`. */
export const SECTIONS: readonly Section[] = [
  ...POPULATED,
  ...POPULATED.filter(({ name }) => ALSO_NOMEMSET.has(name)).map(({ name, flags }) => ({
    name: `${name}-nomemset`,
    flags: new Set<Flag>([...flags, "SKIP_MEMSET"]),
  })),
];

function table(origin: string, common: readonly Flag[], rows: Readonly<Record<string, readonly Flag[]>>): Section[] {
  return Object.entries(rows).map(([word, flags]) => ({
    name: word === "" ? origin : `${origin}-${word}`,
    flags: new Set([...common, ...flags]),
  }));
}
