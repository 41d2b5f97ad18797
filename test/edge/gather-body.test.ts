// A body that is gathered before anything of it goes on: all of it, or nothing.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { gatherBody } from '../../sidecar/edge/gather-body.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { heldBytes } from '../../sidecar/exchange/held-bytes.ts';
import { emptyFields } from '../../sidecar/exchange/message.ts';

const exchangeOf = (): Exchange =>
  ({ expectContinue: false, framing: 'chunked', rules: { limits: { streamIdleMs: 5 } } }) as unknown as Exchange;

t.test('all of it goes on as one', async (t) => {
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
  'what comes after a client was too slow is not the body, also while the refusal waits for the log',
  async (t) => {
    const exchange = exchangeOf();
    const before = heldBytes();
    const failed: unknown[] = [];
    const gathered = gatherBody(exchange).then(
      () => t.fail('half a body goes nowhere'),
      (error) => failed.push(error),
    );
    exchange.carrier!.requestData(Buffer.from('one'));
    exchange.carrier!.idle();
    exchange.carrier?.requestData(Buffer.from('two'));
    exchange.carrier?.requestEnd(emptyFields);
    await gathered;
    t.equal(heldBytes(), before);
    t.match(failed, [new SallyportError('stream_idle', 'the body did not arrive within 5 ms (limit streamIdleMs)')]);
  },
);
