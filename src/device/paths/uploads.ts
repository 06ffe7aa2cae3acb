import { Scatter } from "../ways/scatter.ts";
import { UploadRuns } from "../ways/upload-runs.ts";
import type { Stager } from "../ways/way.ts";
import { listKernel } from "./list-kernel.ts";
import type { CopyPath } from "./path.ts";
import { byPages, uploadPath, uploadWay } from "./way-path.ts";

const RING = "mapped staging buffers of 2 MiB in turn";
const RING_SCATTER = `${RING}, copied whole to a storage buffer and spread by a dispatch`;
const WRITE_SCATTER = "writeBuffer into a storage buffer, then one dispatch spreads the pages";

/** The browser stages the bytes by itself; the call returns when it has taken them. */
export const writeBufferPerRun = uploadWay(
  "writeBuffer per run",
  "one writeBuffer per run of pages; contiguous pages are one run",
);
export const ringCopyPerRun = uploadWay("ring + copy per run", `${RING}, then copyBufferToBuffer per run`);
export const ringScatter = uploadWay("ring + scatter", `${RING_SCATTER}, in lanes of 16 bytes`);
export const scatterPagePerWorkgroup = uploadWay("write + scatter, p/wg", `${WRITE_SCATTER}, a page per workgroup`);
export const scatterPagePerInvocation = uploadWay("write + scatter, p/inv", `${WRITE_SCATTER}, a page per invocation`);

export const writeBufferPerPage = byPages(
  uploadPath("writeBuffer per run", "", { ring: false }, ({ context, ways }) => {
    return new UploadRuns(context, new OneByOne(ways.stager("writeBuffer per run", 0)));
  }),
  "writeBuffer per page",
  "one writeBuffer per page",
);
export const ringCopyPerPage = byPages(
  uploadPath("ring + copy per run", "", { ring: true }, ({ context, ways }) => {
    return new UploadRuns(context, new OneByOne(ways.stager("ring + copy per run", 0)));
  }),
  "ring + copy per page",
  `${RING}, then copyBufferToBuffer per page`,
);
export const ringScatterWords = scatterWordsBy("ring + scatter", "ring + scatter, 4 B", RING_SCATTER);
export const scatterWords = scatterWordsBy(
  "write + scatter, p/wg",
  "write + scatter, 4 B",
  `${WRITE_SCATTER}, a page per workgroup`,
);

/** In lanes of 4 bytes. */
function scatterWordsBy(way: "ring + scatter" | "write + scatter, p/wg", name: string, how: string): CopyPath {
  const ring = way === "ring + scatter";
  return uploadPath(name, `${how}${ring ? "," : ""} in lanes of 4 bytes`, { ring }, async (engine) => {
    const kernel = await listKernel(engine, "copyWordsPerWorkgroup");
    return new Scatter(engine.context, engine.ways.stager(way, 0), engine.ways.staging, kernel);
  });
}

/** Nothing goes together with its neighbour. */
class OneByOne implements Stager {
  readonly #stager: Stager;

  constructor(stager: Stager) {
    this.#stager = stager;
  }

  put(source: Uint8Array, from: number, bytes: number, target: GPUBuffer, at: number): void {
    this.#stager.put(source, from, bytes, target, at);
    this.#stager.flush();
  }

  flush(): void {}
}
