// What the demo prints: a line for each process it starts, and one for each step with what was expected and what
// happened.

import { styleText } from 'node:util';

const longest = 72;

type Style = Parameters<typeof styleText>[0];

export function say(text: string): void {
  process.stdout.write(`${text}\n`);
}

export interface Outcome {
  readonly name: string;
  readonly expected: string;
  readonly got: string;
  readonly ok: boolean;
}

/** `ok      step   expected ...   got ...`, in one line. */
export function sayOutcome({ name, expected, got, ok }: Outcome): void {
  const verdict = ok ? paint('green', 'ok    ') : paint('red', 'FAILED');
  say(`${verdict}  ${name.padEnd(44)}  expected ${expected.padEnd(27)}  got ${short(got)}`);
}

/** A response may be long; a step takes one line. */
function short(text: string): string {
  const line = text.replace(/\s+/g, ' ');
  return line.length <= longest ? line : `${line.slice(0, longest - 3)}...`;
}

/** In colour on a terminal, unless NO_COLOR is set. */
function paint(style: Style, text: string): string {
  return styleText(style, text, { stream: process.stdout, validateStream: true });
}
