// A line of the operational log as a person reads it. Programs read the JSON.

/** C0 and C1 controls, line separators, and what changes the direction of text: a terminal would obey them. */
const unsafe = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

function visible(text: string): string {
  return text.replace(unsafe, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function fieldOf(value: unknown): string {
  const isPlain = typeof value === 'string' && /^[^\s"'=]+$/.test(value);
  return visible(isPlain ? value : (JSON.stringify(value) ?? 'undefined'));
}

/**
 * `line` is one JSON object with a line break, as pino writes it. Returns time, level, component, sentence, code in
 * brackets, the other fields, and the hint on a line of its own. A line that is no JSON object is returned unchanged.
 */
export function formatLogLine(line: string): string {
  let parsed: unknown;
  try {
    parsed = JSON.parse(line);
  } catch {
    return line;
  }
  if (typeof parsed !== 'object' || parsed === null) return line;
  const { time = '', level = '', component = '', msg = '', code, hint, ...rest } = parsed as Record<string, unknown>;
  const head = `${visible(String(time))} ${visible(String(level)).padEnd(5)} ${visible(String(component))}: `;
  const fields = Object.entries(rest).map(([name, value]) => ` ${visible(name)}=${fieldOf(value)}`);
  const named = code === undefined ? '' : ` [${visible(String(code))}]`;
  const advice = hint === undefined ? '' : `  hint: ${visible(String(hint))}\n`;
  return `${head}${visible(String(msg))}${named}${fields.join('')}\n${advice}`;
}
