// Reads a stream of server-sent events (HTML, section 9.2) and writes it again, event by event. A complete event is
// never held back.

import { hold } from '../../exchange/held-bytes.ts';
import { malformed } from './filter.ts';

/** Changes the parts of an event. */
export interface EventRules {
  /** Its data; undefined to remove it. */
  data(text: Buffer): Buffer | undefined;
  /** Its ID; undefined if no client could send it back. */
  id(id: string): string | undefined;
  /** The longest event, bytes. */
  readonly limit: number;
}

/** One stream. Bytes are kept as Latin-1 text: each character is one byte. */
export class EventReader {
  readonly #rules: EventRules;
  /** The start of a line. */
  #rest = '';
  /** The last piece ended with CR: an LF that follows belongs to it. */
  #afterCr = false;
  #isFirst = true;
  /** Lines of the current event that are passed on unchanged: `event` and `retry`. */
  #lines = '';
  #id: string | undefined = undefined;
  #data: string[] = [];
  /** Bytes of the event's complete lines. */
  #taken = 0;
  /** The bytes that are counted as held. */
  #held = 0;

  constructor(rules: EventRules) {
    this.#rules = rules;
  }

  /** The bytes of complete events. @throws SallyportError `upstream_answer_malformed`. */
  read(piece: Buffer): Buffer {
    let text = piece.toString('latin1');
    if (this.#isFirst) {
      text = this.#rest + text;
      this.#rest = '';
      // Section 9.2.6: one byte order mark at the start is not part of the stream.
      if (text.length < mark.length && mark.startsWith(text)) return this.#keep(text, '');
      if (text.startsWith(mark)) text = text.slice(mark.length);
      this.#isFirst = false;
    }
    let out = '';
    let from = this.#afterCr && text.startsWith('\n') ? 1 : 0;
    if (text !== '') this.#afterCr = false;
    for (;;) {
      const end = endOfLine(text, from);
      if (end === -1) break;
      out += this.#take(this.#rest + text.slice(from, end));
      this.#rest = '';
      from = end + 1;
      if (text[end] === '\r') {
        if (from === text.length) this.#afterCr = true;
        else if (text[from] === '\n') from++;
      }
    }
    return this.#keep(this.#rest + text.slice(from), out);
  }

  #keep(rest: string, out: string): Buffer {
    this.#rest = rest;
    const bytes = rest.length + this.#taken;
    hold(bytes - this.#held);
    this.#held = bytes;
    if (bytes > this.#rules.limit) throw malformed(`is an event of more than ${this.#rules.limit} bytes`);
    return Buffer.from(out, 'latin1');
  }

  /** One line. An event is written with its last one, which is empty. */
  #take(line: string): string {
    if (line === '') return this.#end();
    if (line.startsWith(':')) return `${line}\n`;
    this.#taken += line.length + 1;
    const colon = line.indexOf(':');
    const name = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (name === 'data') this.#data.push(value);
    else if (name === 'id' && !value.includes('\0')) this.#id = value;
    else if (name === 'event' || name === 'retry') this.#lines += `${name}: ${value}\n`;
    // Clients ignore all other fields.
    return '';
  }

  #end(): string {
    const [lines, id, data] = [this.#lines, this.#id, this.#data];
    this.#lines = '';
    this.#id = undefined;
    this.#data = [];
    this.#taken = 0;
    const sealed = id === undefined || id === '' ? id : this.#rules.id(id);
    const idLine = sealed === undefined ? '' : `id: ${sealed}\n`;
    const said = data.join('\n');
    const kept = said === '' ? said : this.#rules.data(Buffer.from(said, 'latin1'))?.toString('latin1');
    // Without data there is no event, but its id and its retry count.
    if (kept === undefined) return `${idLine}${lines.replace(/^event: .*\n/gm, '')}\n`;
    const dataLines =
      data.length === 0
        ? ''
        : kept
            .split('\n')
            .map((one) => `data: ${one}\n`)
            .join('');
    return `${lines}${idLine}${dataLines}\n`;
  }

  /** Releases the bytes of a stream that did not end. */
  drop(): void {
    hold(-this.#held);
    this.#held = 0;
    this.#taken = 0;
    this.#rest = '';
    this.#lines = '';
    this.#data = [];
  }
}

/** U+FEFF in UTF-8. */
const mark = '\xef\xbb\xbf';

function endOfLine(text: string, from: number): number {
  for (let at = from; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === 0x0a || code === 0x0d) return at;
  }
  return -1;
}
