// Text broken at words, for a terminal of a width.

import { stripVTControlCharacters } from 'node:util';

/**
 * The lines of `text`, none longer than `width` unless one word is; each begins with `indent` spaces. Escape sequences of
 * colours have no width.
 */
export function wrap(text: string, width: number, indent = 0, hanging = indent): string[] {
  const lines: string[] = [];
  let line = ' '.repeat(indent);
  let length = indent;
  let isEmpty = true;
  for (const word of text.split(' ')) {
    const { length: ofWord } = stripVTControlCharacters(word);
    if (!isEmpty && length + 1 + ofWord > width) {
      lines.push(line.trimEnd());
      line = ' '.repeat(hanging) + word;
      length = hanging + ofWord;
    } else {
      line += isEmpty ? word : ` ${word}`;
      length += ofWord + (isEmpty ? 0 : 1);
    }
    isEmpty = false;
  }
  return [...lines, line];
}

/** The narrowest width for which lines are broken. */
const least = 20;

/** The width of a terminal, or what COLUMNS says; undefined for a file or a pipe. */
export function widthOf({ columns }: { readonly columns?: number }, env = process.env): number | undefined {
  const width = columns ?? Number(env['COLUMNS']);
  return Number.isInteger(width) && width >= least ? width : undefined;
}

/**
 * A text with paragraphs and indented lines, for a width. Lines without an indent that follow each other are a paragraph; an
 * indented line stays one, and goes on two spaces further in.
 */
export function reflow(text: string, width: number): string {
  const lines: string[] = [];
  let paragraph: string[] = [];
  const flush = (): void => {
    if (paragraph.length > 0) lines.push(...wrap(paragraph.join(' '), width));
    paragraph = [];
  };
  for (const line of text.split('\n')) {
    if (/^\S/.test(line)) paragraph.push(line);
    else {
      flush();
      const indent = line.length - line.trimStart().length;
      lines.push(...(line.length <= width ? [line] : wrap(line.trimStart(), width, indent, indent + 2)));
    }
  }
  flush();
  return lines.join('\n');
}
