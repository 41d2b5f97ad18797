// Heads, lists of fields and log lines are made in memory that is used again. Requests whose pieces arrive in any order
// must come out as they would alone, and nothing of one may be found in what another sends or logs.

import assert from 'node:assert/strict';
import type { Socket } from 'node:net';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { writeRecord } from '../../sidecar/access-log.ts';
import { Connection } from '../../sidecar/connection.ts';
import type { Exchange, PortRules } from '../../sidecar/exchange/exchange.ts';
import { emptyFields, fieldName, type Reply } from '../../sidecar/exchange/message.ts';
import type { UpstreamEvents } from '../../sidecar/exchange/upstream.ts';
import { readMeaning } from '../../sidecar/head.ts';
import { LogLine } from '../../sidecar/observe/log-line.ts';
import { SeenParts } from '../../sidecar/observe/seen-parts.ts';
import { Http1Client } from '../../sidecar/protocol/http1/client.ts';
import { readFields } from '../../sidecar/protocol/http1/head.ts';
import { printLastChunk } from '../../sidecar/protocol/http1/print.ts';
import { Http1Server } from '../../sidecar/protocol/http1/server.ts';
import { HpackDecoder } from '../../sidecar/protocol/http2/hpack-decode.ts';
import { HpackEncoder } from '../../sidecar/protocol/http2/hpack-encode.ts';
import { limits } from '../fixtures/codec.ts';
import { fuzz } from '../fixtures/fuzz.ts';
import { LateSocket } from '../fixtures/late-socket.ts';
import type { Random } from '../fixtures/random.ts';

const names = ['Authorization', 'Cookie', 'X-A', 'X-Api-Key', 'User-Agent', 'X-Forwarded-For', 'X-Request-Id'];

/** A request with a word of its own in every place that takes one. */
function requestWith(random: Random, word: string): Buffer {
  const fields = Array.from(
    { length: random.below(20) },
    (_, i) => `${random.pick(names)}: ${word}${'.'.repeat(random.below(300))}${i}\r\n`,
  );
  const body = random.below(2) === 0 ? '' : `${word}${'b'.repeat(random.below(200))}`;
  const length = body === '' ? '' : `Content-Length: ${body.length}\r\n`;
  return Buffer.from(`POST /${word}?${word} HTTP/1.1\r\nHost: ${word}\r\n${fields.join('')}${length}\r\n${body}`);
}

function cut(random: Random, bytes: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + 1 + random.below(bytes.length));
    pieces.push(bytes.subarray(at, end));
    at = end;
  }
  return pieces;
}

/** One client's request on its way to an upstream, its response, and its line. */
class Passage {
  readonly #down = new LateSocket();
  readonly #up = new LateSocket();
  readonly #word: string;
  line = '';

  constructor(word: string, number: number) {
    this.#word = word;
    const rules = { limits, direction: 'inbound', protocol: 'http', generation: 1 } as PortRules;
    const connection = new Connection(this.#down as unknown as Socket, { key: 'test', rules: new LiveCell(rules) });
    Object.defineProperty(connection, 'id', { value: number });
    const upstream = new Http1Client(
      this.#up as unknown as Socket,
      { released() {}, gone() {} },
      { secure: false, peer: undefined, address: 'a:1', headBytes: 60_000, headFields: 100, idleMs: 1000 },
    );
    new Http1Server(connection, {
      ...{ draining: () => false, refusalOf: () => undefined },
      refuse: (_, error) => assert.fail(error),
      finish: (exchange) => {
        exchange.decision = 'allow';
        const line = new LogLine();
        writeRecord(line, exchange, connection, 1);
        this.line = line.toString().replace(/"start_time":"[^"]*"/, '');
      },
      serve: (exchange) => this.#pass(exchange, upstream),
    });
  }

  #pass(exchange: Exchange, upstream: Http1Client): void {
    readMeaning(exchange);
    const call = { ...exchange, clientCert: `By=${this.#word}`, requestId: exchange.requestIdGiven ? undefined : 'id' };
    upstream.send(call, exchange.wholeBody, { upstreamReply() {} } as unknown as UpstreamEvents);
    if (exchange.wholeBody === undefined && exchange.framing !== 0)
      exchange.carrier = {
        requestData: (chunk) => upstream.write(chunk),
        requestEnd: (trailers) => {
          upstream.end(trailers);
          this.#answer(exchange);
        },
        downstreamDrained() {},
        downstreamGone() {},
        idle() {},
      };
    else this.#answer(exchange);
  }

  #answer(exchange: Exchange): void {
    const { fields } = exchange;
    const reply = { status: 200, reason: this.#word, fields, hopFields: undefined, framing: 2, declaredLength: 2 };
    exchange.downstream.respond(reply as Reply, Buffer.from('ok'));
  }

  feed(piece: Buffer): void {
    this.#down.emit('data', piece);
  }

