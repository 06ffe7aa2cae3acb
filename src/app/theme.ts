import { computed, effect, signal } from "@preact/signals";

export type ThemeChoice = "system" | "light" | "dark";
const STORED = "webgpu-svm.theme";

const media = matchMedia("(prefers-color-scheme: dark)");
const systemDark = signal(media.matches);
media.addEventListener("change", () => (systemDark.value = media.matches));

export const themeChoice = signal<ThemeChoice>(readChoice());
export const dark = computed(() => (themeChoice.value === "system" ? systemDark.value : themeChoice.value === "dark"));

function readChoice(): ThemeChoice {
  try {
    const stored = localStorage.getItem(STORED);
    return stored === "light" || stored === "dark" ? stored : "system";
  } catch {
    return "system";
  }
}

/** The custom properties that canvases need, read again when the theme changes. */
const NAMES = [
  "surface",
  "track",
  "line",
  "text",
  "muted",
  "faint",
  "accent",
  "fault",
  "in",
  "fresh",
  "out",
  "gpu",
  "inval",
  "cpu",
  "run",
  "object",
  "free",
  "zeroed",
  "reserved",
  "aperture",
  "invalid",
] as const;
export type PaletteName = (typeof NAMES)[number];
export type Palette = Readonly<Record<PaletteName, string>>;

export const palette = signal<Palette>({} as Palette);

effect(() => {
  document.documentElement.dataset["theme"] = dark.value ? "dark" : "light";
  const style = getComputedStyle(document.documentElement);
  palette.value = Object.fromEntries(
    NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]),
  ) as Palette;
});

/** Light, dark, and back to what the system says. */
export function cycleTheme(): void {
  const order: ThemeChoice[] = systemDark.value ? ["system", "light", "dark"] : ["system", "dark", "light"];
  themeChoice.value = order[(order.indexOf(themeChoice.value) + 1) % order.length]!;
  try {
    if (themeChoice.value === "system") localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, themeChoice.value);
  } catch {
    // Storage may be forbidden; the choice then lasts as long as the page.
  }
}
