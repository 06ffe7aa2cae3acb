import { COUNTER } from "../worker/protocol.ts";
import type { CounterName } from "../worker/protocol.ts";
import { useCanvas } from "./canvas.ts";
import { bytes, shortCount } from "./format.ts";
import { counters, frame, rounds } from "./session.ts";
import { palette } from "./theme.ts";
import type { PaletteName } from "./theme.ts";

interface Tile {
  readonly counter: CounterName;
  readonly label: string;
  readonly color: PaletteName;
  readonly format: (n: number) => string;
  readonly title: string;
}

const TILES: readonly Tile[] = [
  {
    counter: "faults",
    label: "GPU faults",
    color: "fault",
    format: shortCount,
    title: "Faults served; duplicates of a round count once",
  },
  { counter: "rounds", label: "Rounds", color: "run", format: shortCount, title: "Dispatches with one readback each" },
  {
    counter: "bytesIn",
    label: "Moved into VRAM",
    color: "in",
    format: bytes,
    title: "Bytes migrated from system memory to VRAM",
  },
  {
    counter: "bytesOut",
    label: "Moved out",
    color: "out",
    format: bytes,
    title: "Bytes migrated from VRAM back to system memory",
  },
  {
    counter: "evictions",
    label: "Evictions",
    color: "out",
    format: shortCount,
    title: "Ranges and objects put out of VRAM to make room",
  },
  {
    counter: "cpuFaults",
    label: "CPU faults",
    color: "cpu",
    format: shortCount,
    title: "CPU accesses that found their page in VRAM",
  },
  {
    counter: "invalidations",
    label: "Invalidations",
    color: "inval",
    format: shortCount,
    title: "Notifier callbacks that met a range",
  },
  {
    counter: "tlbInvalidations",
    label: "TLB invalidations",
    color: "inval",
    format: shortCount,
    title: "Requests to drop cached translations",
  },
];

/** Width of a round in a sparkline, CSS pixels. */
const STEP = 2;

export function Counters() {
  return (
    <section class="counters" aria-label="Counters">
      {TILES.map((tile) => (
        <div key={tile.counter} class="counter" title={tile.title}>
          <span class="counter-label">{tile.label}</span>
          <span
            class="counter-value"
            data-testid={`counter-${tile.counter}`}
            data-value={counters.value[COUNTER[tile.counter]]}
          >
            {tile.format(counters.value[COUNTER[tile.counter]]!)}
          </span>
          <Sparkline counter={COUNTER[tile.counter]} color={tile.color} />
        </div>
      ))}
    </section>
  );
}

/** What the last rounds added, a bar each, scaled to the largest. */
function Sparkline(props: { counter: number; color: PaletteName }) {
  const canvas = useCanvas(({ ctx, width, height }) => {
    ctx.clearRect(0, 0, width, height);
    ctx.fillStyle = palette.value[props.color];
    if (frame.value === null) return;
    const first = Math.max(0, rounds.count - Math.floor(width / STEP));
    let most = 0;
    for (let i = first; i < rounds.count; i++) most = Math.max(most, rounds.value(i, props.counter));
    for (let i = first; i < rounds.count; i++) {
      const tall = most === 0 ? 0 : Math.ceil((rounds.value(i, props.counter) / most) * height);
      ctx.fillRect(width - (rounds.count - i) * STEP, height - tall, STEP - 0.5, tall);
    }
  });
  return <canvas ref={canvas} class="sparkline" aria-hidden="true" />;
}