  /** What went to the upstream, to the client and to the log. */
  async take(): Promise<string[]> {
    // The codec joins what it writes until the end of a turn.
    await new Promise(setImmediate);
    return [this.#up.drain(), this.#down.drain(), this.line];
  }
}

/** The IDs that requests without one are given differ each time. */
function withoutIds(texts: readonly string[]): string[] {
  return texts.map((text) => text.replaceAll(/[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, 'uuid'));
}

const words = ['alpha-7f3a', 'bravo-91cc', 'delta-d02b', 'gamma-55e8'];

fuzz(
  t,
  'requests in any interleaving of their pieces leave as they would alone',
  (random) => words.map((word) => cut(random, requestWith(random, word))),
  async (requests, random) => {
    const alone: string[][] = [];
    for (const [at, pieces] of requests.entries()) {
      const one = new Passage(words[at]!, at);
      for (const piece of pieces) one.feed(piece);
      alone.push(withoutIds(await one.take()));
    }
    const all = requests.map((pieces, at) => ({ one: new Passage(words[at]!, at), left: [...pieces] }));
    for (let open = all; open.length > 0; open = all.filter(({ left }) => left.length > 0)) {
      const next = random.pick(open);
      next.one.feed(next.left.shift()!);
    }
    for (const [at, { one }] of all.entries()) {
      const texts = withoutIds(await one.take());
      assert.deepEqual(texts, alone[at]);
      assert.ok(!printLastChunk(emptyFields).bytes.includes(words[at]!), 'no head stays where it was printed');
      for (const text of texts) assert.ok(text.includes(words[at]!), `its own word is in ${JSON.stringify(texts)}`);
      for (const other of words)
        if (other !== words[at]) for (const text of texts) assert.ok(!text.includes(other), `${other} in ${text}`);
    }
  },
);

fuzz(
  t,
  'header blocks of connections in turns are what was written to each',
  (random) =>
    Array.from({ length: 20 }, () => ({
      connection: random.below(words.length),
      values: Array.from({ length: 1 + random.below(30) }, () => '.'.repeat(random.below(300))),
    })),
  (blocks) => {
    const connections = words.map(() => ({ encoder: new HpackEncoder(), decoder: new HpackDecoder(60_000, 100) }));
    const seen = blocks.map(({ connection, values }) => {
      const { encoder, decoder } = connections[connection]!;
      const word = words[connection]!;
      encoder.begin();
      for (const [i, value] of values.entries()) encoder.add({ lower: `x-${i % 7}` }, `${word}${value}`);
      return decoder.decode(Buffer.from(encoder.bytes.subarray(0, encoder.length))).fields;
    });
    for (const [at, { connection, values }] of blocks.entries())
      assert.deepEqual(
        seen[at]!.values,
        values.map((value) => `${words[connection]}${value}`),
      );
    assert.deepEqual(emptyFields, { names: [], values: [] });
  },
);

/** Few values, and of few lengths: many lines have the same place among those that are remembered. */
function lineWith(random: Random): string {
  const name = random.pick(['Accept', 'accept', 'Host', 'User-Agent', 'X-Api-Key', 'Cookie', 'Content-Type']);
  const value = `${random.pick(['', 'a', 'a/b', 'ab/c'])}${random.pick('abc'.split(''))}${'.'.repeat(random.below(40))}`;
  return `${name}:${random.pick(['', ' ', '\t', '  '])}${value}${random.pick(['', ' ', ';q=1'])}`;
}

fuzz(
  t,
  'a field line that has come before says what it says now',
  (random) => Array.from({ length: 30 }, () => Array.from({ length: random.below(12) }, () => lineWith(random))),
  (heads) => {
    for (const lines of heads) {
      const head = Buffer.from(`GET / HTTP/1.1\r\n${lines.join('\r\n')}`);
      const { names, values } = readFields(head, 16, head.length, 12);
      assert.deepEqual(
        names.map(({ prefix }, at) => `${prefix}${values[at]}`),
        lines.map((line) => line.replace(/^([^:]+):[\t ]*(.*?)[\t ]*$/, '$1: $2')),
      );
      if (lines.length > 0)
        assert.throws(() => readFields(head, 16, head.length, lines.length - 1), { code: 'head_too_many_fields' });
    }
  },
);

fuzz(
  t,
  'a part of a log line is made of its own texts',
  (random) =>
    Array.from({ length: 300 }, () =>
      [1, 2, 3].map(() => random.pick([undefined, '', 'a', 'b', 'ab', 'ba', `${random.below(40)}`, 'x'.repeat(600)])),
    ),
  (keys) => {
    const make = (...texts: (string | undefined)[]): string => JSON.stringify(texts.map((one) => one ?? null));
    const parts = new SeenParts(make);
    for (const [first, second, third] of keys) assert.equal(parts.of(first, second, third), make(first, second, third));
  },
);

t.test('no line with a credential is remembered', async (t) => {
  for (const name of ['Authorization', 'Cookie', 'Set-Cookie', 'Proxy-Authorization', 'X-Api-Key', 'Referer', 'X-A'])
    t.equal(fieldName(name).repeats, false, name);
  t.equal(fieldName('User-Agent').repeats, true);
});
