import { PAGE_SIZE } from "../../base/addr.ts";
import { Commands, newCounters } from "../commands.ts";
import { Health } from "../health.ts";
import { Readback } from "../readback.ts";
import { BankRuns, NO_BANK } from "../ways/bank-runs.ts";
import { CopyWays } from "../ways/copy-ways.ts";
import { PagePipelines } from "../ways/page-pipelines.ts";
import type { WayContext } from "../ways/way.ts";
import type { Direction, PathMemory } from "./path.ts";
import { RUN_STRIDE, type Transfer } from "./transfer.ts";

/** Banks of the lab's memory. */
const VRAM = 0;
const VRAM_OUT = 1;

export type WayMemory = Pick<PathMemory, "device" | "vram" | "vramOut" | "host" | "hostOut" | "clock">;

/** The copy engine's ways over the lab's memory, with a recorder and staging of their own. */
export class WayEngine {
  readonly context: WayContext;
  readonly ways: CopyWays;
  readonly #health: Health;

  constructor(memory: WayMemory, direction: Direction) {
    const { device, vram, vramOut, clock } = memory;
    const counters = newCounters();
    this.#health = new Health(device);
    const commands = new Commands(device, this.#health, counters, clock);
    const readback = new Readback(commands, this.#health, counters);
    this.context = {
      commands,
      health: this.#health,
      readback,
      counters,
      banks: [vram, vramOut],
      hostMemory: direction === "readback" ? memory.hostOut : memory.host,
      pagePipelines: PagePipelines.of(device),
    };
    const ways = new CopyWays(this.context);
    this.ways = ways;
    commands.hook(
      () => ways.beforeSubmit(),
      () => {
        ways.afterSubmit();
        readback.afterSubmit();
      },
    );
  }

  destroy(): void {
    const { commands, readback, health } = this.context;
    health.declareLost("destroyed", "the path was disposed of");
    readback.destroy(health.error!);
    this.ways.destroy();
    commands.destroy();
  }
}

/** The transfer between the banks and sides that its direction names. */
export function bankRunsOf({ runs }: Transfer, direction: Direction): BankRuns {
  const list = new BankRuns();
  const source = direction === "readback" || direction === "device" ? VRAM : NO_BANK;
  const target = direction === "readback" ? NO_BANK : direction === "upload" ? VRAM : VRAM_OUT;
  for (let at = 0; at < runs.length; at += RUN_STRIDE) {
    list.push(source, runs[at]!, target, runs[at + 1]!, runs[at + 2]!);
  }
  return list;
}

export function bytesOf(runs: BankRuns): number {
  return runs.pages * PAGE_SIZE;
}
