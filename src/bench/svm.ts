import { SZ_2M } from "../base/addr.ts";
import { openPathLab } from "../device/paths/index.ts";
import type { PathLab } from "../device/paths/index.ts";
import type { BenchContext, BenchGroup } from "./group.ts";
import type { BenchRow } from "./result.ts";
import { faultBytes, measureFaults, wantsFaults } from "./svm-faults.ts";
import { measureMigration, migrateSizes } from "./svm-migrate.ts";
import { SvmRig } from "./svm-rig.ts";
import { measureScattered, wantsScattered } from "./svm-scatter.ts";
import { measureStream, wantsStream } from "./svm-stream.ts";

/** VRAM beside the data: for sums, and so that nothing is evicted where that is not the subject. */
const SPARE_VRAM = 8 * SZ_2M;

/**
 * What shared virtual memory costs, end to end: migration on request, sequential and scattered faults, and data that VRAM
 * does not hold, each against what WebGPU itself allows, measured in the same run in interleaved repetitions.
 */
export const svmCosts: BenchGroup = {
  name: "svm",
  async run(context) {
    const sizes = migrateSizes(context);
    const largest = Math.max(0, ...sizes, wantsFaults(context) ? faultBytes(context) : 0);
    const rows: BenchRow[] = [];
    if (largest > 0 || wantsScattered(context)) rows.push(...(await beside(context, sizes, largest)));
    if (wantsStream(context)) {
      context.progress(0.85, "more data than VRAM");
      rows.push(...(await measureStream(context)));
    }
    return rows;
  },
};

/** What is measured beside raw copies. */
async function beside(context: BenchContext, sizes: readonly number[], largest: number): Promise<BenchRow[]> {
  const lab = await openPathLab({ seed: context.seed });
  try {
    context.gpu({ adapter: lab.adapter, limits: lab.limits, features: lab.features });
    lab.reserve(Math.max(largest, 2 * SZ_2M));
    const rows: BenchRow[] = [];
    if (largest > 0) {
      const rig = await SvmRig.open({ bytes: largest, vram: largest + SPARE_VRAM, seed: context.seed });
      try {
        for (const [i, bytes] of sizes.entries()) {
          context.progress((0.45 * i) / sizes.length, `migration of ${bytes / 1048576} MiB`);
          rows.push(...(await measureMigration(rig, lab, bytes, context)));
        }
        if (wantsFaults(context)) {
          context.progress(0.45, "cold and resident passes");
          rows.push(...(await faults(rig, lab, context)));
        }
      } finally {
        await rig.close();
      }
    }
    if (wantsScattered(context)) {
      context.progress(0.75, "scattered faults");
      rows.push(...(await measureScattered(lab, context)));
    }
    return rows;
  } finally {
    lab.close();
  }
}

async function faults(rig: SvmRig, lab: PathLab, context: BenchContext): Promise<BenchRow[]> {
  const bytes = faultBytes(context);
  const vm = { policy: { prefetch: "sequential" } } as const;
  const ahead = await SvmRig.open({ bytes, vram: bytes + SPARE_VRAM, seed: context.seed, vm });
  try {
    return await measureFaults(rig, ahead, lab, context);
  } finally {
    await ahead.close();
  }
}
