import { PAGE_SIZE } from "../../base/addr.ts";
import type { Device } from "../../machine/device.ts";
import type { Process } from "../../machine/process.ts";
import type { Vm } from "../../machine/vm.ts";
import type { ScenarioModule } from "../run.ts";
import type { Scenario } from "../verbs.ts";
import { Activity } from "./activity.ts";
import type { Workplace } from "./activity.ts";
import type { MatrixCase } from "./cases.ts";
import { onceCollected } from "./collected.ts";
import { Findings } from "./findings.ts";
import { Heap } from "./heap.ts";

/**
 * Engines of the device. The emulated GPU runs one dispatch at a time; an engine is a stream of them, and the streams of
 * several threads meet at the device round by round, in an order drawn from the seed.
 */
export const ENGINES = 2;
const WINDOW = 2 ** 47;

/** The case as a scenario. A skipped one only says why. */
export function matrixScenario(test: MatrixCase): ScenarioModule {
  const { name, template, section, skip } = test;
  const title = `${template.name} with ${section.name}`;
  if (skip !== null) return { meta: { title }, default: (s) => Promise.resolve(s.note(`${name} is skipped: ${skip}`)) };
  return { meta: { title, tags: ["matrix"] }, default: (s) => runCase(s, s.device(), test) };
}

/** Runs the case on a device of the scenario. */
export async function runCase(s: Scenario, d: Device, { template, section }: MatrixCase): Promise<void> {
  const rooms = openRooms(s, d, template.group);
  const findings = new Findings();
  const places: Workplace[] = [];
  for (const room of rooms) {
    room.fences = await room.p.mmap(PAGE_SIZE, { kind: "shanon" });
    for (const [i, m] of room.vms.entries()) {
      const fences = room.fences + i * (PAGE_SIZE / ENGINES);
      places.push({ s, p: room.p, m, heap: room.heap, fences, alone: template.group === "single" });
    }
  }
  const activities = places.map((place) => new Activity(place, template, section.flags, findings));
  if (activities.length === 1) await activities[0]!.run();
  else await s.race(s.seed, ...activities.map((activity) => () => activity.run()));
  const vms = new Set(places.map(({ m }) => m));
  s.note(`GPU faults: ${s.delta().gpuFault}`);
  if (section.flags.has("BUSY")) {
    for (const m of vms)
      await s.fails(m.mirrorUnbind(0, WINDOW), "EBUSY", "a mirror with live ranges cannot be unbound");
  }
  for (const activity of activities) await activity.release();
  findings.report(s);
  await close(s, rooms);
  s.must(s.vram(d) === 0, "no VRAM is in use at the end");
}

/** A process with what mirrors it. */
interface Room {
  readonly p: Process;
  readonly heap: Heap;
  /** One per activity; the same one for all that share it. */
  readonly vms: readonly Vm[];
  fences: number;
}

function openRooms(s: Scenario, d: Device, group: MatrixCase["template"]["group"]): Room[] {
  const room = (vmsOf: (p: Process) => Vm[]): Room => {
    const p = s.proc();
    return { p, heap: new Heap(p), vms: vmsOf(p), fences: 0 };
  };
  const engines = Array.from({ length: ENGINES }, (_, i) => i);
  switch (group) {
    case "single":
      return [room((p) => [d.vm(p)])];
    case "threads":
      return [room((p) => engines.map(() => d.vm(p)))];
    case "threads-shared-vm":
      return [
        room((p) => {
          const m = d.vm(p);
          return engines.map(() => m);
        }),
      ];
    case "process":
      return engines.map(() => room((p) => [d.vm(p)]));
  }
}

/** With the memory gone, the collector has to empty the mirrors; then they can be unbound. */
async function close(s: Scenario, rooms: readonly Room[]): Promise<void> {
  for (const { p, heap, vms, fences } of rooms) {
    await heap.end();
    await p.munmap(fences, PAGE_SIZE);
    for (const m of new Set(vms))
      s.must(
        await onceCollected(s, () => m.mirrorUnbind(0, WINDOW)),
        "the mirror can be unbound once its memory is gone",
      );
    await p.exit();
  }
  await s.settle();
}
