import { REFERENCE_ENGINE } from "../machine/engine.ts";
import { runScenarioModule } from "./run.ts";
import * as p04 from "./peer/p04-hmm-migrate-fault.ts";
import * as p10 from "./peer/p10-xe-sa-many-stride-malloc.ts";
import * as p11 from "./peer/p11-xe-sa-many-malloc-nomemset.ts";
import * as p15 from "./peer/p15-xe-sa-evict-malloc.ts";
import * as p31 from "./peer/p31-kfd-migrate.ts";
import * as p32 from "./peer/p32-uvmb-stream-oversub-125.ts";
const all = { p04, p10, p11, p15, p31, p32 } as Record<string, any>;
export async function main(names: string[]) {
  for (const [n, m] of Object.entries(all)) {
    if (names.length && !names.includes(n)) continue;
    const t = performance.now();
    const r = await runScenarioModule(m, { engine: REFERENCE_ENGINE, onCheck: (c) => { if (!c.ok) console.log("   ", c.kind, c.text); } });
    console.log(n, r.passed, r.must, r.cfg, (performance.now() - t).toFixed(0), "ms", r.error?.stack ?? "");
  }
}
