// gRPC-Web as hooks: what the backend gets of a call, what the client gets of a response, and what is refused.

import t from 'tap';
import { SallyportError } from '../../../cert-agent/base/errors.ts';
import { grpcWeb } from '../../../sidecar/edge/grpc-web/capability.ts';
import { addFields } from '../../../sidecar/exchange/fields.ts';
import { emptyFields } from '../../../sidecar/exchange/message.ts';
import { framed } from '../../../sidecar/protocol/grpc.ts';
import { refuse } from '../../../sidecar/respond.ts';
import {
  type Answered,
  createCarrier,
  createExchange,
  headersIn,
  hooksOf,
  phasesOf,
  planOf,
  respondWith,
  serve,
} from '../../fixtures/exchange.ts';

const plan = { GRPCWeb: await planOf(grpcWeb, 'GRPCWeb', {}) };
const hooks = hooksOf(grpcWeb, plan, { shared: { refuse } });

const post = { method: 'POST', path: '/shop.Orders/Get' };
const message = framed(Buffer.from('hello'));
const frame = (text: string): Buffer => {
  const head = Buffer.from([0x80, 0, 0, 0, 0]);
  head.writeUInt32BE(text.length, 1);
  return Buffer.concat([head, Buffer.from(text)]);
};

t.test('which requests are gRPC-Web, and what the backend gets', async (t) => {
  const rows: readonly (readonly [type: string | undefined, accept: string | undefined, sent: string, got: string])[] =
    [
      ['application/grpc-web', undefined, 'application/grpc', 'application/grpc-web+proto'],
      ['application/grpc-web+proto', undefined, 'application/grpc+proto', 'application/grpc-web+proto'],
      ['Application/gRPC-Web+JSON; x=1', undefined, 'application/grpc+json', 'application/grpc-web+proto'],
      ['application/grpc-web-text', undefined, 'application/grpc', 'application/grpc-web-text+proto'],
      ['application/grpc-web-text+proto', 'x/y', 'application/grpc+proto', 'application/grpc-web-text+proto'],
      ['application/grpc-web', 'application/grpc-web-text', 'application/grpc', 'application/grpc-web-text+proto'],
      ['application/grpc-web-text', 'application/grpc-web', 'application/grpc', 'application/grpc-web+proto'],
      ['application/grpc-webx', undefined, 'application/grpc-webx', 'application/grpc'],
      ['application/grpc', undefined, 'application/grpc', 'application/grpc'],
      ['application/json', undefined, 'application/json', 'application/grpc'],
      [undefined, undefined, 'undefined', 'application/grpc'],
    ];
  for (const [type, accept, sent, got] of rows) {
    const headers = { ...(type && { 'content-type': type }), ...(accept && { accept }) };
    const { backend, client } = await serve(
      hooks,
      { known: post, headers },
      { headers: { 'content-type': 'application/grpc', 'grpc-status': '0' }, body: '' },
    );
    t.equal(`${backend!.headers['content-type']}`, sent, `${type} accept ${accept}`);
    t.equal(client.headers['content-type'], got, `${type} accept ${accept}`);
    t.equal(backend!.headers['te'], sent === type || type === undefined ? undefined : 'trailers');
  }
  const { backend } = await serve(hooks, {
    known: { method: 'GET' },
    headers: { 'content-type': 'application/grpc-web' },
  });
  t.equal(backend!.headers['content-type'], 'application/grpc-web', 'a GET is not a call');
});

const call = (type = 'application/grpc-web') => {
  const { exchange, connection, sent } = createExchange({ ...post, framing: 'chunked' }, { 'content-type': type });
  const phases = phasesOf(hooks);
  exchange.phases = phases;
  for (const step of phases.before) void step(exchange, connection);
  for (const change of phases.rewrite) change(exchange);
  const carrier = createCarrier();
  exchange.carrier = carrier;
  for (const follow of phases.forwarded) follow(exchange, undefined);
  return { exchange, sent, told: carrier.told };
};

t.test('a base64 body is read in any pieces', async (t) => {
  // Each message with a padding of its own, as a client may write it.
  const text = framed(Buffer.from('hello')).toString('base64') + framed(Buffer.from('x')).toString('base64');
  const whole = Buffer.concat([message, framed(Buffer.from('x'))]).toString();
  for (let size = 1; size <= text.length; size++) {
    const { exchange, told } = call('application/grpc-web-text');
    for (let at = 0; at < text.length; at += size)
      exchange.carrier!.requestData(Buffer.from(text.slice(at, at + size)));
    exchange.carrier!.requestEnd(emptyFields);
    t.equal(told.map((one) => one.replace(/^data /, '')).join(''), `${whole}end`, `${size} at once`);
  }
  const { backend, exchange } = await serve(hooks, {
    known: { ...post, framing: text.length, wholeBody: Buffer.from(text) },
    headers: { 'content-type': 'application/grpc-web-text' },
  });
  t.ok(backend);
  t.equal(exchange.wholeBody?.toString(), whole);
  t.equal(exchange.framing, whole.length);
});

