// Mirrors as hooks: which requests are copied, to whom, and with what. The mirrors are connections that only note what
// is sent.

import { Registry } from 'prom-client';
import t from 'tap';
import type { EdgeProcess } from '../../../sidecar/edge/capability.ts';
import { mirror } from '../../../sidecar/edge/mirror/capability.ts';
import { Copies } from '../../../sidecar/edge/mirror/mirror.ts';
import type { Exchange, Route } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { type Call, emptyFields } from '../../../sidecar/exchange/message.ts';
import type { UpstreamConnection, UpstreamEvents } from '../../../sidecar/exchange/upstream.ts';
import {
  createCarrier,
  createExchange,
  type Headers,
  headersIn,
  hooksOf,
  phasesOf,
  planOf,
} from '../../fixtures/exchange.ts';

interface Noted {
  readonly call: Call;
  readonly events: UpstreamEvents;
  body: string;
  ended: Headers | undefined;
  destroyed: boolean;
}

/** A backend that takes all, and answers when the test says so. */
function createMirror(name: string, acquire?: () => never) {
  const noted: Noted[] = [];
  const connect = (): UpstreamConnection => {
    let one: Noted;
    return {
      ...{ address: '127.0.0.1:1', reused: false, secure: false, peer: undefined, localAddress: '', waitingBytes: 0 },
      send(call: Call, whole: Buffer | undefined, events: UpstreamEvents) {
        one = { call, events, body: whole?.toString() ?? '', ended: whole && {}, destroyed: false };
        noted.push(one);
      },
      write(chunk: Buffer) {
        one.body += chunk.toString();
        return true;
      },
      end(trailers) {
        one.ended = headersIn(trailers);
      },
      destroy() {
        one.destroyed = true;
      },
      pause() {},
      resume() {},
      takeSocket: () => t.fail('no copy was requested') as never,
    };
  };
  const route = { name, cluster: name, destination: { acquire: acquire ?? connect } } as unknown as Route;
  return { noted, route };
}

/** Hooks of mirrors by name, and what begins with them. */
async function start(plans: readonly object[], routes: Readonly<Record<string, Route>>, draw = () => 0) {
  const shared = new Copies(draw);
  const read = await Promise.all(
    plans.map(async (one) => ['RequestMirror', await planOf(mirror, 'RequestMirror', one)] as const),
  );
  const phases = phasesOf(hooksOf(mirror, read, { shared, routes }));
  const begin = async (known: Partial<Exchange> = {}, headers: Headers = {}) => {
    const { exchange } = createExchange(known, headers);
    for (const one of phases.forwarded) one(exchange, 'cert-of-client');
    await new Promise(setImmediate);
    const finish = (): void => {
      for (const one of phases.finished) one(exchange);
    };
    return { exchange, finish };
  };
  return { shared, phases, begin };
}

const to = (name: string, more: object = {}) => ({ backendRef: { name, port: 80 }, ...more });

const shares: [name: string, plan: object, drawn: number, isCopied: boolean][] = [
  ['all by default', to('a'), 0.999, true],
  ['10 percent: drawn', to('a', { percent: 10 }), 0.099, true],
  ['10 percent: not drawn', to('a', { percent: 10 }), 0.1, false],
  ['no percent', to('a', { percent: 0 }), 0, false],
  ['one of four: sampled', to('a', { fraction: { numerator: 1, denominator: 4 } }), 0.249, true],
  ['one of four: not sampled', to('a', { fraction: { numerator: 1, denominator: 4 } }), 0.25, false],
  ['a fraction with a denominator', to('a', { fraction: { numerator: 5 } }), 0.049, true],
];

for (const [name, plan, drawn, isCopied] of shares)
  t.test(`share: ${name}`, async (t) => {
    const { noted, route } = createMirror('a');
    const { begin } = await start([plan], { a: route }, () => drawn);
    await begin();
    t.equal(noted.length, isCopied ? 1 : 0);
  });

const kinds: [name: string, known: Partial<Exchange>, isCopied: boolean][] = [
  ['a request without a body', { framing: 0 }, true],
  ['a body that came with the head', { method: 'POST', framing: 3, wholeBody: Buffer.from('abc') }, true],
  ['a WebSocket', { webSocket: true }, false],
  ['a tunnel', { method: 'CONNECT' }, false],
  ['a body that has broken off already', { method: 'POST', framing: 3 }, false],
];

for (const [name, known, isCopied] of kinds)
  t.test(`${isCopied ? 'copied' : 'not copied'}: ${name}`, async (t) => {
    const { noted, route } = createMirror('a');
    const { begin } = await start([to('a')], { a: route });
    await begin(known);
    t.equal(noted.length, isCopied ? 1 : 0);
    if (isCopied)
      t.match(noted[0], { call: { method: known.method ?? 'GET' }, body: known.wholeBody?.toString() ?? '' });
  });

