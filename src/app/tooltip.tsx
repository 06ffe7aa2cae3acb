import type { ReadonlySignal } from "@preact/signals";

/** Where the pointer is (page coordinates) and what there is to say about it; the first line is the heading. */
export interface Tip {
  readonly x: number;
  readonly y: number;
  readonly lines: readonly string[];
}

const WIDTH = 300;

export function Tooltip(props: { tip: ReadonlySignal<Tip | null> }) {
  const tip = props.tip.value;
  if (tip === null) return null;
  const left = tip.x + 16 + WIDTH > innerWidth ? tip.x - 16 - WIDTH : tip.x + 16;
  const top = Math.min(tip.y + 14, innerHeight - 24 - tip.lines.length * 18);
  return (
    <div class="tooltip" role="tooltip" style={{ left: `${left}px`, top: `${top}px`, maxWidth: `${WIDTH}px` }}>
      {tip.lines.map((line, i) => (
        <div key={i} class={i === 0 ? "tooltip-head" : ""}>
          {line}
        </div>
      ))}
    </div>
  );
}