t.test('bad bodies are refused, and never end as complete requests at the backend', async (t) => {
  const rows: readonly (readonly [why: string, type: string, body: Buffer | string, message: string])[] = [
    ['a cut message', '', message.subarray(0, 7), 'the body ends within a message'],
    ['a cut prefix', '', Buffer.from([0, 0, 0]), 'the body ends within a message'],
    ['a false length', '', Buffer.from([0, 255, 255, 255, 255, 1]), 'the body ends within a message'],
    ['trailers in a request', '', frame('a: b\r\n'), 'a message of the body has an unknown flag'],
    ['an unknown flag', '', Buffer.from([2, 0, 0, 0, 0]), 'a message of the body has an unknown flag'],
    ['no base64', '-text', 'AAAA*AAA', 'the body is not base64'],
    ['base64 for URLs', '-text', 'AAAA-_AA', 'the body is not base64'],
    ['a line break', '-text', 'AAAA\r\nAA', 'the body is not base64'],
    ['padding alone', '-text', '====', 'the body is not base64'],
    ['padding at the front', '-text', '=AAA', 'the body is not base64'],
    ['a cut group', '-text', message.toString('base64').slice(0, -1), 'the base64 of the body is truncated'],
    ['a cut message in base64', '-text', message.subarray(0, 9).toString('base64'), 'the body ends within a message'],
  ];
  for (const [why, form, body, words] of rows) {
    const type = `application/grpc-web${form}`;
    const bytes = Buffer.from(body as string);
    const { exchange, sent, told } = call(type);
    exchange.carrier!.requestData(bytes);
    exchange.carrier?.requestEnd(emptyFields);
    t.equal(exchange.failure?.code, 'grpc_web_malformed', why);
    t.equal(exchange.failure?.message, words, why);
    t.equal(told.at(-1), 'gone', `${why}: cancelled`);
    t.notOk(told.includes('end'), why);
    t.equal(sent.replies[0]?.status, 200, why);
    const whole = await serve(hooks, {
      known: { ...post, framing: bytes.length, wholeBody: bytes },
      headers: { 'content-type': type },
    });
    t.equal(whole.client.code, 'grpc_web_malformed', `${why}, at once`);
    const said = form === '' ? whole.client.body : Buffer.from(whole.client.body, 'base64').toString();
    t.match(said, /grpc-status: 3\r\ngrpc-message: bad request\r\n$/, why);
  }
});

const grpc = (more: Answered = {}): Answered => ({
  framing: 'chunked',
  ...more,
  headers: { 'content-type': 'application/grpc', ...more.headers },
});
const trailersOf = (fields: Record<string, string>) => addFields(emptyFields, Object.entries(fields));

t.test('trailers are the last frame', async (t) => {
  const { exchange, sent } = call();
  respondWith(exchange, grpc({ headers: { 'x-own': '1' } }));
  t.equal(sent.replies.length, 1, 'the head does not wait');
  exchange.downstream.write(message);
  t.equal(sent.pieces.length, 1, 'a message does not wait either');
  exchange.downstream.end(trailersOf({ 'Grpc-Status': '0', 'x-trailer': 'there' }));
  t.same(Buffer.concat(sent.pieces), Buffer.concat([message, frame('grpc-status: 0\r\nx-trailer: there\r\n')]));
  t.same(sent.trailers, emptyFields);
  t.match(headersIn(sent.replies[0]!.fields), { 'content-type': 'application/grpc-web+proto', 'x-own': '1' });
});

t.test('text: each piece is sent on at once, padded', async (t) => {
  const { exchange, sent } = call('application/grpc-web-text');
  respondWith(exchange, grpc());
  for (const byte of message) exchange.downstream.write(Buffer.from([byte]));
  t.equal(sent.pieces.length, message.length);
  exchange.downstream.end(trailersOf({ 'grpc-status': '0' }));
  t.ok(sent.pieces.every((one) => one.length % 4 === 0));
  const read = Buffer.concat(sent.pieces.map((one) => Buffer.from(one.toString(), 'base64')));
  t.same(read, Buffer.concat([message, frame('grpc-status: 0\r\n')]));
});

t.test('a response without messages, or without a status, ends with a trailer frame as well', async (t) => {
  const only = await serve(
    hooks,
    { known: post, headers: { 'content-type': 'application/grpc-web' } },
    {
      headers: { 'content-type': 'application/grpc', 'grpc-status': '5', 'grpc-message': 'no%20order', 'x-own': '1' },
      body: '',
    },
  );
  t.equal(only.client.body, frame('grpc-status: 5\r\ngrpc-message: no%20order\r\n').toString());
  t.strictSame(only.client.headers, { 'x-own': '1', 'content-type': 'application/grpc-web+proto' });
  const { exchange, sent } = call();
  respondWith(exchange, grpc());
  exchange.downstream.end(emptyFields);
  t.equal(
    Buffer.concat(sent.pieces).toString(),
    frame('grpc-status: 2\r\ngrpc-message: the response has no grpc-status\r\n').toString(),
  );
  t.equal(exchange.grpcStatus, 2);
});

t.test('a truncated response never looks complete', async (t) => {
  const { exchange, sent } = call();
  respondWith(exchange, grpc());
  exchange.downstream.write(message.subarray(0, 8));
  exchange.downstream.end(trailersOf({ 'grpc-status': '0' }));
  t.ok(sent.aborted);
  t.equal(sent.trailers, undefined);
  t.equal(exchange.failure?.code, 'upstream_answer_malformed');
});

t.test('refusals of the gateway are gRPC-Web responses', async (t) => {
  const { exchange, sent } = call('application/grpc-web-text');
  refuse(exchange, new SallyportError('policy_denied', 'not for you'));
  t.match(headersIn(sent.replies[0]!.fields), { 'content-type': 'application/grpc-web-text+proto' });
  t.equal(
    Buffer.from(sent.bodies[0]!, 'base64').toString(),
    frame('grpc-status: 7\r\ngrpc-message: RBAC: access denied\r\n').toString(),
  );
});

t.test('other requests pass unchanged', async (t) => {
  const { client } = await serve(
    hooks,
    { known: post, headers: { 'content-type': 'application/grpc-web' } },
    { status: 503, headers: { 'content-type': 'text/plain' }, body: 'later' },
  );
  t.match(client, { status: 503, headers: { 'content-type': 'text/plain' }, body: 'later' });
});