t.test('the copy equals the request, except for the transaction token', async (t) => {
  const { noted, route } = createMirror('a');
  const { begin } = await start([to('a')], { a: route });
  const known = { path: '/a?q=1', authority: 'shop.test', requestId: 'id', expectContinue: true };
  await begin(known, { 'x-a': '1', 'txn-token': 'secret', Txn_Token: 'secret' });
  const [{ call }] = noted as [Noted];
  t.match(call, { path: '/a?q=1', authority: 'shop.test', requestId: 'id', clientCert: 'cert-of-client' });
  t.match(call, { expectContinue: false, webSocket: false });
  t.strictSame(headersIn(call.fields), { 'x-a': '1' });
  await begin({ authority: '', requestIdGiven: true });
  t.match(noted[1]!.call, { authority: '127.0.0.1:1', requestId: undefined });
});

t.test('each of several mirrors gets a copy; one that cannot be reached gets none', async (t) => {
  const [a, b] = [createMirror('a'), createMirror('b')];
  const { begin } = await start([to('a'), to('gone'), to('b')], { a: a.route, b: b.route });
  await begin();
  t.strictSame([a.noted.length, b.noted.length], [1, 1]);
  t.equal(hooksOf(mirror, [['RequestMirror', to('gone')]], { shared: new Copies() }), undefined);
  t.equal(hooksOf(mirror, [], { shared: new Copies() }), undefined);
});

/** A request whose body follows. */
async function stream() {
  const made = createMirror('a');
  const { begin, shared } = await start([to('a')], { a: made.route });
  const carrier = createCarrier();
  const { exchange, finish } = await begin({ method: 'POST', framing: 'chunked', carrier });
  return { ...made, shared, carrier, exchange, finish };
}

t.test('a body that arrives later goes to both, with its trailers', async (t) => {
  const { noted, carrier, exchange, shared } = await stream();
  exchange.taken = new Set(['x-gone']);
  exchange.carrier!.requestData(Buffer.from('one'));
  exchange.carrier!.requestData(Buffer.from('two'));
  const trailers = addFields(emptyFields, [
    ['x-sum', '1'],
    ['X_Gone', '2'],
  ]);
  exchange.carrier!.requestEnd(trailers);
  t.strictSame(carrier.told, ['data one', 'data two', 'end']);
  t.match(noted[0], { body: 'onetwo', ended: { 'x-sum': '1' } });
  t.strictSame(
    noted[0]!.ended,
    { 'x-sum': '1' },
    'a field that a step removed from the head does not return in trailers',
  );
  noted[0]!.events.upstreamReply({} as never, Buffer.alloc(0));
  t.strictSame(shared.outcomes, { answered: 1, failed: 0, dropped: 0 });
});

const ends: [name: string, how: (of: Awaited<ReturnType<typeof stream>>) => void, outcome: string][] = [
  ['the mirror responds in pieces', ({ noted }) => noted[0]!.events.upstreamEnd(emptyFields), 'answered'],
  ['the mirror breaks off', ({ noted }) => noted[0]!.events.upstreamFailed(new Error() as never), 'failed'],
  ['the client leaves before its body is complete', ({ exchange }) => exchange.carrier!.downstreamGone(), 'dropped'],
  ['the request is answered before its body is complete', ({ finish }) => finish(), 'dropped'],
  ['the process exits', ({ shared }) => shared.drop(), 'dropped'],
];

for (const [name, how, outcome] of ends)
  t.test(`a copy ends: ${name}`, async (t) => {
    const one = await stream();
    how(one);
    t.equal(one.shared.outcomes[outcome as 'answered'], 1);
    t.equal(one.noted[0]!.destroyed, outcome === 'dropped');
    one.exchange.carrier!.requestData(Buffer.from('late'));
    t.equal(one.noted[0]!.body, '', 'the mirror gets nothing more');
    t.equal(one.carrier.told.at(-1), 'data late', 'the request continues');
  });

t.test('a mirror without a connection buffers 64 KB and then drops its copy; one that refuses fails', async (t) => {
  const before = heldBytes();
  const waiting = createMirror('a', () => new Promise(() => {}) as never);
  const { begin, shared } = await start([to('a')], { a: waiting.route });
  const { exchange } = await begin({ method: 'POST', framing: 'chunked', carrier: createCarrier() });
  exchange.carrier!.requestData(Buffer.alloc(64 * 1024));
  t.equal(heldBytes() - before, 64 * 1024);
  t.equal(shared.outcomes.dropped, 0);
  exchange.carrier!.requestData(Buffer.alloc(1));
  t.strictSame([shared.outcomes.dropped, heldBytes()], [1, before]);
  const refused = createMirror('b', () => {
    throw new Error('refused');
  });
  const other = await start([to('b')], { b: refused.route });
  await other.begin();
  t.strictSame(other.shared.outcomes, { answered: 0, failed: 1, dropped: 0 });
});

t.test('a process counts its copies, and drops them when it exits', async (t) => {
  const registry = new Registry();
  const closing: (() => void)[] = [];
  const onClose = (close: () => void): void => void closing.push(close);
  const shared = (await mirror.share!({ registry, onClose } as EdgeProcess)) as Copies;
  const { route } = createMirror('a');
  const plan = await planOf(mirror, 'RequestMirror', to('a'));
  const { forwarded } = phasesOf(hooksOf(mirror, { RequestMirror: plan }, { shared, routes: { a: route } }));
  forwarded[0]!(createExchange().exchange, undefined);
  for (const close of closing) close();
  t.match(await registry.metrics(), 'sallyport_mirrored_requests_total{outcome="dropped"} 1');
});
