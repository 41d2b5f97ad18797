// A body that is gathered before anything of it goes on: all of it, or nothing.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { gatherBody, wholeBodyOf } from '../../sidecar/edge/gather-body.ts';
import type { Holding } from '../../sidecar/exchange/ends.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { addFields } from '../../sidecar/exchange/fields.ts';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';
import { createCarrier } from '../fixtures/exchange.ts';

const exchangeOf = (): Exchange =>
  ({ expectContinue: false, framing: 'chunked', rules: { limits: { streamIdleMs: 5 } } }) as unknown as Exchange;

t.test('the whole body goes on in one piece', async (t) => {
  const exchange = exchangeOf();
  const before = heldBytes();
  let went = 0;
  const gathered = gatherBody(exchange).then(() => went++);
  for (const piece of ['one', 'two']) exchange.carrier!.requestData(Buffer.from(piece));
  t.same([went, heldBytes() - before], [0, 6]);
  exchange.carrier!.requestEnd(emptyFields);
  await gathered;
  t.same([went, heldBytes() - before, String(exchange.wholeBody), exchange.framing], [1, 0, 'onetwo', 6]);
});

t.test(
  'bytes that arrive after a slow-body refusal are discarded, also while the refusal waits for the log',
  async (t) => {
    const exchange = exchangeOf();
    const before = heldBytes();
    const failed: unknown[] = [];
    const gathered = gatherBody(exchange).then(
      () => t.fail('half a body is not forwarded'),
      (error) => failed.push(error),
    );
    exchange.carrier!.requestData(Buffer.from('one'));
    exchange.carrier!.idle();
    exchange.carrier?.requestData(Buffer.from('two'));
    exchange.carrier?.requestEnd(emptyFields);
    await gathered;
    t.equal(heldBytes(), before);
    t.match(failed, [new SallyportError('stream_idle', 'the body did not arrive within 5 ms (limit streamIdle)')]);
  },
);

t.test('a step that reads more continues where a step that reads less has stopped', async (t) => {
  for (const trailers of [emptyFields, addFields(emptyFields, [['x-sum', '1']])])
    for (const most of [20, 7]) {
      const exchange = exchangeOf();
      const before = heldBytes();
      const told: string[] = [];
      exchange.downstream = {
        pause: () => told.push('pause'),
        resume: () => told.push('resume'),
      } as unknown as Exchange['downstream'];
      const first = gatherBody(exchange, 5);
      const path = exchange.carrier as Holding;
      t.equal(path.requestData(Buffer.from('012345')), false, 'the client waits');
      await first;
      const second = gatherBody(exchange, most);
      t.strictSame(told, ['resume']);
      exchange.carrier!.requestData(Buffer.from('6789'));
      if (most === 20) exchange.carrier!.requestEnd(trailers);
      await second;
      t.equal(wholeBodyOf(exchange)?.toString(), most === 20 ? '0123456789' : undefined);
      const carrier = createCarrier();
      exchange.carrier = carrier;
      path.release();
      const rest =
        most === 7 ? ['data 012345', 'data 6789'] : trailers === emptyFields ? [] : ['data 0123456789', 'end'];
      t.strictSame(carrier.told, rest, "bytes that the head's segment does not carry");
      t.equal(heldBytes(), before);
    }
});
