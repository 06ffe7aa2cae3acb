import { byPages, fillWay } from "./way-path.ts";

export const clearBufferPerRun = fillWay("clearBuffer per run", "one clearBuffer per run of pages, in one submission");
export const clearBufferPerPage = byPages(
  clearBufferPerRun,
  "clearBuffer per page",
  "one clearBuffer per page, in one submission",
);
/** What one has who does not know `clearBuffer`: zeros uploaded. */
export const writeZeros = fillWay("writeBuffer of zeros", "one writeBuffer of zeros per run of pages");
export const computeFill = fillWay("compute fill", "one dispatch, a page per workgroup, 256 lanes of 16 bytes");
export const computeFillPerInvocation = fillWay(
  "compute fill, p/inv",
  "one dispatch, a page per invocation in a loop over 16 bytes",
);
