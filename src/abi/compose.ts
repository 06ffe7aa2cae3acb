/** A shader is an ordered list of parts; there is no preprocessor. */
export interface ShaderPart {
  /** What an error message calls it: `"shaders/copy.wgsl"`, `"<generated>"`. */
  readonly file: string;
  readonly text: string;
}

export interface ComposedShader {
  readonly code: string;
  /** File and line of a line of `code`; both counted from 1. */
  locate(line: number): { file: string; line: number };
}

export function compose(parts: readonly ShaderPart[]): ComposedShader {
  const starts: number[] = [];
  const texts: string[] = [];
  let line = 1;
  for (const part of parts) {
    const text = part.text.endsWith("\n") ? part.text : `${part.text}\n`;
    starts.push(line);
    texts.push(text);
    line += text.split("\n").length - 1;
  }
  return {
    code: texts.join(""),
    locate(wanted) {
      let i = starts.length - 1;
      while (i > 0 && starts[i]! > wanted) i -= 1;
      return { file: parts[i]?.file ?? "<empty>", line: wanted - (starts[i] ?? 1) + 1 };
    },
  };
}
