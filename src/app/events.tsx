import { computed, signal, useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import { CauseChain } from "./cause-chain.tsx";
import { hasPlace } from "./event-log.ts";
import type { EventView } from "./event-log.ts";
import { address, chunk, count } from "./format.ts";
import { KINDS, KIND_NAMES, detailText } from "./kinds.ts";
import { Panel } from "./panel.tsx";
import { saveTrace } from "./save-trace.ts";
import { events, frame, pointed, selected } from "./session.ts";

/** Height of a row, CSS pixels; events.css says the same. */
const ROW = 22;
const PAGE = 4096;
/** Rows drawn beyond the box on either side. */
const SPARE = 6;

/** Numbers of the kinds that are left out. */
const hidden = signal<ReadonlySet<number>>(new Set());
function setHidden(kinds: ReadonlySet<number>): void {
  events.hide(kinds);
  hidden.value = kinds;
}
/** The list stays at its end while new events come. */
const following = signal(true);
const shown = computed(() => {
  void frame.value;
  void hidden.value;
  return events.size;
});

/** The stream of events: filter by kind, point at one to see its address in the maps, select it to see its causes. */
export function Events() {
  return (
    <Panel
      title="Events"
      class="events"
      legend={
        <span class="muted" data-testid="event-count">
          {shown.value === events.total ? count(events.total) : `${count(shown.value)} of ${count(events.total)}`}
        </span>
      }
      actions={
        <>
          <button
            type="button"
            class="toggle"
            title="Save the events of this run as a Perfetto trace, to be opened in ui.perfetto.dev"
            disabled={shown.value === 0}
            onClick={saveTrace}
          >
            Save trace
          </button>
          <button
            type="button"
            class="toggle"
            aria-pressed={following.value}
            onClick={() => (following.value = !following.value)}
          >
            Follow
          </button>
        </>
      }
    >
      <Filter />
      <List />
      <CauseChain />
    </Panel>
  );
}

function Filter() {
  void frame.value;
  const toggle = (kind: number, only: boolean) => {
    const all = KIND_NAMES.map((_, i) => i);
    const alone = hidden.value.size === all.length - 1 && !hidden.value.has(kind);
    if (only) setHidden(alone ? new Set() : new Set(all.filter((i) => i !== kind)));
    else if (hidden.value.has(kind)) setHidden(new Set([...hidden.value].filter((i) => i !== kind)));
    else setHidden(new Set([...hidden.value, kind]));
  };
  return (
    <div class="filter" role="group" aria-label="Kinds of event shown">
      {KIND_NAMES.map(
        (name, kind) =>
          (events.counts[kind] ?? 0) > 0 && (
            <button
              key={name}
              type="button"
              class={`chip family-${KINDS[name].family}`}
              aria-pressed={!hidden.value.has(kind)}
              title={`${KINDS[name].meaning}\nClick to show or hide; double click to show only these.`}
              onClick={() => toggle(kind, false)}
              onDblClick={() => toggle(kind, true)}
            >
              {name} <b>{count(events.counts[kind]!)}</b>
            </button>
          ),
      )}
    </div>
  );
}

function List() {
  const box = useRef<HTMLDivElement>(null);
  const top = useSignal(0);
  const height = useSignal(300);
  useEffect(() => {
    const list = box.current!;
    const observer = new ResizeObserver(() => (height.value = list.clientHeight));
    observer.observe(box.current!);
    return () => observer.disconnect();
  }, []);
  const total = shown.value;
  const follow = following.value;
  useLayoutEffect(() => {
    if (follow) box.current!.scrollTop = total * ROW;
  }, [follow, total]);
  const chosen = selected.value;
  // The chain below the list takes room when something is selected, and its steps select too: bring the row into view.
  useLayoutEffect(() => {
    if (chosen === 0) return;
    const { scrollTop, clientHeight } = box.current!;
    const y = events.indexOf(chosen) * ROW;
    if (y < scrollTop) box.current!.scrollTop = y;
    else if (y + ROW > scrollTop + clientHeight) box.current!.scrollTop = y + ROW - clientHeight;
  }, [chosen, height.value]);
  const first = Math.max(0, Math.min(Math.floor(top.value / ROW), total - Math.ceil(height.value / ROW)) - SPARE);
  const visible = Math.min(total - first, Math.ceil(height.value / ROW) + 2 * SPARE);
  const rows = Array.from({ length: Math.max(0, visible) }, (_, i) => events.match(first + i));
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current!;
    // A step upwards by the user ends following; the end of the list takes it up again.
    if (scrollTop < top.peek() - 1) following.value = false;
    else if (scrollHeight - clientHeight - scrollTop < 2 && events.size > 0) following.value = true;
    top.value = scrollTop;
  };
  return (
    <div
      class="event-list"
      ref={box}
      tabIndex={0}
      role="listbox"
      aria-label="Events"
      aria-activedescendant={selected.value === 0 ? undefined : `event-${selected.value}`}
      data-testid="events"
      onScroll={onScroll}
      onKeyDown={onKey}
      onPointerLeave={() => (pointed.value = null)}
    >
      {total === 0 && (
        <p class="hint">
          {events.total === 0 ? "What happens in a run, and why, appears here." : "All kinds are hidden."}
        </p>
      )}
      {/* The list is padded, not positioned row by row: one style change per frame. */}
      <div style={{ height: `${total * ROW}px` }}>
        <div style={{ transform: `translateY(${first * ROW}px)` }}>
          {rows.map((event) => event !== null && <EventRow key={event.seq} event={event} />)}
        </div>
      </div>
    </div>
  );
}

function EventRow(props: { event: EventView }) {
  const { event } = props;
  const name = KIND_NAMES[event.kind]!;
  const sized = hasPlace(event);
  return (
    <div
      id={`event-${event.seq}`}
      role="option"
      aria-selected={selected.value === event.seq}
      class={`event family-${KINDS[name].family} ${name === "round" || name === "launch" ? "section" : ""}`}
      onPointerEnter={() => (pointed.value = sized ? { start: event.start, end: event.end } : null)}
      onClick={() => select(event.seq)}
    >
      <span class="event-time">{((event.time - events.began) / 1000).toFixed(3)}</span>
      <span class="event-kind" style={{ paddingLeft: `${event.depth * 8}px` }}>
        {name}
      </span>
      <span class="event-address">{sized && address(event.start)}</span>
      <span class="event-size">{sized && event.end - event.start >= PAGE && chunk(event.end - event.start)}</span>
      <span class="event-detail">{detailText(name, event.detail)}</span>
    </div>
  );
}

function select(seq: number): void {
  following.value = false;
  selected.value = selected.peek() === seq ? 0 : seq;
}

/** Up and down go through the list, left to the cause, right to the first consequence; Escape clears. */
function onKey(event: KeyboardEvent): void {
  const seq = selected.peek();
  const at = seq === 0 ? events.size : events.indexOf(seq);
  const target = {
    ArrowDown: () => events.match(Math.min(events.size - 1, at + 1))?.seq,
    ArrowUp: () => events.match(Math.max(0, at - 1))?.seq,
    ArrowLeft: () => events.get(seq)?.cause,
    ArrowRight: () => events.effects(seq, 1)[0]?.seq,
    Escape: () => 0,
  }[event.key];
  if (target === undefined) return;
  event.preventDefault();
  const next = target();
  if (next === undefined || (next === 0 && event.key !== "Escape")) return;
  following.value = false;
  selected.value = next;
}
