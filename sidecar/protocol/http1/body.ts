// Bodies of HTTP/1.1 messages (RFC 9112 sections 6 and 7): finds their end, and passes on the buffers as they arrived.
// One reader per message; it consumes its own bytes and leaves the rest of the buffer to the next message.

import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { emptyFields, type Fields, type Framing, mayTrail, printable, role } from '../../exchange/message.ts';
import { checkHead, readFields } from './head.ts';

/** Receives one body. `bodyEnd` is called once, last; a body that is cut short has no end. */
export interface BodySink {
  /** A piece of the body. False asks the source to wait for its `resume`. */
  bodyData(chunk: Buffer): void;
  /** Trailers are empty unless the body is chunked. */
  bodyEnd(trailers: Fields): void;
}

/** Finds the end of one body. @throws SallyportError for chunks that are not as RFC 9112 section 7.1 says. */
export interface BodyReader {
  /** Consumes from `at`, gives to the sink, and returns where it stopped: at the end of `buffer`, or of the body. */
  read(buffer: Buffer, at: number, sink: BodySink): number;
  readonly done: boolean;
  /** The connection has ended: true if that is this body's proper end. */
  endsWithConnection(sink: BodySink): boolean;
}

/** A reader for one body: a length in bytes, chunks, or up to the end of the connection. */
export function createBodyReader(framing: Framing): BodyReader {
  if (framing === 'chunked') return new ChunkedReader();
  return framing === 'close' ? new CloseReader() : new LengthReader(framing);
}

class LengthReader implements BodyReader {
  #left: number;
  done = false;

  constructor(length: number) {
    this.#left = length;
  }

  read(buffer: Buffer, at: number, sink: BodySink): number {
    const end = Math.min(buffer.length, at + this.#left);
    this.#left -= end - at;
    if (this.#left === 0) this.done = true;
    if (end > at) sink.bodyData(at === 0 && end === buffer.length ? buffer : buffer.subarray(at, end));
    if (this.done) sink.bodyEnd(emptyFields);
    return end;
  }

  endsWithConnection(): boolean {
    return false;
  }
}

class CloseReader implements BodyReader {
  done = false;

  read(buffer: Buffer, at: number, sink: BodySink): number {
    if (buffer.length > at) sink.bodyData(at === 0 ? buffer : buffer.subarray(at));
    return buffer.length;
  }

  endsWithConnection(sink: BodySink): boolean {
    this.done = true;
    sink.bodyEnd(emptyFields);
    return true;
  }
}

/** A chunk's size line holds a size and extensions, which are ignored and dropped; this bounds them. */
const maxSizeLine = 256;
const maxTrailerBytes = 8192;
const maxTrailerFields = 100;

// Fields that frame, route or authenticate a message are not allowed after its end (RFC 9110 section 6.5.1).
const notInTrailers: ReadonlySet<number> = new Set([
  role.contentLength,
  role.transferEncoding,
  role.host,
  role.expect,
  role.clientCert,
  role.connection,
  role.upgrade,
]);

/** RFC 9112 section 7.1. Lines end in CRLF and nothing else; sizes are plain hexadecimal. */
class ChunkedReader implements BodyReader {
  #state: 'size' | 'data' | 'data-end' | 'trailers' = 'size';
  /** The part of a line that arrived in earlier buffers. */
  #line = '';
  #left = 0;
  #trailerText = '';
  done = false;

  read(buffer: Buffer, at: number, sink: BodySink): number {
    while (at < buffer.length && !this.done) {
      if (this.#state === 'data') {
        const end = Math.min(buffer.length, at + this.#left);
        this.#left -= end - at;
        if (this.#left === 0) this.#state = 'data-end';
        sink.bodyData(buffer.subarray(at, end));
        at = end;
      } else {
        at = this.#readLine(buffer, at, sink);
      }
    }
    return at;
  }

  endsWithConnection(): boolean {
    return false;
  }

  #readLine(buffer: Buffer, at: number, sink: BodySink): number {
    const feed = buffer.indexOf(10, at);
    const end = feed === -1 ? buffer.length : feed + 1;
    const limit = this.#state === 'trailers' ? maxTrailerBytes : maxSizeLine;
    if (this.#line.length + (end - at) > limit)
      throw new SallyportError('chunk_malformed', `a line of the chunked body is longer than ${limit} bytes`);
    this.#line += buffer.toString('latin1', at, end);
    if (feed === -1) {
      // A wrong start is refused at once: a peer that never sends the line's end must not keep us waiting for it.
      if (this.#state === 'size' && !/^(?:$|\r$|[0-9A-Fa-f])/.test(this.#line)) throw badChunk(this.#line);
      return end;
    }
    const line = this.#line;
    this.#line = '';
    if (!line.endsWith('\r\n')) throw badChunk(line);
    this.#takeLine(line.slice(0, -2), sink);
    return end;
  }

  #takeLine(line: string, sink: BodySink): void {
    if (this.#state === 'data-end') {
      if (line !== '') throw badChunk(line);
      this.#state = 'size';
    } else if (this.#state === 'size') {
      this.#left = parseChunkSize(line);
      this.#state = this.#left === 0 ? 'trailers' : 'data';
    } else if (line === '') {
      this.done = true;
      sink.bodyEnd(this.#trailerText === '' ? emptyFields : parseTrailers(this.#trailerText));
    } else {
      this.#trailerText += this.#trailerText === '' ? line : `\r\n${line}`;
      if (this.#trailerText.length > maxTrailerBytes)
        throw new SallyportError('chunk_malformed', `the trailers are longer than ${maxTrailerBytes} bytes`);
    }
  }
}

/**
 * A chunk size, then extensions by their grammar (section 7.1.1): a name, and a token or a quoted string as its value.
 */
const sizeLine =
  /^([0-9A-Fa-f]{1,13})(?:[\t ]*;[\t ]*[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[\t ]*=[\t ]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"))?)*$/;

/** The size that a line gives. Extensions are checked and ignored. */
function parseChunkSize(line: string): number {
  const match = sizeLine.exec(line);
  if (match?.[1] === undefined) throw badChunk(line);
  return Number.parseInt(match[1], 16);
}

function parseTrailers(text: string): Fields {
  const bytes = Buffer.from(text, 'latin1');
  checkHead(bytes, 0, bytes.length);
  const fields = readFields(bytes, 0, bytes.length, maxTrailerFields);
  const kept: Fields = { names: [], values: [] };
  for (const [index, name] of fields.names.entries()) {
    if (name.role !== role.clientCert && notInTrailers.has(name.role)) {
      throw new SallyportError('chunk_malformed', `the field ${name.lower} is not allowed in trailers`);
    }
    if (!mayTrail(name)) continue;
    kept.names.push(name);
    kept.values.push(fields.values[index] ?? '');
  }
  return kept;
}

function badChunk(line: string): SallyportError {
  return new SallyportError('chunk_malformed', `'${printable(line)}' is not valid at this place of a chunked body`);
}
