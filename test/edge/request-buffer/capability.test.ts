// The request buffer as hooks: what is refused at its head, what waits for its body, and what passes as it comes.

import t from 'tap';
import { requestBuffer } from '../../../sidecar/edge/request-buffer/capability.ts';
import type { Holding } from '../../../sidecar/exchange/ends.ts';
import type { Exchange } from '../../../sidecar/exchange/exchange.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { createCarrier, createExchange, hooksOf, outcomeOf, phasesOf, planOf } from '../../fixtures/exchange.ts';

const plan = await planOf(requestBuffer, 'requestBuffer', { limit: '1Ki' });
const { before, serve } = phasesOf(hooksOf(requestBuffer, { requestBuffer: plan }));

const heads: [name: string, known: Partial<Exchange>, outcome: string, limit: number][] = [
  ['no body', {}, 'passed', 1024],
  ['a body that just fits', { framing: 1024 }, 'passed', 1024],
  ['a body that is one byte too long', { framing: 1025 }, 'body_too_large', 1024],
  ['a body of unknown length: the codec counts it', { framing: 'chunked' }, 'passed', 1024],
  ['a lower limit of the port stays', { framing: 513, bodyLimit: 512 }, 'body_too_large', 512],
  ['a higher limit of the port does not count', { framing: 2000, bodyLimit: 4096 }, 'body_too_large', 1024],
];

for (const [name, known, outcome, limit] of heads)
  t.test(`head: ${name}`, async (t) => {
    const { exchange, connection } = createExchange(known);
    t.equal(await outcomeOf(() => before[0]!(exchange, connection)), outcome);
    t.equal(exchange.bodyLimit, limit);
  });

const waits: [name: string, known: Partial<Exchange>, isAwaited: boolean][] = [
  ['a body with a length', { framing: 3 }, true],
  ['a body in chunks', { framing: 'chunked' }, true],
  ['no body', { framing: 0 }, false],
  ['a body that came with the head', { framing: 3, wholeBody: Buffer.from('abc') }, false],
  ['a stream of messages', { framing: 'chunked', grpc: true }, false],
  ['a WebSocket', { framing: 'chunked', webSocket: true }, false],
  ['a tunnel', { framing: 'chunked', method: 'CONNECT' }, false],
];

for (const [name, known, isAwaited] of waits)
  t.test(`${isAwaited ? 'waits' : 'passes'}: ${name}`, async (t) => {
    const { exchange, connection } = createExchange({ method: 'POST', ...known });
    const step = serve[0]!(exchange, connection);
    t.equal(step instanceof Promise, isAwaited);
    if (!isAwaited) return t.equal(exchange.carrier, undefined);
    exchange.carrier!.requestData(Buffer.from('abc'));
    exchange.carrier!.requestEnd(emptyFields);
    await step;
    t.match(exchange, { framing: 3, wholeBody: Buffer.from('abc'), carrier: undefined });
  });

/** A request whose body is being gathered. */
function gather(known: Partial<Exchange> = {}) {
  const { exchange, connection, sent } = createExchange({ method: 'POST', framing: 'chunked', ...known });
  const step = serve[0]!(exchange, connection) as Promise<void>;
  return { exchange, sent, step, holding: exchange.carrier as Holding };
}

t.test('a body that turns out to be empty is no body', async (t) => {
  const { exchange, step, holding } = gather();
  holding.requestEnd(emptyFields);
  await step;
  t.match(exchange, { framing: 0, wholeBody: undefined });
});

t.test('trailers are kept: the body stays chunked, and is forwarded in one piece', async (t) => {
  const before = heldBytes();
  const { exchange, step, holding } = gather();
  for (const piece of ['one', 'two']) holding.requestData(Buffer.from(piece));
  t.equal(holding.waitingBytes, 6);
  holding.requestEnd(addFields(emptyFields, [['x-sum', '1']]));
  await step;
  t.match(exchange, { framing: 'chunked', wholeBody: undefined });
  const carrier = createCarrier();
  exchange.carrier = carrier;
  holding.release();
  t.strictSame([carrier.told, heldBytes()], [['data onetwo', 'end'], before]);
});

t.test('a client that sends Expect: 100-continue gets one 100 from the gateway', async (t) => {
  const { exchange, sent, holding, step } = gather({ expectContinue: true });
  t.strictSame(
    sent.interim.map(({ status }) => status),
    [100],
  );
  t.equal(exchange.expectContinue, false, 'the app does not get it');
  holding.requestEnd(emptyFields);
  await step;
});

t.test('a client that leaves does not leave anything behind', async (t) => {
  const before = heldBytes();
  const { holding } = gather();
  holding.requestData(Buffer.alloc(500));
  t.equal(heldBytes() - before, 500);
  holding.downstreamGone();
  t.equal(heldBytes(), before);
});

t.test('without a plan there are no hooks', async (t) => {
  t.equal(hooksOf(requestBuffer, {}), undefined);
});
