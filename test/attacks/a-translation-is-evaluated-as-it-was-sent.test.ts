// gRPC-Web and JSON become gRPC only behind every decision: what a policy evaluates is what the client sent, and no form
// of a request is a way around validation, around its binding, or to the end of a call that was cut.

import { fromBinary, toJson } from '@bufbuild/protobuf';
import t from 'tap';
import { authorization } from '../../sidecar/edge/authorization/capability.ts';
import { capabilities } from '../../sidecar/edge/capabilities.ts';
import { grpcJson } from '../../sidecar/edge/grpc-json/capability.ts';
import { grpcWeb } from '../../sidecar/edge/grpc-web/capability.ts';
import { mirror } from '../../sidecar/edge/mirror/capability.ts';
import { layOut } from '../../sidecar/edge/phases.ts';
import { validation } from '../../sidecar/edge/validation/capability.ts';
import { headerOf } from '../../sidecar/exchange/facts.ts';
import { parseIp } from '../../sidecar/policy/ip.ts';
import { framed } from '../../sidecar/protocol/grpc.ts';
import { refuse } from '../../sidecar/respond.ts';
import { base64Of, registry } from '../fixtures/descriptor-set.ts';
import { createExchange, hooksOf, planOf, serve } from '../fixtures/exchange.ts';

const json = hooksOf(
  grpcJson,
  {
    GRPCJSONTranscoding: await planOf(grpcJson, 'GRPCJSONTranscoding', {
      ...{ protoDescriptorBin: base64Of(), services: ['shop.v1.Orders'], autoMapping: true },
    }),
  },
  { shared: { refuse } },
)!;
const web = hooksOf(grpcWeb, { GRPCWeb: {} }, { shared: { refuse } })!;
const schema = { type: 'object', required: ['sku'], properties: { sku: { type: 'string' } } };
const validated = hooksOf(
  validation,
  { RequestValidation: await planOf(validation, 'RequestValidation', { schema }) },
  { shared: undefined },
)!;

const Query = registry.getMessage('shop.v1.Query')!;

t.test('policies see the request as the client sent it', async (t) => {
  const seen: unknown[] = [];
  const looking = {
    ...json,
    authorize: ({ method, path, fields }: Parameters<NonNullable<typeof json.authorize>>[0]) =>
      void seen.push([method, path, fields.names.length]),
  };
  await serve(looking, { known: { method: 'GET', path: '/v1/orders/5?full=true' } });
  t.strictSame(seen, [['GET', '/v1/orders/5?full=true', 0]]);
  const types: unknown[] = [];
  await serve(
    { ...web, authorize: (exchange) => void types.push(headerOf(exchange, 'content-type')) },
    { known: { method: 'POST', path: '/a.B/C' }, headers: { 'content-type': 'application/grpc-web' } },
  );
  t.strictSame(types, ['application/grpc-web']);
});

t.test('a Deny rule for a gRPC method also denies its JSON form', async (t) => {
  const principal = { clientCIDRs: ['192.0.2.0/24'] };
  const plan = (action: string, paths?: readonly string[], methods?: readonly string[]): unknown => ({
    defaultAction: action === 'Deny' ? 'Allow' : 'Deny',
    rules: [{ name: 'r', action, operation: { paths, methods }, principal }],
  });
  const rows: readonly (readonly [written: unknown, method: string, path: string, outcome: string])[] = [
    [plan('Deny', ['/shop.v1.Orders/Get']), 'GET', '/v1/orders/5', 'policy_denied'],
    [plan('Deny', ['/shop.v1.Orders/Get']), 'HEAD', '/v1/shops/a/orders/b', 'policy_denied'],
    [plan('Deny', ['/shop.v1.Orders/Get'], ['POST']), 'GET', '/v1/orders/5', 'policy_denied'],
    [plan('Deny', ['/shop.v1.Orders/Get'], ['GET']), 'GET', '/v1/orders/5', 'passed'],
    [plan('Deny', ['/shop.v1.Orders/Get']), 'GET', '/v1/orders', 'passed'],
    [plan('Deny', ['/v1/orders/5']), 'GET', '/v1/orders/5', 'policy_denied'],
    [plan('Deny', undefined, ['POST']), 'GET', '/v1/orders/5', 'passed'],
    [plan('Allow', ['/shop.v1.Orders/Get']), 'GET', '/v1/orders/5', 'policy_denied'],
  ];
  for (const [written, method, path, outcome] of rows) {
    const guard = hooksOf(authorization, {
      authorization: await planOf(authorization, 'authorization', written),
    });
    const { client, backend } = await serve(
      { ...json, authorize: guard.authorize! },
      { known: { method, path }, connection: { remoteIp: parseIp('192.0.2.1')! } },
    );
    t.equal(backend === undefined ? client.code : 'passed', outcome, `${method} ${path} ${JSON.stringify(written)}`);
  }
});

