// Retries: when, where to, how often, and when not; and requests that take too long.

import { createServer as createHttp2Server, constants as http2, type ServerHttp2Stream } from 'node:http2';
import { connect } from 'node:net';
import t from 'tap';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import type { RetryOn, RetryPolicy } from '../../sidecar/exchange/upstream.ts';
import { onPorts, startForwarder, startPool } from '../fixtures/forwarder.ts';
import { type Backend, exchangeBytes, startBackend } from '../fixtures/mesh.ts';
import { freePort, type Owner, until } from '../fixtures/process.ts';

const answer = (status: number, body = 'ok'): string =>
  `HTTP/1.1 ${status} Any\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
const policy = (changes: Partial<RetryPolicy> = {}): RetryPolicy => ({
  ...{ attempts: 2, codes: [], on: [], backoffMs: 1, perTryTimeoutMs: 0, ...changes },
});
const get = (method = 'GET', body = '', fields = ''): string =>
  `${method} / HTTP/1.1\r\nHost: a\r\n${fields}${body === '' ? '' : `Content-Length: ${body.length}\r\n`}Connection: close\r\n\r\n${body}`;

async function ask(port: number, bytes = get()): Promise<string> {
  const got = await exchangeBytes(port, bytes);
  return `${got.split(' ')[1]} ${got.split('\r\n\r\n').at(-1)}`;
}

/** A backend that gives these responses in turn, then the last one repeatedly; an empty one is a reset. */
async function startScripted(t: Owner, ...answers: string[]): Promise<Backend & { heads: string[]; bodies: string[] }> {
  const heads: string[] = [];
  const bodies: string[] = [];
  const used = new Map<number, number>();
  const backend = await startBackend(t, (socket, soFar, connection) => {
    const text = soFar.slice(used.get(connection) ?? 0);
    const end = text.indexOf('\r\n\r\n');
    if (end === -1) return;
    const length = Number(/\r\nContent-Length: (\d+)/i.exec(text)?.[1] ?? 0);
    const chunked = /transfer-encoding: chunked/i.test(text);
    if (chunked ? !text.endsWith('0\r\n\r\n') : text.length < end + 4 + length) return;
    used.set(connection, soFar.length);
    const next = answers[Math.min(heads.length, answers.length - 1)]!;
    heads.push(text.slice(0, end));
    bodies.push(text.slice(end + 4));
    if (next === '') socket.resetAndDestroy();
    else if (next !== 'silence') socket.write(next);
  });
  return Object.assign(backend, { heads, bodies });
}

async function serve(
  t: Owner,
  ports: number[],
  retry: RetryPolicy | undefined,
  timeouts = { requestMs: 0, backendRequestMs: 0 },
) {
  const pool = startPool(t, {
    endpoints: onPorts(...ports),
    traffic: { balance: { by: 'roundRobin' } },
    random: () => 0,
  });
  return { pool, ...(await startForwarder(t, { destination: pool, retry, timeouts })) };
}

interface Case {
  readonly name: string;
  readonly answers: string[];
  readonly retry: RetryPolicy | undefined;
  readonly request?: string;
  readonly expected: string;
  readonly tries: number;
  readonly flag?: string;
}

const cases: Case[] = [
  {
    name: 'a named status',
    answers: [answer(503), answer(200)],
    retry: policy({ codes: [503] }),
    expected: '200 ok',
    tries: 2,
  },
  { name: 'another status', answers: [answer(502)], retry: policy({ codes: [503] }), expected: '502 ok', tries: 1 },
  { name: 'no policy', answers: [answer(503)], retry: undefined, expected: '503 ok', tries: 1 },
  {
    ...{
      name: 'as often as the policy allows: the last response is passed on, without a flag',
      answers: [answer(503, 'no')],
    },
    ...{ retry: policy({ codes: [503] }), expected: '503 no', tries: 3, flag: '-' },
  },
  { name: 'a reset', answers: ['', answer(200)], retry: policy({ on: ['reset'] }), expected: '200 ok', tries: 2 },
  {
    ...{ name: 'resets until the tries are used up', answers: [''], retry: policy({ on: ['reset'] }) },
    ...{ expected: '503 upstream', tries: 3, flag: 'UC,URX' },
  },
  {
    ...{ name: 'POST is not retried after a reset: it may have been processed', answers: ['', answer(200)] },
    ...{ retry: policy({ on: ['reset', '5xx'] }), request: get('POST', 'abc'), tries: 1, flag: 'UC' },
    expected: '503 upstream connect error or disconnect/reset before headers',
  },
  {
    ...{ name: 'POST is retried for a status that the policy names', answers: [answer(503), answer(200)] },
    ...{ retry: policy({ codes: [503] }), request: get('POST', 'abc'), expected: '200 ok', tries: 2 },
  },
  {
    ...{
      name: 'POST is not retried for one that it does not name',
      answers: [answer(503)],
      retry: policy({ on: ['5xx'] }),
    },
    ...{ request: get('POST', 'abc'), expected: '503 ok', tries: 1 },
  },
  {
    ...{ name: 'a response that is not complete yet', retry: policy({ codes: [503] }), expected: '200 ok', tries: 2 },
    answers: ['HTTP/1.1 503 Any\r\nContent-Length: 100\r\n\r\nhalf', answer(200)],
  },
];

for (const { name, answers, retry, request, expected, tries, flag = '-' } of cases) {
  t.test(name, async (t) => {
    const backend = await startScripted(t, ...answers);
    const { port, finished, pool } = await serve(t, [backend.port], retry);
    const got = await ask(port, request);
    t.equal(got.startsWith('503 upstream') ? got.slice(0, expected.length) : got, expected);
    t.equal(backend.heads.length, tries);
    t.equal(finished.length, 1);
    t.equal(finished[0]!.flag, flag);
    const counts = backend.heads.map((head) => /\r\nx-envoy-attempt-count: (\d+)/.exec(head)?.[1]);
    t.same(counts, retry === undefined ? [undefined] : Array.from({ length: tries }, (_, i) => String(i + 1)));
    if (request?.includes('abc')) t.same(backend.bodies, Array(tries).fill('abc'));
    t.equal(pool.takeRetry({ percent: 0, least: 1 }), true, 'the retry was returned to the budget');
  });
}

t.test("a caller's own retry count is ignored", async (t) => {
  const backend = await startScripted(t, answer(200));
  const { port } = await serve(t, [backend.port], policy());
  await ask(port, get('GET', '', 'X-Envoy-Attempt-Count: 7\r\n'));
  t.same(backend.heads[0]!.match(/attempt-count: \d+/gi), ['attempt-count: 1']);
});

t.test('each try goes to another endpoint', async (t) => {
  const backends = await Promise.all(
    [answer(503, 'a'), answer(503, 'b'), answer(200, 'c')].map((one) => startScripted(t, one)),
  );
  const { port } = await serve(
    t,
    backends.map((one) => one.port),
    policy({ codes: [503] }),
  );
  for (let i = 0; i < 5; i++) t.equal(await ask(port), '200 c');
});

t.test('connections that cannot be made are retried', async (t) => {
  const [dead, alive] = [await freePort(), await startScripted(t, answer(200))];
  const { port } = await serve(t, [dead, alive.port], policy());
  t.equal(await ask(port, get('POST', 'abc')), '200 ok', 'the next endpoint, whatever the method');

  const later = await freePort();
  const waits = await serve(t, [later], policy({ attempts: 8, on: ['connect-failure'], backoffMs: 200 }));
  const asked = ask(waits.port, get('POST', 'abc'));
  await until(() => waits.pool.describe().endpoints[0]!.connections === 0 || undefined, 'the first failure');
  const { createServer } = await import('node:net');
  const server = createServer((socket) =>
    socket.on('error', () => {}).on('data', () => socket.write(answer(200, 'late'))),
  );
  await new Promise<void>((resolve) => server.listen(later, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  t.equal(await asked, '200 late', 'retried until an endpoint listens');

  const never = await serve(t, [await freePort()], policy({ on: ['connect-failure'] }));
  t.match(await ask(never.port), /^503 /);
  t.match(never.finished[0], {
    ...{ flag: 'UF,URX', details: 'upstream_reset_before_response_started{connection_failure}' },
    failure: { code: 'upstream_connect', message: /the last of 3 tries/ },
  });
});

t.test('bodies are sent again', async (t) => {
  const start = async (t: Owner) => {
    const backend = await startScripted(t, answer(503), answer(200));
    return { backend, ...(await serve(t, [backend.port], policy({ codes: [503] }))) };
  };
  /** In pieces, so that the body does not arrive with its head. */
  const send = (port: number, head: string, ...pieces: string[]): Promise<string> =>
    new Promise((resolve) => {
      let got = '';
      const socket = connect(port, '127.0.0.1', async () => {
        for (const piece of [head, ...pieces]) {
          socket.write(piece);
          await new Promise((done) => setImmediate(done));
        }
      });
      socket.on('data', (chunk) => (got += chunk.toString('latin1')));
      socket.on('error', () => {});
      socket.on('close', () => resolve(got.split(' ')[1]!));
    });
  const head = 'POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n';
  const before = heldBytes();

  await t.test('a body in pieces is sent again unchanged', async (t) => {
    const { backend, port } = await start(t);
    const pieces = ['a'.repeat(20_000), 'b'.repeat(20_000), 'c'.repeat(20_000)];
    t.equal(await send(port, `${head}Content-Length: 60000\r\n\r\n`, ...pieces), '200');
    t.same(
      backend.bodies.map((body) => body === pieces.join('')),
      [true, true],
    );
  });
  await t.test('a chunked body with trailers', async (t) => {
    const { backend, port } = await start(t);
    t.equal(
      await send(port, `${head}Transfer-Encoding: chunked\r\n\r\n`, '3\r\nabc\r\n', '2\r\nde\r\n', '0\r\n\r\n'),
      '200',
    );
    const whole = (body: string): string =>
      [...body.matchAll(/[0-9a-f]+\r\n([a-z]*)\r\n/g)].map(([, text]) => text).join('');
    t.same(backend.bodies.map(whole), ['abcde', 'abcde']);
  });
  await t.test('a body larger than the buffer is sent once', async (t) => {
    const { backend, port } = await start(t);
    const pieces = Array<string>(4).fill('x'.repeat(30_000));
    t.equal(await send(port, `${head}Content-Length: 120000\r\n\r\n`, ...pieces), '503');
    t.equal(backend.heads.length, 1);
    t.equal(backend.bodies[0]!.length, 120_000);
  });
  t.equal(heldBytes(), before, 'the body is no longer held');
});

t.test('the budget: retries do not multiply the load of a failing upstream', async (t) => {
  const waiting: (() => void)[] = [];
  let asked = 0;
  const backend = await startBackend(t, (socket) => {
    asked++;
    // Each first try fails at once, and each second one holds its retry for as long as the test needs.
    if (asked <= 6) socket.write(answer(503, 'first'));
    else waiting.push(() => socket.write(answer(200, 'again')));
  });
  const { port, pool } = await serve(t, [backend.port], policy({ codes: [503], attempts: 1 }));
  const all = Array.from({ length: 6 }, () => ask(port));
  await until(() => waiting.length === 3, 'three retries, the least that there may be');
  const refused = await Promise.all([
    Promise.race(all),
    until(() => pool.describe().overflows['retries'] === 3, 'three not made'),
  ]);
  t.equal(refused[0], '503 first', 'the last response is passed on');
  for (const one of waiting) one();
  t.same((await Promise.all(all)).toSorted(), [...Array(3).fill('200 again'), ...Array(3).fill('503 first')]);
  t.equal(asked, 9);
  t.ok(pool.takeRetry(undefined));
});

t.test('HTTP/2', async (t) => {
  const start = async (t: Owner, answers: ((stream: ServerHttp2Stream) => void)[], retry: RetryPolicy) => {
    let asked = 0;
    const sessions = new Set<{ destroy(): void }>();
    const server = createHttp2Server();
    server.on('session', (session) => sessions.add(session.on('error', () => {})));
    server.on('stream', (stream) => {
      stream.on('error', () => {});
      answers[Math.min(asked++, answers.length - 1)]!(stream);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.teardown(() => {
      for (const one of sessions) one.destroy();
      server.close();
    });
    const { port } = server.address() as { port: number };
    const pool = startPool(t, { endpoints: onPorts(port), http2: true });
    return { asked: () => asked, ...(await startForwarder(t, { destination: pool, retry })) };
  };
  const say = (status: number) => (stream: ServerHttp2Stream) => {
    stream.respond({ ':status': status });
    stream.end('h2');
  };
  const close = (code: number) => (stream: ServerHttp2Stream) => stream.close(code);
  const table: [string, ((stream: ServerHttp2Stream) => void)[], RetryOn[], string, string, number][] = [
    [
      'a stream that was refused, of a POST',
      [close(http2.NGHTTP2_REFUSED_STREAM), say(200)],
      ['refused-stream'],
      'POST',
      '200',
      2,
    ],
    ['a stream that was reset', [close(http2.NGHTTP2_INTERNAL_ERROR), say(200)], ['reset'], 'GET', '200', 2],
    [
      'a stream that was reset, of a POST',
      [close(http2.NGHTTP2_INTERNAL_ERROR), say(200)],
      ['reset'],
      'POST',
      '503',
      1,
    ],
    ['a status', [say(502), say(200)], ['gateway-error'], 'GET', '200', 2],
  ];
  for (const [name, answers, on, method, expected, tries] of table) {
    await t.test(name, async (t) => {
      const { port, asked } = await start(t, answers, policy({ on }));
      const got = await ask(port, get(method, method === 'POST' ? 'abc' : ''));
      t.equal(got.slice(0, 3), expected);
      t.equal(asked(), tries);
    });
  }
});

t.test('retries have timeouts', async (t) => {
  await t.test('a try without a response: 504 UT', async (t) => {
    const backend = await startScripted(t, 'silence');
    const { port, finished } = await serve(t, [backend.port], policy({ perTryTimeoutMs: 50 }));
    t.match(await ask(port), /^504 /);
    t.match(finished[0], {
      flag: 'UT',
      details: 'upstream_per_try_timeout',
      failure: { code: 'upstream_per_try_timeout' },
    });
    t.equal(backend.heads.length, 1, 'the policy does not name resets');
    await until(() => backend.sockets.size === 0, 'its connection to be closed');
  });
  await t.test('a try without a response, then one with a response', async (t) => {
    const [silent, quick] = [await startScripted(t, 'silence'), await startScripted(t, answer(200))];
    const { port } = await serve(t, [silent.port, quick.port], policy({ perTryTimeoutMs: 50, on: ['reset'] }));
    t.equal(await ask(port), '200 ok');
    t.equal(await ask(port), '200 ok');
    t.equal(quick.heads.length, 2);
  });
  await t.test('the next try goes elsewhere, although the silent endpoint has the least load', async (t) => {
    const [silent, quick] = [await startScripted(t, 'silence'), await startScripted(t, answer(200))];
    const balance = { by: 'leastRequest' } as const;
    const pool = startPool(t, {
      ...{ endpoints: onPorts(silent.port, quick.port), traffic: { balance }, random: () => 0 },
    });
    const retry = policy({ attempts: 1, perTryTimeoutMs: 50, on: ['reset'], backoffMs: 100 });
    const { port } = await startForwarder(t, { destination: pool, retry });
    t.equal(await ask(port), '200 ok');
    t.same([silent.heads.length, quick.heads.length], [1, 1]);
  });
  await t.test('the request with all its tries: 504 UT', async (t) => {
    const backend = await startScripted(t, 'silence');
    const retry = policy({ perTryTimeoutMs: 60, on: ['reset'], attempts: 50 });
    const { port, finished } = await serve(t, [backend.port], retry, { requestMs: 250, backendRequestMs: 0 });
    const began = performance.now();
    t.match(await ask(port), /^504 /);
    t.ok(performance.now() - began > 240);
    t.match(finished[0], {
      flag: 'UT',
      details: 'upstream_response_timeout',
      failure: { code: 'upstream_response_timeout' },
    });
    t.ok(backend.heads.length > 1, `${backend.heads.length} tries`);
  });
  await t.test('a response that does not end in time is cut', async (t) => {
    const begun = 'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf';
    for (const [timeouts, code] of [
      [{ requestMs: 80, backendRequestMs: 0 }, 'upstream_response_timeout'],
      [{ requestMs: 0, backendRequestMs: 80 }, 'upstream_per_try_timeout'],
    ] as const) {
      const backend = await startScripted(t, begun);
      const { port, finished } = await serve(t, [backend.port], undefined, timeouts);
      t.match(await exchangeBytes(port, get()), /\r\n\r\nhalf$/);
      await until(() => finished.length === 1, 'the end');
      t.match(finished[0], { status: 200, flag: 'UT', failure: { code } });
      await until(() => backend.sockets.size === 0, 'the upstream to be let go');
    }
  });
  await t.test('the per-try timeout of the policy ends with the head', async (t) => {
    const backend = await startBackend(t, (socket) => {
      socket.write('HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha');
      setTimeout(() => socket.write('lf'), 200);
    });
    const { port } = await serve(t, [backend.port], policy({ perTryTimeoutMs: 60 }));
    t.equal(await ask(port), '200 half');
  });
  await t.test('a timely response is unaffected', async (t) => {
    const backend = await startScripted(t, answer(200));
    const { port, finished } = await serve(t, [backend.port], policy({ perTryTimeoutMs: 5000 }), {
      ...{ requestMs: 5000, backendRequestMs: 5000 },
    });
    for (let i = 0; i < 3; i++) t.equal(await ask(port), '200 ok');
    t.ok(finished.every(({ flag }) => flag === '-'));
    t.equal(backend.received.length, 1);
  });
});
