import { PAGE_SIZE } from "../../base/addr.ts";
import { PLAIN, type WayName } from "../path-choice.ts";
import { SLOT_BYTES } from "../readback.ts";
import type { Submissions } from "../ways/download.ts";
import { submissionsOf } from "../ways/copy-ways.ts";
import { UPLOAD_SLOT_BYTES } from "../ways/upload-ring.ts";
import type { CopyWay, Fetch } from "../ways/way.ts";
import type { CopyPath, PathMemory, Runner } from "./path.ts";
import { perPage, RUN_STRIDE, type Transfer } from "./transfer.ts";
import { WayEngine, bankRunsOf, bytesOf } from "./way-engine.ts";

/**
 * Paths that the copy engine takes, and those made of its parts: prepared, the runs are recorded by the engine's own code,
 * submitted, and waited for.
 */

/** Makes the way, or takes one of the engine's, for one runner. */
type Make<T> = (engine: WayEngine, memory: PathMemory) => T | Promise<T>;

/** Slots that a ring of readbacks has on their way at a time; what goes through the engine has no such bound. */
const READBACKS_IN_FLIGHT = 8;

/** `ring`: through the upload ring, so a run waits for slots instead of going another way when there is none. */
export function uploadPath(
  name: string,
  how: string,
  { ring }: { readonly ring: boolean },
  make: Make<CopyWay>,
): CopyPath {
  return {
    name,
    direction: "upload",
    how,
    async prepare(memory, transfer) {
      const engine = new WayEngine(memory, "upload");
      const way = await make(engine, memory);
      const runs = bankRunsOf(transfer, "upload");
      const { commands } = engine.context;
      const pieces = ring ? runs.split(UPLOAD_SLOT_BYTES / PAGE_SIZE) : [runs];
      if (ring) engine.ways.ring.prepare(bytesOf(runs));
      return {
        async run() {
          for (const piece of pieces) {
            if (ring) await roomFor(engine, bytesOf(piece));
            way.record(piece);
          }
          commands.submit();
          await memory.settled();
        },
        dispose: () => engine.destroy(),
      };
    },
  };
}

async function roomFor({ ways }: WayEngine, bytes: number): Promise<void> {
  for (let wait = ways.ring.ready(bytes); wait !== null; wait = ways.ring.ready(bytes)) await wait;
}

/** Readbacks by `submissions`: a ring submits slot by slot. */
export function readbackPath(name: string, how: string, submissions: Submissions, make: Make<Fetch>): CopyPath {
  return {
    name,
    direction: "readback",
    how,
    async prepare(memory, transfer) {
      const engine = new WayEngine(memory, "readback");
      const fetch = await make(engine, memory);
      const runs = bankRunsOf(transfer, "readback");
      const { commands, readback } = engine.context;
      const { downloads } = engine.ways;
      const pieces = submissions === "ring" ? runs.split(SLOT_BYTES / PAGE_SIZE) : [runs];
      readback.prepare(Math.min(bytesOf(runs), submissions === "ring" ? READBACKS_IN_FLIGHT * SLOT_BYTES : Infinity));
      return {
        async run() {
          const arrivals: Promise<void>[] = [];
          for (const [i, piece] of pieces.entries()) {
            if (i >= READBACKS_IN_FLIGHT) await arrivals[i - READBACKS_IN_FLIGHT];
            arrivals.push(downloads.record(piece, fetch, submissions));
            commands.submit();
          }
          await Promise.all(arrivals);
        },
        dispose: () => engine.destroy(),
      };
    },
  };
}

/** Copies inside the device, and fills. */
export function devicePath(name: string, direction: "device" | "fill", how: string, make: Make<CopyWay>): CopyPath {
  return {
    name,
    direction,
    how,
    async prepare(memory, transfer): Promise<Runner> {
      const engine = new WayEngine(memory, direction);
      const way = await make(engine, memory);
      const runs = bankRunsOf(transfer, direction);
      return {
        run() {
          way.record(runs);
          engine.context.commands.submit();
          return memory.settled();
        },
        dispose: () => engine.destroy(),
      };
    },
  };
}

/** An upload of the copy engine. */
export function uploadWay(name: WayName<"upload">, how: string): CopyPath {
  const make: Make<CopyWay> = ({ ways }) => ({ record: (runs) => ways.upload(name, runs) });
  return uploadPath(name, how, { ring: name.startsWith("ring") }, make);
}

/** A readback of the copy engine. */
export function readbackWay(name: WayName<"readback">, how: string): CopyPath {
  const path = readbackPath(name, how, submissionsOf(name), ({ ways }) => ways.fetch(name));
  const whole = PLAIN[name];
  // Slot by slot is all at once where there is one slot.
  return whole === undefined ? path : { ...path, sameAs: ({ bytes }) => (bytes <= SLOT_BYTES ? whole : null) };
}

export function copyWay(name: WayName<"device">, how: string): CopyPath {
  return devicePath(name, "device", how, ({ ways }) => ({ record: (runs) => ways.copy(name, runs) }));
}

export function fillWay(name: WayName<"fill">, how: string): CopyPath {
  return devicePath(name, "fill", how, ({ ways }) => ({ record: (runs) => ways.fill(name, runs) }));
}

/** The same path on the transfer cut into single pages. */
export function byPages(path: CopyPath, name: string, how: string): CopyPath {
  return {
    ...path,
    name,
    how,
    sameAs: ({ bytes, runs }) => (runs.length / RUN_STRIDE === bytes / PAGE_SIZE ? path.name : null),
    prepare: (memory: PathMemory, t: Transfer) => path.prepare(memory, perPage(t)),
  };
}
