import { PAGE_SIZE, alignDown, isAligned } from "../base/addr.ts";
import { EINVAL, EIO, ENOMEM } from "../base/errno.ts";
import type { Errno } from "../base/errno.ts";
import { inActivity } from "../base/lock-order.ts";
import { type Steps, run, wait } from "../base/steps.ts";
import { JOB_OK, JobBatch } from "../hal/copy-job.ts";
import { AP_HOST } from "../hal/gpu.ts";
import { USAGE_KERNEL } from "../vram/fence.ts";
import type { Bo } from "./bo.ts";

/** Bytes that go through bounce pages at a time. */
const CHUNK = 64 * PAGE_SIZE;

/**
 * CPU access to a buffer object, wherever its bytes are: in RAM directly, else by the copy engine over bounce pages. Whole
 * words are moved, so kernels that write other words at the same time lose nothing. Takes its reservation: it does not move
 * meanwhile. Behind all work queued so far.
 *
 * `offset` and the length are multiples of 4, inside the object, else -EINVAL. -ENOMEM: no RAM. -EIO: the device is lost.
 * @kernel xe_ttm_access_memory
 */
export function readBo(bo: Bo, offset: number, bytes: number): Promise<Uint8Array | Errno> {
  return inActivity(async () => {
    const data = new Uint8Array(bytes);
    const done = await run(accessSteps(bo, offset, data, "read"));
    return done === 0 ? data : done;
  });
}

/** The other way round; `data` is read at once. */
export function writeBo(bo: Bo, offset: number, data: Uint8Array): Promise<0 | Errno> {
  return inActivity(async () => run(accessSteps(bo, offset, data.slice(), "write")));
}

type Direction = "read" | "write";

function* accessSteps(bo: Bo, offset: number, data: Uint8Array, direction: Direction): Steps<0 | Errno> {
  const isInside = Number.isSafeInteger(offset) && offset >= 0 && data.length <= bo.size - offset;
  if (!isInside || !isAligned(offset, 4) || !isAligned(data.length, 4)) return EINVAL;
  const guard = yield* wait(bo.resv.lock());
  try {
    // A copy to RAM that is under way.
    for (const fence of bo.resv.fences(USAGE_KERNEL)) yield* wait(fence.wait());
    for (let done = 0; done < data.length; done += CHUNK) {
      const ret = yield* moveChunk(bo, offset + done, data.subarray(done, done + CHUNK), direction);
      if (ret !== 0) return ret;
    }
    return 0;
  } finally {
    guard.release();
  }
}

/** A part of the transfer inside one page. */
interface Piece {
  readonly aperture: number;
  /** Where its bytes are in that aperture. */
  readonly at: number;
  readonly bytes: Uint8Array;
}

function* moveChunk(bo: Bo, offset: number, data: Uint8Array, direction: Direction): Steps<0 | Errno> {
  const pieces = piecesOf(bo, offset, data);
  const { gpu, phys, sched } = bo.device;
  if (pieces[0]!.aperture === AP_HOST) {
    for (const { at, bytes } of pieces) {
      if (direction === "read") bytes.set(phys.ram.subarray(at, at + bytes.length));
      else phys.ram.set(bytes, at);
    }
    return 0;
  }
  const bounce = new Uint32Array(pieces.length);
  if (phys.allocPages(bounce, pieces.length) !== 0) return ENOMEM;
  try {
    const batch = new JobBatch();
    for (const [i, { aperture, at, bytes }] of pieces.entries()) {
      const frame = bounce[i]! * PAGE_SIZE;
      if (direction === "write") {
        phys.ram.set(bytes, frame);
        batch.copy({ from: AP_HOST, source: frame, to: aperture, target: at, bytes: bytes.length });
      } else {
        batch.copy({ from: aperture, source: at, to: AP_HOST, target: frame, bytes: bytes.length });
      }
    }
    const results = yield* wait(sched.external(gpu.submitJobs(batch)));
    if (results.some(({ status }) => status !== JOB_OK)) return EIO;
    if (direction === "write") return 0;
    if (bo.device.fails("readback")) return EIO;
    for (const [i, { bytes }] of pieces.entries()) {
      const frame = bounce[i]! * PAGE_SIZE;
      bytes.set(phys.ram.subarray(frame, frame + bytes.length));
    }
    return 0;
  } finally {
    for (const pfn of bounce) phys.putPage(pfn);
  }
}

function piecesOf(bo: Bo, offset: number, data: Uint8Array): Piece[] {
  const pieces: Piece[] = [];
  const first = alignDown(offset, PAGE_SIZE);
  const pages = Math.ceil((offset + data.length - first) / PAGE_SIZE);
  let pageStart = first;
  for (const { aperture, page, pages: count } of bo.runs(first / PAGE_SIZE, pages)) {
    for (let i = 0; i < count; i++, pageStart += PAGE_SIZE) {
      const from = Math.max(offset, pageStart);
      const to = Math.min(offset + data.length, pageStart + PAGE_SIZE);
      const at = (page + i) * PAGE_SIZE + (from - pageStart);
      pieces.push({ aperture, at, bytes: data.subarray(from - offset, to - offset) });
    }
  }
  return pieces;
}
