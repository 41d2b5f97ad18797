// The request codec on in-memory streams: every vector as one buffer, and split at every byte with the same verdict.

import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import t from 'tap';
import { LiveCell } from '../../cert-agent/base/live.ts';
import { Connection } from '../../sidecar/connection.ts';
import type { Carrier, Exchange, Fields, PortRules } from '../../sidecar/exchange.ts';
import { Http1Server } from '../../sidecar/protocol/http1-server.ts';

interface Vector {
  readonly name: string;
  readonly bytes: string;
  readonly verdict: string;
}

const vectors = JSON.parse(
  readFileSync(new URL('../vectors/http1/requests.json', import.meta.url), 'utf8'),
) as Vector[];

const limits = {
  headBytes: 60 * 1024,
  headFields: 100,
  handshakeMs: 1000,
  headMs: 1000,
  connectMs: 1000,
  streamIdleMs: 1000,
  clientIdleMs: 1000,
  tcpIdleMs: 1000,
  connections: 10,
  drainMs: 1000,
};

/** A socket of which the test holds the other end. */
class FakeSocket extends Duplex {
  readonly written: Buffer[] = [];

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.written.push(Buffer.from(chunk));
    done();
  }
}

/** Runs `pieces` through a server whose path only notes what it was given. */
async function serve(pieces: readonly Buffer[]): Promise<string[]> {
  const verdicts: string[] = [];
  const socket = new FakeSocket();
  const rules = { limits } as PortRules;
  const connection = new Connection(socket as unknown as Socket, { key: 'test', rules: new LiveCell(rules) });
  new Http1Server(connection, {
    draining: () => false,
    finish() {},
    refuse: (_exchange, error) => verdicts.push(error.code),
    serve: (exchange) => note(exchange, verdicts),
  });
  for (const piece of pieces) {
    if (verdicts.some((one) => /^[a-z_]+$/.test(one))) break;
    socket.emit('data', piece);
  }
  socket.destroy();
  return verdicts;
}

/** The verdict on a request: at once when its body is known, else when its body has ended. */
function note(exchange: Exchange, verdicts: string[]): void {
  const start = `${exchange.method} ${exchange.target} ${exchange.authority}`;
  const end = exchange.keepAlive ? 'keep' : 'close';
  if (exchange.framing !== 'chunked') {
    verdicts.push(`${start} ${exchange.framing} ${end}`);
    return;
  }
  let body = '';
  const carrier: Carrier = {
    requestData(chunk) {
      body += chunk.toString('latin1');
      return true;
    },
    requestEnd(trailers: Fields) {
      const names = trailers.names.map((name) => `+${name.lower}`).join('');
      verdicts.push(`${start} chunked:${body}${names} ${end}`);
    },
    downstreamDrained() {},
    downstreamGone() {},
    idle() {},
  };
  exchange.carrier = carrier;
}

for (const { name, bytes, verdict } of vectors) {
  t.test(name, async (t) => {
    const buffer = Buffer.from(bytes, 'latin1');
    t.strictSame(await serve([buffer]), [verdict], 'as one buffer');
    for (let at = 1; at < buffer.length; at++) {
      t.strictSame(await serve([buffer.subarray(0, at), buffer.subarray(at)]), [verdict], `split at byte ${at}`);
    }
    t.strictSame(await serve(Array.from(buffer, (byte) => Buffer.of(byte))), [verdict], 'byte by byte');
  });
}

t.test('a head over the limit is 431, whether or not its end has come', async (t) => {
  const long = `GET / HTTP/1.1\r\nHost: a\r\nX-A: ${'a'.repeat(limits.headBytes)}`;
  t.strictSame(await serve([Buffer.from(long)]), ['head_too_large']);
  t.strictSame(await serve([Buffer.from(`${long}\r\n\r\n`)]), ['head_too_large']);
});

t.test('more fields than the limit are 431', async (t) => {
  const fields = Array.from({ length: limits.headFields }, (_, i) => `X-${i}: 1\r\n`).join('');
  t.strictSame(await serve([Buffer.from(`GET / HTTP/1.1\r\nHost: a\r\n${fields}\r\n`)]), ['head_too_many_fields']);
});
