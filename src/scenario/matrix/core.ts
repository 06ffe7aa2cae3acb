import { DEFAULT_RAM } from "../../machine/machine.ts";
import { MATRIX, TEMPLATES } from "./cases.ts";
import type { MatrixCase } from "./cases.ts";
import { SECTIONS } from "./sections.ts";
import { ramFor } from "./room.ts";

/** Templates that run quickly enough to be run with every section. */
const WHOLE = new Set(["once", "once-large", "twice", "twice-large", "many", "many-execqueues"]);
/** Of the other templates, one section in so many: each template with other ones. */
const SAMPLE = 25;

/** The cases that are run regularly: all of six templates, and a sample of each other, on a machine of the default size. */
export const CORE: readonly MatrixCase[] = MATRIX.filter((test) => {
  if (test.skip !== null) return false;
  if (WHOLE.has(test.template.name)) return true;
  if (ramFor(test) > DEFAULT_RAM) return false;
  return (SECTIONS.indexOf(test.section) + TEMPLATES.indexOf(test.template)) % SAMPLE === 0;
});
