/**
 * An SVG picture as text. Its colours are classes with a dark variant, so that the same file suits a light and a dark
 * page; its fonts are the reader's.
 */
export class Svg {
  readonly #width: number;
  readonly #height: number;
  readonly #label: string;
  readonly #parts: string[] = [];

  /** Pixels; `label` is read to whoever does not see the picture. */
  constructor(width: number, height: number, label: string) {
    this.#width = width;
    this.#height = height;
    this.#label = label;
  }

  text(x: number, y: number, text: string, classes: string): void {
    this.#parts.push(`<text x="${round(x)}" y="${round(y)}" class="${classes}">${escaped(text)}</text>`);
  }

  line([x1, y1, x2, y2]: readonly [number, number, number, number], classes: string): void {
    const ends = `x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"`;
    this.#parts.push(`<line ${ends} class="${classes}"/>`);
  }

  path(points: readonly (readonly [number, number])[], classes: string): void {
    if (points.length === 0) return;
    const d = points.map(([x, y], i) => `${i === 0 ? "M" : "L"}${round(x)} ${round(y)}`).join("");
    this.#parts.push(`<path d="${d}" class="${classes}"/>`);
  }

  dot(x: number, y: number, radius: number, classes: string): void {
    this.#parts.push(`<circle cx="${round(x)}" cy="${round(y)}" r="${radius}" class="dot ${classes}"/>`);
  }

  /** `share`: how much of the full shade, 0 to 1; null for the box of an interval. */
  cell(box: { x: number; y: number; width: number; height: number }, share: number | null): void {
    const shade = share === null ? `class="interval"` : `class="cell" fill-opacity="${(share ** 1.5).toFixed(2)}"`;
    const { x, y, width, height } = box;
    this.#parts.push(
      `<rect x="${round(x)}" y="${round(y)}" width="${round(width)}" height="${round(height)}" rx="2" ${shade}/>`,
    );
  }

  /** The whole document. `dashes`: by the number of the colour. */
  done(
    footer: string,
    colors: { readonly light: readonly string[]; readonly dark: readonly string[] },
    dashes: readonly (readonly number[])[],
  ): string {
    const classes = (list: readonly string[]) =>
      list.map((color, i) => `.c${i}{stroke:${color};fill:${color}}`).join("");
    const dashed = dashes.map((dash, i) =>
      dash.length === 0 ? "" : `.line.c${i}{stroke-dasharray:${dash.join(" ")}}`,
    );
    this.text(16, this.#height - 12, footer, "foot");
    const box = `viewBox="0 0 ${this.#width} ${this.#height}" width="${this.#width}" height="${this.#height}"`;
    return [
      `<svg xmlns="http://www.w3.org/2000/svg" ${box} role="img" aria-label="${escaped(this.#label)}">`,
      `<style>${STYLE}${classes(colors.light)}.line{fill:none}${dashed.join("")}`,
      `@media (prefers-color-scheme:dark){${DARK}${classes(colors.dark)}.line{fill:none}}</style>`,
      `<rect width="${this.#width}" height="${this.#height}" rx="6" class="back"/>`,
      ...this.#parts,
      "</svg>\n",
    ].join("\n");
  }
}

const FONT = `font-family:system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif`;
const STYLE =
  `text{${FONT};font-size:12px;fill:#1b2027}.title{font-size:14px;font-weight:600}.tick,.foot{fill:#5b6470;font-size:11px}` +
  `.group{font-weight:600;fill:#5b6470}.figure{font-size:11px}.on{fill:#fff}.end{text-anchor:end}.middle{text-anchor:middle}` +
  `.back{fill:#fff}.grid{stroke:#dde1e6}.line{stroke-width:1.8}.bound{fill:none;stroke:#1b2027;stroke-width:1.4;stroke-dasharray:2 3}` +
  `.dot{stroke:none}.cell{fill:#1f5fd0}.interval{fill:#1f5fd0;fill-opacity:.25}.median{stroke:#1b2027;stroke-width:2}` +
  `.sample{fill:#1f5fd0;fill-opacity:.55}`;
const DARK =
  `text{fill:#e4e8ee}.tick,.foot,.group{fill:#98a2b0}.on{fill:#0b1220}.back{fill:#161a20}.grid{stroke:#282e38}` +
  `.bound,.median{stroke:#e4e8ee}.cell,.interval,.sample{fill:#6ea3ff}`;

function round(value: number): number {
  return Math.round(value * 10) / 10;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
