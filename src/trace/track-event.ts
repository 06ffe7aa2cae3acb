import { ProtoWriter } from "./proto-writer.ts";

/**
 * Perfetto's TrackEvent format, as far as it is used here. Field numbers are those of perfetto/protos/perfetto/trace:
 * trace_packet.proto, track_event/{track_event,track_descriptor,debug_annotation,counter_descriptor}.proto and
 * interned_data/interned_data.proto.
 */
const TRACE_PACKET = 1;
const PACKET = { timestamp: 8, sequenceId: 10, trackEvent: 11, interned: 12, sequenceFlags: 13, descriptor: 60 };
const DESCRIPTOR = { uuid: 1, name: 2, process: 3, parentUuid: 5, counter: 8, childOrdering: 11, rank: 12 };
const PROCESS = { pid: 1, name: 6 };
const COUNTER = { unit: 3 };
const EVENT = {
  categoryIids: 3,
  annotations: 4,
  type: 9,
  nameIid: 10,
  track: 11,
  counterValue: 30,
  flows: 47,
  lastFlows: 48,
};
const INTERNED = { categories: 1, names: 2, annotationNames: 3 };
const ENTRY = { iid: 1, name: 2 };
const ANNOTATION = { nameIid: 1, int: 4, string: 6, pointer: 7 };

const STATE_CLEARED = 1;
const NEEDS_STATE = 2;
const ORDER_EXPLICIT = 3;
export const UNIT_COUNT = 2;
export const UNIT_BYTES = 3;

export const SLICE_BEGIN = 1;
export const SLICE_END = 2;
export const INSTANT = 3;
const COUNTER_VALUE = 4;

/** One sequence of packets. */
const SEQUENCE = 1;

export interface TrackOptions {
  readonly uuid: number;
  readonly name: string;
  /** A track to stand under; without one the track stands for itself. */
  readonly parent?: number;
  /** Place among the tracks under the same parent. */
  readonly rank?: number;
  /** A counter, in this unit. */
  readonly unit?: number;
  /** It stands for a process of this number. */
  readonly pid?: number;
}

export type AnnotationValue = number | string | { readonly pointer: number };

export interface TrackEvent {
  readonly type: typeof SLICE_BEGIN | typeof SLICE_END | typeof INSTANT;
  /** Nanoseconds. */
  readonly time: number;
  readonly track: number;
  readonly name?: string;
  readonly category?: string;
  readonly annotations?: readonly (readonly [name: string, value: AnnotationValue])[];
  /** Flows that pass through it, and flows that end with it. */
  readonly flows?: readonly number[];
  readonly lastFlows?: readonly number[];
}

/** A trace in the making: tracks first, then events in the order of time. Names are interned. */
export class TrackEventWriter {
  readonly #out = new ProtoWriter();
  readonly #tables = [
    new Interner(INTERNED.categories),
    new Interner(INTERNED.names),
    new Interner(INTERNED.annotationNames),
  ] as const;
  #isFirst = true;

  finish(): Uint8Array<ArrayBuffer> {
    return this.#out.finish();
  }

  track({ uuid, name, parent, rank, unit, pid }: TrackOptions): void {
    const out = this.#out;
    this.#packet(() => {
      out.message(PACKET.descriptor, () => {
        out.uint(DESCRIPTOR.uuid, uuid);
        out.string(DESCRIPTOR.name, name);
        if (parent !== undefined) out.uint(DESCRIPTOR.parentUuid, parent);
        if (rank !== undefined) out.uint(DESCRIPTOR.rank, rank);
        if (unit !== undefined) out.message(DESCRIPTOR.counter, () => out.uint(COUNTER.unit, unit));
        else out.uint(DESCRIPTOR.childOrdering, ORDER_EXPLICIT);
        if (pid === undefined) return;
        out.message(DESCRIPTOR.process, () => {
          out.uint(PROCESS.pid, pid);
          out.string(PROCESS.name, name);
        });
      });
    });
  }

  counter(time: number, track: number, value: number): void {
    const out = this.#out;
    this.#packet(() => {
      out.uint(PACKET.timestamp, time);
      out.message(PACKET.trackEvent, () => {
        out.uint(EVENT.type, COUNTER_VALUE);
        out.uint(EVENT.track, track);
        out.int(EVENT.counterValue, value);
      });
    });
  }

  event(event: TrackEvent): void {
    const out = this.#out;
    const [categories, names, annotationNames] = this.#tables;
    const category = event.category === undefined ? 0 : categories.iid(event.category);
    const name = event.name === undefined ? 0 : names.iid(event.name);
    const annotations = (event.annotations ?? []).map(([key, value]) => [annotationNames.iid(key), value] as const);
    this.#packet(() => {
      out.uint(PACKET.timestamp, event.time);
      this.#writeNewNames();
      out.message(PACKET.trackEvent, () => {
        out.uint(EVENT.type, event.type);
        out.uint(EVENT.track, event.track);
        if (category > 0) out.uint(EVENT.categoryIids, category);
        if (name > 0) out.uint(EVENT.nameIid, name);
        for (const [iid, value] of annotations) this.#annotation(iid, value);
        for (const id of event.flows ?? []) out.fixed64(EVENT.flows, id);
        for (const id of event.lastFlows ?? []) out.fixed64(EVENT.lastFlows, id);
      });
    });
  }

  #annotation(iid: number, value: AnnotationValue): void {
    const out = this.#out;
    out.message(EVENT.annotations, () => {
      out.uint(ANNOTATION.nameIid, iid);
      if (typeof value === "string") out.string(ANNOTATION.string, value);
      else if (typeof value === "number") out.int(ANNOTATION.int, value);
      else out.uint(ANNOTATION.pointer, value.pointer);
    });
  }

  #packet(write: () => void): void {
    const out = this.#out;
    out.message(TRACE_PACKET, () => {
      out.uint(PACKET.sequenceId, SEQUENCE);
      out.uint(PACKET.sequenceFlags, this.#isFirst ? STATE_CLEARED | NEEDS_STATE : NEEDS_STATE);
      this.#isFirst = false;
      write();
    });
  }

  #writeNewNames(): void {
    const out = this.#out;
    if (this.#tables.every((table) => table.fresh.length === 0)) return;
    out.message(PACKET.interned, () => {
      for (const { field, fresh } of this.#tables) {
        for (const [iid, name] of fresh.splice(0)) {
          out.message(field, () => {
            out.uint(ENTRY.iid, iid);
            out.string(ENTRY.name, name);
          });
        }
      }
    });
  }
}

/** Numbers for names, from 1; each is written once, with the first packet that uses it. */
class Interner {
  readonly field: number;
  readonly fresh: (readonly [iid: number, name: string])[] = [];
  readonly #iids = new Map<string, number>();

  constructor(field: number) {
    this.field = field;
  }

  iid(name: string): number {
    const known = this.#iids.get(name);
    if (known !== undefined) return known;
    const iid = this.#iids.size + 1;
    this.#iids.set(name, iid);
    this.fresh.push([iid, name]);
    return iid;
  }
}
