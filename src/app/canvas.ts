import { effect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import type { RefObject } from "preact";

/** What a view draws on: CSS pixels, already scaled for the display. */
export interface Surface {
  readonly ctx: CanvasRenderingContext2D;
  readonly width: number;
  readonly height: number;
  /** Device pixels per CSS pixel. */
  readonly ratio: number;
}

/**
 * A canvas that fills its box and is drawn at most once per animation frame: when its size changes, and when a signal
 * that `draw` read has changed.
 */
export function useCanvas(draw: (surface: Surface) => void): RefObject<HTMLCanvasElement | null> {
  const ref = useRef<HTMLCanvasElement>(null);
  const latest = useRef(draw);
  latest.current = draw;
  useEffect(() => {
    const canvas = ref.current!;
    const ctx = canvas.getContext("2d")!;
    let scheduled = 0;
    let dispose = () => {};
    const paint = () => {
      scheduled = 0;
      const ratio = devicePixelRatio;
      const width = canvas.clientWidth;
      const height = canvas.clientHeight;
      if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
      if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
      ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
      // The effect notes which signals the drawing reads; a change of one only schedules the next painting.
      dispose();
      let first = true;
      dispose = effect(() => {
        if (!first) return schedule();
        first = false;
        latest.current({ ctx, width, height, ratio });
      });
    };
    const schedule = () => {
      if (scheduled === 0) scheduled = requestAnimationFrame(paint);
    };
    const observer = new ResizeObserver(schedule);
    observer.observe(canvas);
    schedule();
    return () => {
      observer.disconnect();
      cancelAnimationFrame(scheduled);
      dispose();
    };
  }, []);
  return ref;
}

/** Diagonal hatching in one colour, for states that are defined by what is missing. */
export function hatch(ctx: CanvasRenderingContext2D, color: string): CanvasPattern {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 6;
  const pen = tile.getContext("2d")!;
  pen.strokeStyle = color;
  pen.lineWidth = 1.5;
  pen.beginPath();
  for (const shift of [-6, 0, 6]) {
    pen.moveTo(shift, 6);
    pen.lineTo(shift + 6, 0);
  }
  pen.stroke();
  return ctx.createPattern(tile, "repeat")!;
}

export const MONO = '11px ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace';
