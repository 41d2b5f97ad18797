// Responses of the proxy's own, and what goes with every response: fields, date, and what a rule adds.

import t from 'tap';
import {
  addReplyFields,
  answerOwn,
  leaving,
  noBody,
  respondOwn,
  withReplyFields,
} from '../../sidecar/exchange/answer.ts';
import { addFields } from '../../sidecar/exchange/fields.ts';
import { emptyFields, type Reply } from '../../sidecar/exchange/message.ts';
import { createExchange, headersIn, phasesOf } from '../fixtures/exchange.ts';

const reply = (headers: Record<string, string> = {}): Reply => ({
  ...{ status: 200, reason: '', hopFields: undefined, framing: 0, declaredLength: undefined },
  fields: addFields(emptyFields, Object.entries(headers)),
});

t.test('a response of our own is not a refusal', async (t) => {
  const { exchange, sent } = createExchange();
  answerOwn(exchange, 301, [['location', '/a']], Buffer.from('moved'));
  t.match(exchange, { status: 301, details: 'direct_response', decision: '-', failure: undefined, responded: true });
  const { date, ...headers } = headersIn(sent.replies[0]!.fields);
  t.strictSame(headers, { location: '/a' });
  t.ok(Math.abs(Date.parse(date!) - Date.now()) < 2000, 'RFC 9110 section 6.6.1');
  t.match(date, /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT$/);
  t.match(sent.replies[0], { status: 301, framing: 5, declaredLength: 5 });
  t.strictSame(sent.bodies, ['moved']);
});

t.test('a response without a body has none', async (t) => {
  const { exchange, sent } = createExchange();
  answerOwn(exchange, 204, []);
  t.match([sent.replies[0], sent.bodies], [{ framing: 0, declaredLength: 0 }, ['']]);
});

t.test('HEAD gets the length of the body and no body', async (t) => {
  const { exchange, sent } = createExchange({ method: 'HEAD' });
  answerOwn(exchange, 200, [], Buffer.from('body'));
  t.match([sent.replies[0], sent.pieces], [{ declaredLength: 4 }, [noBody]]);
});

t.test('fields for every response are added to our own, before the rule changes them', async (t) => {
  const { exchange, sent } = createExchange();
  const seen: (readonly string[])[] = [];
  exchange.phases = phasesOf({
    reply(_, { fields }) {
      seen.push(Object.keys(headersIn(fields)));
      return addFields(fields, [['x-rule', '1']]);
    },
  });
  addReplyFields(exchange, [['x-limit', '9']]);
  respondOwn(exchange, 200, addFields(emptyFields, [['x-own', '1']]), noBody);
  t.strictSame(seen, [['x-own', 'date', 'x-limit']]);
  t.strictSame(Object.keys(headersIn(sent.replies[0]!.fields)), ['x-own', 'date', 'x-limit', 'x-rule']);
});

t.test('a rule changes responses one hook after another; without rules they are the same object', async (t) => {
  const { exchange } = createExchange();
  const plain = reply({ a: '1' });
  t.equal(leaving(exchange, plain), plain);
  const add =
    (name: string) =>
    (_: unknown, { fields }: Reply) =>
      addFields(fields, [[name, Object.keys(headersIn(fields)).join()]]);
  exchange.phases = { ...phasesOf(undefined), reply: [add('b'), add('c')] };
  t.strictSame(headersIn(leaving(exchange, plain).fields), { a: '1', b: 'a', c: 'a,b' });
  t.strictSame(headersIn(plain.fields), { a: '1' }, 'the original response is not changed');
});

t.test('fields for every response are added', async (t) => {
  const { exchange } = createExchange();
  const plain = reply({ a: '1' });
  addReplyFields(exchange, []);
  t.equal(exchange.replyFields, undefined);
  t.equal(withReplyFields(exchange, plain), plain);
  addReplyFields(exchange, [['b', '2']]);
  addReplyFields(exchange, [['b', '3']]);
  t.strictSame(
    headersIn(withReplyFields(exchange, plain).fields),
    { a: '1', b: '2, 3' },
    'in the order in which they were added',
  );
  t.strictSame(headersIn(plain.fields), { a: '1' });
});
