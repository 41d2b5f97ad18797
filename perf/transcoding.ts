// The cost of translations: one message of 1 KB from JSON and back (goal: 60 us), and gRPC-Web beside plain gRPC through
// a gateway (goal: within 10 %).
//
//   npm run perf:transcoding

import { type ClientHttp2Session, connect } from 'node:http2';
import { grpcJson } from '../sidecar/edge/grpc-json/capability.ts';
import type { GrpcJsonPlan } from '../sidecar/edge/grpc-json/schema.ts';
import { Transcoder } from '../sidecar/edge/grpc-json/transcoder.ts';
import { grpcWeb } from '../sidecar/edge/grpc-web/capability.ts';
import type { Phases } from '../sidecar/exchange/exchange.ts';
import { addFields } from '../sidecar/exchange/fields.ts';
import { emptyFields } from '../sidecar/exchange/message.ts';
import { framed } from '../sidecar/protocol/grpc.ts';
import { refuse } from '../sidecar/respond.ts';
import { base64Of } from '../test/fixtures/descriptor-set.ts';
import { createExchange, hooksOf, phasesOf, planOf } from '../test/fixtures/exchange.ts';
import { startTestGateway } from '../test/fixtures/gateway.ts';
import { startGrpcApp } from '../test/fixtures/grpc.ts';
import { documentOf, webGateway } from '../test/fixtures/plan.ts';
import type { Owner } from '../test/fixtures/process.ts';

const json = JSON.stringify({
  ...{ id: '9007199254740993', sku: 'ABC-12345', quantity: 7, state: 'OPEN', created: '2026-11-30T08:00:00Z' },
  tags: Array.from({ length: 20 }, (_, i) => `tag ${i} of this order`),
  parentOrder: { id: '5', extra: { a: [1, 2, 3], b: { c: 'd' } }, counts: { x: '1', y: '2' } },
  ...{ limit: '100', ttl: '3600s', urgent: true, price: 19.99, note: 'x'.repeat(250) },
});
const written = { protoDescriptorBin: base64Of(), services: ['shop.v1.Orders'] };
const transcoder = new Transcoder((await planOf(grpcJson, 'GRPCJSONTranscoding', written)) as GrpcJsonPlan);
const body = Buffer.from(json);

/** Microseconds each, the best of many short runs: other work on the machine is in the long ones. */
function best(work: () => unknown, rounds = 200): number {
  let found = Number.POSITIVE_INFINITY;
  for (let turn = 0; turn < 150; turn++) {
    const started = performance.now();
    for (let i = 0; i < rounds; i++) work();
    found = Math.min(found, ((performance.now() - started) * 1000) / rounds);
  }
  return found;
}

function encode(): Buffer {
  const match = transcoder.find('POST', '/v1/orders');
  if (match === undefined || !('binding' in match)) throw new Error('no binding');
  return transcoder.encode(match, '', body);
}
const found = transcoder.find('POST', '/v1/orders');
if (found === undefined || !('binding' in found)) throw new Error('no binding');
const { binding } = found;
const message = encode().subarray(5);
const [there, back] = [best(encode), best(() => transcoder.decode(binding, message))];
console.log(`| ${body.length} bytes of JSON, ${message.length} of protobuf | us |\n|---|---|`);
console.log(`| found, read, and written as a message | ${there.toPrecision(3)} |`);
console.log(`| the message as JSON | ${back.toPrecision(3)} |`);
console.log(`| both (goal: 60) | ${(there + back).toPrecision(3)} |\n`);

const web = phasesOf(hooksOf(grpcWeb, { GRPCWeb: {} }, { shared: { refuse } }));
const none = phasesOf(undefined);
const reply = addFields(emptyFields, [['content-type', 'application/grpc']]);
const trailers = addFields(emptyFields, [['grpc-status', '0']]);
const once = framed(Buffer.alloc(1024, 'x'));

/** One call through the hooks alone. */
function pass(phases: Phases): void {
  const { exchange, connection } = createExchange(
    { method: 'POST', path: '/shop.Orders/Get', framing: once.length, wholeBody: once },
    { 'content-type': 'application/grpc-web', te: 'trailers' },
  );
  for (const step of phases.before) void step(exchange, connection);
  for (const change of phases.rewrite) change(exchange);
  for (const follow of phases.forwarded) follow(exchange, undefined);
  const { downstream } = exchange;
  downstream.respond(
    { status: 200, reason: '', fields: reply, hopFields: undefined, framing: 'chunked', declaredLength: undefined },
    undefined,
  );
  downstream.write(once);
  downstream.end(trailers);
}
const added = best(() => pass(web)) - best(() => pass(none));
console.log(`gRPC-Web adds ${added.toPrecision(2)} us to a call, in the gateway alone\n`);

const ends: (() => unknown)[] = [];
const owner: Owner = { teardown: (end: () => unknown) => void ends.unshift(end) } as Owner;
const app = await startGrpcApp(owner);
const gateway = await startTestGateway(owner, {
  listeners: ['shop/g:80'],
  yaml: `upstreams: { a: { endpoints: ["127.0.0.1:${app.port}"] } }\nbackends: { shop/a:80: a }\n`,
  documents: `${webGateway}${documentOf('GRPCRoute', 'calls', '{ parentRefs: [{ name: g }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }')}---\napiVersion: sallyport.dev/v1alpha1\nkind: GRPCWeb\nmetadata: { name: web, namespace: shop }\nspec: { targetRefs: [{ group: gateway.networking.k8s.io, kind: GRPCRoute, name: calls }] }\n`,
});
const session = connect(`http://127.0.0.1:${gateway.port('shop/g:80')}`);
const call = framed(Buffer.alloc(1024, 'x'));

/** Milliseconds of CPU time for `count` unary calls, 32 at once. Client, gateway and app are one process. */
async function calls(to: ClientHttp2Session, type: string, count: number): Promise<number> {
  const before = process.cpuUsage();
  let left = count;
  const one = (): Promise<void> =>
    new Promise((resolve, reject) => {
      const stream = to.request({
        ...{ ':method': 'POST', ':path': '/shop.Orders/Get', 'content-type': type, te: 'trailers' },
      });
      stream.on('error', reject).on('end', resolve).resume().end(call);
    });
  const worker = async (): Promise<void> => {
    while (left-- > 0) await one();
  };
  await Promise.all(Array.from({ length: 32 }, worker));
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

const types = ['application/grpc', 'application/grpc-web'];
const texts = new Map<string, number>();
for (const type of types) await calls(session, type, 3000);
// In turns, so that what else the machine does is in both.
for (let turn = 0; turn < 8; turn++)
  for (const type of types)
    texts.set(type, Math.min(texts.get(type) ?? Number.POSITIVE_INFINITY, await calls(session, type, 2000)));
const plain = texts.get('application/grpc')!;
console.log('| unary calls of 1 KB | us of CPU, client and app included | of plain gRPC |\n|---|---|---|');
for (const [type, ms] of texts) console.log(`| ${type} | ${(ms / 2).toPrecision(3)} | ${(ms / plain).toFixed(2)} |`);
session.close();
for (const end of ends) await end();
process.exit(0);
