import { PAGE_SIZE, alignDown, isAligned } from "../base/addr.ts";
import { EINVAL, EIO } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { DrmExec, EXEC_IGNORE_DUPLICATES } from "../gpuvm/drm-exec.ts";
import { JOB_OK, JobBatch } from "../hal/copy-job.ts";
import { USAGE_KERNEL } from "../vram/fence.ts";
import type { Bo } from "./bo.ts";

/**
 * The copy engine on buffer objects, by physical addresses, wherever their bytes are. Takes the reservations: nothing
 * moves meanwhile. Behind all work queued so far.
 *
 * Offsets and lengths are multiples of 4, inside the objects, else -EINVAL, as for parts of one object that overlap. -EIO:
 * the device is lost, or its engine has failed; then any of the bytes may have been written.
 * @kernel xe_migrate_copy, xe_migrate_clear
 */
export function fillBo(bo: Bo, offset: number, bytes: number, byte: number): Promise<0 | Errno> {
  const pattern = Math.imul(byte & 255, 0x01010101) >>> 0;
  return withReserved([bo], function* () {
    if (!isInside(bo, offset, bytes)) return EINVAL;
    const batch = new JobBatch();
    for (const piece of piecesOf(bo, offset, bytes)) {
      batch.fill({ to: piece.aperture, at: piece.at, bytes: piece.bytes, pattern });
    }
    return yield* submit(bo, batch);
  });
}

/** `bytes` from `fromOffset` of `from`, an object of the same device, to `offset` of `bo`. */
export function copyBo(bo: Bo, offset: number, from: Bo, fromOffset: number, bytes: number): Promise<0 | Errno> {
  return withReserved([bo, from], function* () {
    if (from.device !== bo.device || !isInside(bo, offset, bytes) || !isInside(from, fromOffset, bytes)) return EINVAL;
    if (bo === from && Math.abs(offset - fromOffset) < bytes) return EINVAL;
    const batch = new JobBatch();
    const targets = piecesOf(bo, offset, bytes);
    let target = targets.next().value;
    let used = 0;
    for (const source of piecesOf(from, fromOffset, bytes)) {
      for (let done = 0; done < source.bytes && target !== undefined;) {
        const length = Math.min(source.bytes - done, target.bytes - used);
        const ends = { source: source.at + done, target: target.at + used, bytes: length };
        batch.copy({ from: source.aperture, to: target.aperture, ...ends });
        done += length;
        used += length;
        if (used < target.bytes) continue;
        target = targets.next().value;
        used = 0;
      }
    }
    return yield* submit(bo, batch);
  });
}

async function withReserved(objects: readonly Bo[], work: () => Steps<0 | Errno>): Promise<0 | Errno> {
  return inActivity(async () => {
    const exec = new DrmExec(EXEC_IGNORE_DUPLICATES);
    try {
      const locked = await exec.untilAllLocked(async () => {
        for (const bo of objects) {
          const ret = exec.lockObj(bo);
          if (ret !== 0) return ret;
        }
        return 0;
      });
      if (locked !== 0) return locked;
      return await run(whenArrived(objects, work));
    } finally {
      exec.fini();
    }
  });
}

/** Behind copies to RAM that are under way. */
function* whenArrived(objects: readonly Bo[], work: () => Steps<0 | Errno>): Steps<0 | Errno> {
  for (const bo of objects) for (const fence of bo.resv.fences(USAGE_KERNEL)) yield* wait(fence.wait());
  return yield* work();
}

function* submit({ device }: Bo, batch: JobBatch): Steps<0 | Errno> {
  device.failLost();
  if (device.gpu.isLost || device.fails("copy-submit")) return EIO;
  const results = yield* wait(device.sched.external(device.gpu.submitJobs(batch)));
  return !device.fails("copy-complete") && results.every(({ status }) => status === JOB_OK) ? 0 : EIO;
}

function isInside(bo: Bo, offset: number, bytes: number): boolean {
  const isArea = Number.isSafeInteger(offset) && offset >= 0 && Number.isSafeInteger(bytes) && bytes > 0;
  return isArea && bytes <= bo.size - offset && isAligned(offset, 4) && isAligned(bytes, 4);
}

interface Piece {
  readonly aperture: number;
  /** Where its bytes are in that aperture. */
  readonly at: number;
  readonly bytes: number;
}

/** `[offset, offset + bytes)` as runs of memory. */
function* piecesOf(bo: Bo, offset: number, bytes: number): Generator<Piece, undefined> {
  const first = alignDown(offset, PAGE_SIZE);
  const pages = Math.ceil((offset + bytes - first) / PAGE_SIZE);
  let start = first;
  for (const { aperture, page, pages: count } of bo.runs(first / PAGE_SIZE, pages)) {
    const end = start + count * PAGE_SIZE;
    const from = Math.max(offset, start);
    yield { aperture, at: page * PAGE_SIZE + (from - start), bytes: Math.min(offset + bytes, end) - from };
    start = end;
  }
}
