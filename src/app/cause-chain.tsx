import { hasPlace } from "./event-log.ts";
import type { EventView } from "./event-log.ts";
import { address, chunk } from "./format.ts";
import { KINDS, KIND_NAMES, detailText } from "./kinds.ts";
import { events, frame, selected } from "./session.ts";

/** Consequences listed under the selected event. */
const EFFECTS = 8;

/** Why the selected event happened: the chain of causes down to it, and what it led to in turn. */
export function CauseChain() {
  void frame.value;
  const chain = selected.value === 0 ? [] : events.chain(selected.value);
  const event = chain[chain.length - 1];
  if (event === undefined) return null;
  const effects = events.effects(event.seq, EFFECTS);
  const name = KIND_NAMES[event.kind]!;
  return (
    <section class="chain" aria-label="Causes of the selected event" data-testid="chain">
      <header>
        <h3>Why #{event.seq}</h3>
        <button type="button" class="icon" aria-label="Close" onClick={() => (selected.value = 0)}>
          ×
        </button>
      </header>
      <p class="muted">{KINDS[name].meaning}</p>
      <ol>
        {chain.map((step) => (
          <Step key={step.seq} event={step} since={chain[0]!.time} current={step === event} />
        ))}
        {effects.map((step) => (
          <Step key={step.seq} event={step} since={chain[0]!.time} effect />
        ))}
      </ol>
    </section>
  );
}

function Step(props: { event: EventView; since: number; current?: boolean; effect?: boolean }) {
  const { event } = props;
  const name = KIND_NAMES[event.kind]!;
  return (
    <li class={`family-${KINDS[name].family} ${props.current ? "current" : ""} ${props.effect ? "effect" : ""}`}>
      <button type="button" onClick={() => (selected.value = event.seq)} aria-current={props.current}>
        <span class="event-kind">{name}</span>
        <span class="event-address">
          {hasPlace(event) && `${address(event.start)} ${chunk(event.end - event.start)}`}
        </span>
        <span class="event-detail">{detailText(name, event.detail)}</span>
        <span class="event-time">+{(event.time - props.since).toFixed(1)} ms</span>
      </button>
    </li>
  );
}