t.test('no part of a path or query sets a field that another part has set, or selects another method', async (t) => {
  const rows: readonly (readonly [line: string, outcome: unknown])[] = [
    ['GET /v1/orders/5?id=6', 'request_invalid'],
    ['GET /v1/orders/5?%69d=6', 'request_invalid'],
    ['GET /v1/orders/5%2Fsku', 'request_invalid'],
    ['GET /v1/orders/5%3Acancel', 'request_invalid'],
    ['GET /v1/orders/5:cancel', 'operation_method_unknown'],
    ['GET /shop.v1.Orders/Plain', 'operation_method_unknown'],
    ['POST /shop.v1.Orders/Cancel', 'operation_unknown'],
    ['POST /shop.v1.Orders%2FPlain', 'operation_unknown'],
    ['GET /v1/shops/a/orders/..%2F..', { name: 'shops/a/orders/..%2F..' }],
  ];
  for (const [line, outcome] of rows) {
    const [method, path] = line.split(' ') as [string, string];
    const { exchange, backend, client } = await serve(json, { known: { method, path } });
    if (typeof outcome === 'string') {
      t.equal(client.code, outcome, line);
      t.equal(backend, undefined, line);
    } else t.strictSame(toJson(Query, fromBinary(Query, exchange.wholeBody!.subarray(5))), outcome, line);
  }
});

t.test('JSON that a page can send without a preflight is refused', async (t) => {
  for (const type of ['text/plain', 'application/x-www-form-urlencoded', 'multipart/form-data', 'text/plain; json']) {
    const { client } = await serve(json, {
      known: { method: 'POST', path: '/v1/orders', framing: 2, wholeBody: Buffer.from('{}') },
      headers: { 'content-type': type },
    });
    t.equal(client.code, 'content_type_unsupported', type);
  }
});

t.test('validation runs before transcoding, and no form of gRPC avoids it', async (t) => {
  const order = (name: string): number => capabilities.findIndex((one) => one.name === name);
  t.ok(order('grpc-web') < order('validation'), 'the request is gRPC when validation sees it');
  t.ok(order('validation') < order('grpc-json'));
  t.ok(order(mirror.name) < order('grpc-web'), 'the mirror gets what the backend gets');
  const phases = layOut(
    [
      ['grpc-web', web],
      ['validation', validated],
      ['grpc-json', json],
    ],
    () => undefined,
  );
  const outcomeOf = async (type: string, body: Buffer): Promise<string> => {
    const known = { method: 'POST', path: '/v1/orders', framing: body.length, wholeBody: body };
    const { exchange, connection } = createExchange(known, { 'content-type': type });
    exchange.grpc = type === 'application/grpc';
    exchange.phases = phases;
    try {
      for (const step of [...phases.before, ...phases.serve]) await step(exchange, connection);
      return 'passed';
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  t.equal(await outcomeOf('application/json', Buffer.from('{"sku":"a"}')), 'passed');
  t.equal(await outcomeOf('application/json', Buffer.from('{"id":1}')), 'request_invalid');
  for (const type of [
    'application/grpc',
    'application/grpc-web',
    'application/grpc-web-text',
    'Application/GRPC-Web+proto',
  ])
    t.equal(await outcomeOf(type, framed(Buffer.from('x'))), 'content_type_unsupported', type);
});
