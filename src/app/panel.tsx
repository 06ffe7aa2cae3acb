import type { ComponentChildren } from "preact";
import type { PaletteName } from "./theme.ts";

/** A titled box of the workbench; `legend` and `actions` stand in its head. */
export function Panel(props: {
  title: ComponentChildren;
  class?: string;
  legend?: ComponentChildren;
  actions?: ComponentChildren;
  children: ComponentChildren;
}) {
  return (
    <section class={`panel ${props.class ?? ""}`}>
      <header class="panel-head">
        <h2>{props.title}</h2>
        {props.legend !== undefined && <div class="legend">{props.legend}</div>}
        {props.actions !== undefined && <div class="actions">{props.actions}</div>}
      </header>
      <div class="panel-body">{props.children}</div>
    </section>
  );
}

/** One entry of a legend. */
export function Key(props: { color: PaletteName; label: string; value?: string; hatched?: boolean }) {
  return (
    <span class="key">
      <i class={`swatch ${props.hatched ? "hatched" : ""}`} style={{ "--swatch": `var(--${props.color})` }} />
      {props.label}
      {props.value !== undefined && <b>{props.value}</b>}
    </span>
  );
}
