import { PAGE_SIZE } from "../base/addr.ts";
import { AP_HOST } from "../hal/gpu.ts";
import { AP_SLOT, RUN_FILL, RUN_STRIDE, RUN_VA, Runs } from "./copy-runs.ts";
import type { RunFields } from "./copy-runs.ts";

/** Bytes that a batch leaves in a slot for host memory, if its job succeeds. */
export interface Delivery {
  readonly slotAt: number;
  readonly hostAt: number;
  readonly bytes: number;
  readonly job: number;
}

/**
 * Host pages that live in a GPU buffer for the length of a batch, one slot each, because the batch reads what it has
 * written there, or because only the GPU knows whether a VA job writes them at all.
 */
export class HostShadow {
  readonly deliveries: Delivery[] = [];
  readonly #slots = new Map<number, number>();

  constructor(hostPages: readonly number[]) {
    for (const page of hostPages) if (!this.#slots.has(page)) this.#slots.set(page, this.#slots.size);
  }

  get bytes(): number {
    return this.#slots.size * PAGE_SIZE;
  }

  /** The pages as they are now, in the order of their slots. */
  capture(host: Uint8Array): Uint8Array<ArrayBuffer> {
    const content = new Uint8Array(this.bytes);
    for (const [page, slot] of this.#slots) {
      content.set(host.subarray(page * PAGE_SIZE, (page + 1) * PAGE_SIZE), slot * PAGE_SIZE);
    }
    return content;
  }

  /** Byte of the slots where a host byte lives; -1 where its page has no slot. */
  slotAt(hostAt: number): number {
    const slot = this.#slots.get(Math.floor(hostAt / PAGE_SIZE));
    return slot === undefined ? -1 : slot * PAGE_SIZE + (hostAt % PAGE_SIZE);
  }

  /** The same runs with slots in the place of the host pages that have one. */
  redirect(runs: Runs): Runs {
    const redirected = new Runs();
    for (let i = 0; i < runs.count; i++) {
      const at = i * RUN_STRIDE;
      const run = runs.fields.subarray(at, at + RUN_STRIDE);
      const [kind, from, source, to, target, bytes, value, job] = run as unknown as RunFields;
      const copiesHost = from === AP_HOST && kind !== RUN_FILL;
      if (kind === RUN_VA || (to !== AP_HOST && !(copiesHost && this.#touches(source, bytes)))) {
        redirected.push(kind, from, source, to, target, bytes, value, job);
        if (kind === RUN_VA && to === AP_HOST) this.#deliver(target, bytes, job);
        continue;
      }
      for (let done = 0; done < bytes;) {
        let n = bytes - done;
        if (to === AP_HOST) n = Math.min(n, PAGE_SIZE - ((target + done) % PAGE_SIZE));
        if (copiesHost) n = Math.min(n, PAGE_SIZE - ((source + done) % PAGE_SIZE));
        const fromSlot = copiesHost ? this.slotAt(source + done) : -1;
        const toSlot = to === AP_HOST ? this.slotAt(target + done) : -1;
        const [newFrom, newSource] = fromSlot < 0 ? [from, source + done] : [AP_SLOT, fromSlot];
        const [newTo, newTarget] = toSlot < 0 ? [to, target + done] : [AP_SLOT, toSlot];
        redirected.push(kind, newFrom, newSource, newTo, newTarget, n, value, job);
        if (toSlot >= 0) this.#deliver(target + done, n, job);
        done += n;
      }
    }
    return redirected;
  }

  #touches(at: number, bytes: number): boolean {
    for (let page = Math.floor(at / PAGE_SIZE); page * PAGE_SIZE < at + bytes; page++)
      if (this.#slots.has(page)) return true;
    return false;
  }

  #deliver(hostAt: number, bytes: number, job: number): void {
    for (let at = hostAt; at < hostAt + bytes;) {
      const n = Math.min(hostAt + bytes - at, PAGE_SIZE - (at % PAGE_SIZE));
      this.deliveries.push({ slotAt: this.slotAt(at), hostAt: at, bytes: n, job });
      at += n;
    }
  }
}
