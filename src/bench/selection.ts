import { formatBytes, type RowKey, type Selection } from "./result.ts";

/** The mode of a row that has none: memory that was used before, one transfer at a time. */
export const WARM = "warm";

/** The bounds belong to whatever is measured beside them, so kinds and names say nothing about them. */
export function selects(selection: Selection, row: RowKey): boolean {
  const { kinds, names, sizes, layouts, modes } = selection;
  const has = <T>(list: readonly T[] | undefined, value: T) => list === undefined || list.includes(value);
  return (
    has(sizes, row.bytes) &&
    has(layouts, row.layout) &&
    has(modes, row.mode ?? WARM) &&
    (row.kind === "bound" || (has(kinds, row.kind) && has(names, row.name)))
  );
}

/** `"kind=upload,readback&size=4KiB,2MiB"`: a selection as a link carries it. */
export function selectionToQuery(selection: Selection): string {
  const parts: string[] = [];
  const put = (key: string, list: readonly string[] | undefined) => {
    if (list !== undefined) parts.push(`${key}=${list.map(encodeURIComponent).join(",")}`);
  };
  put("kind", selection.kinds);
  put("path", selection.names);
  put("size", selection.sizes?.map(formatBytes));
  put("layout", selection.layouts);
  put("mode", selection.modes);
  return parts.join("&");
}

/** The inverse; what cannot be read is left out, so that an old link still opens. */
export function selectionFromQuery(query: string): Selection {
  const lists = new Map<string, string[]>();
  for (const part of query.split("&")) {
    const [key, value] = part.split("=", 2);
    if (key === undefined || value === undefined) continue;
    lists.set(
      key,
      value
        .split(",")
        .filter((text) => text !== "")
        .map(decoded),
    );
  }
  const kinds = lists.get("kind");
  const names = lists.get("path");
  const sizes = lists
    .get("size")
    ?.map(parseBytes)
    .filter((bytes) => bytes !== null);
  const layouts = lists.get("layout");
  const modes = lists.get("mode");
  return {
    ...(kinds !== undefined && { kinds }),
    ...(names !== undefined && { names }),
    ...(sizes !== undefined && { sizes }),
    ...(layouts !== undefined && { layouts }),
    ...(modes !== undefined && { modes }),
  };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** `"64KiB"`; null for what is no size. */
export function parseBytes(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)(B|KiB|MiB|GiB)$/.exec(text);
  if (match === null) return null;
  return Number(match[1]) * 1024 ** ["B", "KiB", "MiB", "GiB"].indexOf(match[2]!);
}
