// The codec under hostile bytes: the verdict does not depend on how they are cut into pieces. Chunked bodies are
// compared with a second decoder, written from RFC 9112 section 7.1 with one regular expression per line.

import assert from 'node:assert/strict';
import t from 'tap';
import type { Fields } from '../../sidecar/exchange/message.ts';
import { createBodyReader } from '../../sidecar/protocol/http1/body.ts';
import { checkHead, endOfLine, readFields, readStatusLine } from '../../sidecar/protocol/http1/head.ts';
import { readRequests, reprint, requestVectors } from '../fixtures/codec.ts';
import { fuzz, mutate } from '../fixtures/fuzz.ts';
import type { Random } from '../fixtures/random.ts';

const requests = requestVectors.map(({ bytes }) => Buffer.from(bytes, 'latin1')).filter((one) => one.length < 2000);

fuzz(
  t,
  'a request in one piece and in many',
  (random) => mutate(random, Buffer.concat([random.pick(requests), random.pick(requests)])),
  async (bytes, random) => assert.deepEqual(await readRequests(cut(random, bytes)), await readRequests([bytes])),
);

fuzz(
  t,
  'what goes on is read as it was written, and written the same again',
  (random) => mutate(random, random.pick(requests)),
  (bytes) => {
    const once = reprint(bytes);
    // A printed head is complete; its body does not matter.
    if (once !== undefined) assert.equal(reprint(Buffer.from(once, 'latin1')), once);
  },
);

fuzz(
  t,
  'a chunked body and what a second decoder makes of it',
  (random) => mutate(random, chunkedBody(random)),
  (bytes, random) => {
    const ours = decodeWith(bytes, cut(random, bytes));
    const theirs = decodeSimply(bytes.toString('latin1'));
    if (theirs === undefined) assert.equal(ours.ended, false, 'only our parser found an end');
    else assert.deepEqual(ours, { ended: true, body: theirs.body, rest: theirs.rest });
  },
  ['chunk_malformed', 'head_malformed', 'head_too_many_fields', 'head_invalid_characters'],
);

fuzz(
  t,
  'the head of an answer',
  (random) => mutate(random, Buffer.from('HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nX-A: b')),
  (bytes) => {
    checkHead(bytes, 0, bytes.length);
    const lineEnd = endOfLine(bytes, 0, bytes.length);
    const { status } = readStatusLine(bytes, 0, lineEnd);
    assert.equal(String(status), bytes.toString('latin1', 9, 12));
    const fields = readFields(bytes, lineEnd + 2, bytes.length, 100);
    for (const [index, name] of fields.names.entries()) {
      assert.match(name.lower, /^[!#$%&'*+.^_`|~0-9a-z-]+$/);
      assert.doesNotMatch(fields.values[index] ?? '', /[\r\n\0]/);
    }
  },
  ['upstream_protocol', 'head_malformed', 'head_invalid_characters', 'head_too_many_fields'],
);

fuzz(
  t,
  'the bytes of a head that are refused are those that a pattern of them finds',
  (random) =>
    Buffer.from(
      Array.from({ length: random.below(30) }, () =>
        random.pick(['a', '\r\n', '\r', '\n', '\t', ' ', '\0', '\x7f', '\xff']),
      ).join(''),
      'latin1',
    ),
  (bytes) => {
    const isBad = /[\0-\x08\x0b\x0c\x0e-\x1f\x7f]|\r(?!\n)|(?<!\r)\n/.test(bytes.toString('latin1'));
    const check = (): void => checkHead(bytes, 0, bytes.length);
    if (isBad) assert.throws(check, { code: 'head_invalid_characters' });
    else check();
  },
);

function cut(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = at + 1 + random.below(random.pick([1, 4, 64]));
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}

function chunkedBody(random: Random): Buffer {
  const chunks = Array.from({ length: random.below(4) }, () => 'x'.repeat(1 + random.below(20)));
  const text = chunks.map((one) => `${one.length.toString(16)}\r\n${one}\r\n`).join('');
  return Buffer.from(`${text}0\r\n${random.pick(['', 'X-Sum: 1\r\n'])}\r\n${random.pick(['', 'GET /'])}`);
}

function decodeWith(
  bytes: Buffer,
  pieces: readonly Buffer[],
): { ended: boolean; body: string; rest: string | undefined } {
  const reader = createBodyReader('chunked');
  let body = '';
  let ended = false;
  let consumed = 0;
  const sink = {
    bodyData(chunk: Buffer) {
      body += chunk.toString('latin1');
    },
    bodyEnd(_trailers: Fields) {
      ended = true;
    },
  };
  for (const piece of pieces) {
    if (ended) break;
    consumed += reader.read(piece, 0, sink);
  }
  return { ended, body, rest: ended ? bytes.subarray(consumed).toString('latin1') : undefined };
}

/** The same, without pieces, limits or states. Undefined if the body has no valid end. */
function decodeSimply(text: string): { body: string; rest: string } | undefined {
  let body = '';
  for (let left = text; ; ) {
    const line = /^([0-9A-Fa-f]+)(?:[\t ]*;[^\r\n\0-\x08\x0b\x0c\x0e-\x1f\x7f]*)?\r\n/.exec(left);
    if (line?.[1] === undefined) return undefined;
    const size = Number.parseInt(line[1], 16);
    left = left.slice(line[0].length);
    if (size === 0) {
      const trailers = /^(?:[^\r\n]+\r\n)*\r\n/.exec(left);
      return trailers === null ? undefined : { body, rest: left.slice(trailers[0].length) };
    }
    if (left.length < size || left.slice(size, size + 2) !== '\r\n') return undefined;
    body += left.slice(0, size);
    left = left.slice(size + 2);
  }
}
