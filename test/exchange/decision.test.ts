// What the record says about an exchange's end: the decision, the flag and the details, and which of several stands.

import t from 'tap';
import { SallyportError } from '../../cert-agent/base/errors.ts';
import { allow, deny, end, endByClient, fail } from '../../sidecar/exchange/decision.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { createExchange } from '../fixtures/exchange.ts';

const body = Buffer.from('no');
const denial = { status: 403, fields: { names: [], values: [] }, body };
const refused = new SallyportError('policy_denied', 'shop/deny refuses it');
const late = new SallyportError('tcp_idle', 'no byte moved for 1 ms (limit tcpIdle)');

const rows: readonly (readonly [why: string, steps: (exchange: Exchange) => unknown, record: object])[] = [
  ['nothing has happened', () => {}, { decision: '-', policy: '-', flag: '-', details: '-' }],
  ['a policy allows it', (one) => allow(one, 'shop/a'), { decision: 'allow', policy: 'shop/a', details: '-' }],
  [
    'a refusal has the details of its error',
    (one) => deny(one, late),
    { decision: 'deny', policy: '-', flag: '-', details: 'tcp_idle_timeout', denial: undefined },
  ],
  [
    'or those of the step, with its policy and response',
    (one) => deny(one, refused, { policy: 'shop/b', details: 'x{y}', denial }),
    { decision: 'deny', policy: 'shop/b', details: 'x{y}', denial },
  ],
  ['an end that is no refusal', (one) => end(one, 'draining'), { decision: '-', flag: '-', details: 'draining' }],
  ['the client left', (one) => endByClient(one, 'gone'), { flag: 'DC', details: 'gone', failure: undefined }],
  ['in the middle of a response', (one) => [end(one, 'via_upstream'), endByClient(one, 'gone')], { details: 'gone' }],
  [
    'after a redirect',
    (one) => [end(one, 'direct_response'), endByClient(one, 'gone')],
    { details: 'direct_response' },
  ],
  [
    'after an error',
    (one) => [fail(one, late), endByClient(one, 'gone')],
    { flag: late.row.flag, details: 'tcp_idle_timeout', failure: late },
  ],
  [
    "with a decision's own details",
    (one) => [deny(one, refused, { details: 'x{y}' }), fail(one, refused, one.details)],
    { decision: 'deny', flag: refused.row.flag, details: 'x{y}', failure: refused },
  ],
];

for (const [why, steps, record] of rows)
  t.test(why, async (t) => {
    const { exchange } = createExchange();
    steps(exchange);
    t.match(exchange, record);
  });

t.test('a refusal is returned, to be thrown', async (t) => {
  t.equal(deny(createExchange().exchange, refused), refused);
});
