import { SZ_2M, SZ_64K } from "../../base/addr.ts";
import { SECTIONS } from "./sections.ts";
import type { Section } from "./sections.ts";

/**
 * The system-allocator matrix of the Xe driver's tests: the cases by which a GPU that takes any CPU pointer is judged.
 *
 * A case is a template (how many stores over how much memory, by whom) with a section (where the memory comes from and what
 * happens to it meanwhile). `XE-SA-threads-many-stride-mmap-remap` is the template `threads-many-stride` with the section
 * `mmap-remap`. 25 templates and 75 sections make 1,875 names, of which 96 do nothing in the original; they are named here
 * with the reason, and never run.
 */
export interface Template {
  readonly name: string;
  readonly group: Group;
  readonly queues: number;
  readonly execs: number;
  /** Bytes of the buffer; null where it is made for the records. */
  readonly bytes: number | null;
  /** Records from one exec to the next. */
  readonly stride: number;
}

/** One activity, one per engine with an address space each, one per engine in one address space, a process per engine. */
export type Group = "single" | "threads" | "threads-shared-vm" | "process";

export interface MatrixCase {
  /** Begins with `XE-SA-`. */
  readonly name: string;
  readonly template: Template;
  readonly section: Section;
  /** Why the original does nothing here; null for a case that does something. */
  readonly skip: string | null;
}

type Shape = Omit<Template, "group">;

function shape(name: string, queues: number, execs: number, bytes: number | null = null, stride = 1): Shape {
  return { name, queues, execs, bytes, stride };
}

const IN_EVERY_GROUP: readonly Shape[] = [
  shape("many", 1, 128),
  shape("many-stride", 1, 128, null, 256),
  shape("many-execqueues", 16, 128),
  shape("many-large", 1, 128, SZ_2M),
  shape("many-large-execqueues", 16, 128, SZ_2M),
];
const SINGLE: readonly Shape[] = [
  shape("once", 1, 1),
  shape("once-large", 1, 1, SZ_2M),
  shape("twice", 1, 2),
  shape("twice-large", 1, 2, SZ_2M),
  ...IN_EVERY_GROUP,
  shape("many-64k", 1, 128, SZ_64K),
];

export const TEMPLATES: readonly Template[] = [
  ...SINGLE.map((s) => ({ ...s, group: "single" as const })),
  ...(["threads", "threads-shared-vm", "process"] as const).flatMap((group) =>
    IN_EVERY_GROUP.map((s) => ({ ...s, name: `${group}-${s.name}`, group })),
  ),
];

/** All 1,875 names, by template. */
export const MATRIX: readonly MatrixCase[] = TEMPLATES.flatMap((template) =>
  SECTIONS.map((section) => ({
    name: `XE-SA-${template.name}-${section.name}`,
    template,
    section,
    skip: skipReason(template, section),
  })),
);

function skipReason({ group, bytes, execs }: Template, { flags }: Section): string | null {
  if (flags.has("FILE_BACKED") && (group === "threads" || group === "threads-shared-vm"))
    return "the original runs its file sections in no template with threads";
  if (flags.has("FORK_READ") && group !== "single")
    return "the original forks in no template with threads or processes";
  if (flags.has("MULTI_FAULT") && bytes === null)
    return "several faults of one exec want a template that gives the buffer's size";
  if (flags.has("EVERY_OTHER_CHECK") && execs % 2 !== 0) return "a check after every other exec wants pairs of execs";
  return null;
}

/**
 * Cases by name or pattern, in the order of the matrix: `*` stands for anything, as in `XE-SA-many-*-remap*`. Without regard
 * to case; empty where nothing has such a name.
 */
export function findCases(pattern: string): MatrixCase[] {
  const source = pattern
    .split("*")
    .map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"))
    .join(".*");
  const wanted = new RegExp(`^${source}$`, "i");
  return MATRIX.filter(({ name }) => wanted.test(name));
}
