import { cycleTheme, dark, themeChoice } from "./theme.ts";

/** Light, dark, or as the system has it. */
export function ThemeButton() {
  return (
    <button
      type="button"
      class="icon theme"
      onClick={cycleTheme}
      title={`Theme: ${themeChoice.value}. Click to change.`}
      aria-label={`Theme: ${themeChoice.value}`}
    >
      <svg viewBox="0 0 16 16" aria-hidden="true">
        {dark.value ? (
          <path d="M13.2 10.1A5.8 5.8 0 0 1 5.9 2.8a5.8 5.8 0 1 0 7.3 7.3z" />
        ) : (
          <path d="M8 4.6a3.4 3.4 0 1 1 0 6.8 3.4 3.4 0 0 1 0-6.8zM7.4 1h1.2v2H7.4zM7.4 13h1.2v2H7.4zM1 7.4h2v1.2H1zM13 7.4h2v1.2h-2zM2.6 3.5l.9-.9 1.4 1.4-.9.9zM11.1 12l.9-.9 1.4 1.4-.9.9zM12.5 2.6l.9.9L12 4.9l-.9-.9zM4 11.1l.9.9-1.4 1.4-.9-.9z" />
        )}
      </svg>
    </button>
  );
}
