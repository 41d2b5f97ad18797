// Documents of our own kinds, with made-up capabilities: read, attached, overridden, reported and closed like a
// SecurityPolicy.

import t from 'tap';
import { formatProblem, SallyportError } from '../../cert-agent/base/errors.ts';
import { parseYaml } from '../../cert-agent/base/yaml.ts';
import { type Failure, withFailures } from '../../sidecar/compile/failures.ts';
import { ownersIn } from '../../sidecar/compile/gateway-plan.ts';
import { compileGatewayPorts } from '../../sidecar/compile/gateway-ports.ts';
import type { HookTools } from '../../sidecar/compile/hooks.ts';
import { reviewDoubts } from '../../sidecar/compile/reviews.ts';
import { isGatewayPolicy, loadOwnKindsIn, readGatewayPolicy, readPlaced } from '../../sidecar/config/gateway-config.ts';
import { loadOwnKinds, readOwnPolicy } from '../../sidecar/documents/sallyport.ts';
import type { AnyCapability, RulesFor } from '../../sidecar/edge/capability.ts';
import type { Exchange } from '../../sidecar/exchange/exchange.ts';
import { createExchange } from '../fixtures/exchange.ts';
import { hookTools } from '../fixtures/hooks.ts';
import { madeUp, wordGuard } from '../fixtures/made-up.ts';
import { ownKinds } from '../fixtures/own-kinds.ts';
import { documentOf, type PlanOptions, planOf, serviceOf, webGateway, webRoute } from '../fixtures/plan.ts';

const kinds = await loadOwnKinds(madeUp);

interface Head {
  readonly target?: string;
  readonly metadata?: string;
  readonly version?: string;
}

const gateway = 'kind: Gateway, name: g';
const route = 'kind: HTTPRoute, name: r';

function own(kind: string, name: string, spec: string, { target = route, metadata = '', version }: Head = {}): string {
  const targets = `targetRefs: [{ group: gateway.networking.k8s.io, ${target} }]`;
  return `---\napiVersion: ${version ?? 'sallyport.dev/v1alpha1'}\nkind: ${kind}\nmetadata: { name: ${name}, namespace: shop${metadata} }\nspec: { ${targets}, ${spec} }\n`;
}

const world = webGateway + webRoute + serviceOf('a');
const guard = (name: string, head?: Head, spec = `word: ${name}`): string => own('WordGuard', name, spec, head);

function plan(documents: string, more: PlanOptions = {}) {
  const yaml = 'upstreams: { a: { endpoints: ["127.0.0.1:1"] } }\nbackends: { shop/a:80: a, other/a:80: a }\n';
  return planOf(documents, { table: madeUp, kinds, now: 0, yaml, ...more });
}

/** The compiled ports of a gateway with these documents, and the statuses. */
function served(
  documents: string,
  { table = madeUp, tools = hookTools, ...more }: PlanOptions & { readonly tools?: HookTools } = {},
) {
  const planned = plan(documents, { table, ...more });
  const pools = new Map(
    planned.plan.pools.map(({ name }) => [name, { acquire: () => undefined as never, dialSocket: undefined as never }]),
  );
  const { ports, failures } = compileGatewayPorts(planned.configuration, planned.plan, pools, tools, table);
  const rules = ports[0]!.rules;
  const rule = (path = '/') => rules.edge!.find({ ...asked, path } as Exchange).rule!;
  return { ...planned, failures, ports, rules, rule };
}

const { exchange: asked } = createExchange({ authority: 'a.test' });

/** The error of the steps before authorization; undefined if the request passes. */
async function refusalOf(rule: ReturnType<ReturnType<typeof served>['rule']>, headers = {}): Promise<unknown> {
  const { exchange, connection } = createExchange({}, headers);
  exchange.phases = rule.phases;
  try {
    for (const step of rule.phases.before) await step(exchange, connection);
    return undefined;
  } catch (error) {
    return error instanceof SallyportError ? `${error.code} ${error.message}` : error;
  }
}

t.test('a policy of our own kind applies to its target, and its status says so', async (t) => {
  const { rule, said, list, rules, plan: made } = served(world + guard('sesame') + own('Note', 'n', 'text: hello'));
  t.equal(await refusalOf(rule()), 'csrf_origin_mismatch say the word');
  t.equal(await refusalOf(rule(), { 'x-word': 'sesame' }), undefined);
  t.strictSame(said['WordGuard shop/sesame HTTPRoute r'], ['Accepted=True Accepted']);
  t.match(
    list.items.find(({ kind }) => kind === 'WordGuard'),
    { apiVersion: 'sallyport.dev/v1alpha1' },
  );
  const { exchange } = createExchange();
  const reply = { status: 200, reason: '', fields: { names: [], values: [] }, hopFields: undefined } as never;
  t.strictSame(rule().phases.reply[0]!(exchange, reply).values, ['hello, by shop/n']);
  t.match(
    rule().phases.guards,
    [{ name: 'word-guard', of: /^\S+ \S+$/ }],
    'its digest identifies it for the next generation',
  );
  t.strictSame([...rules.edge!.ownHeaders], ['x-word-said'], 'from guards only');
  t.strictSame(rules.edge!.secrets, { params: ['word'], paths: new Set(['/sesame']) });
  t.strictSame(made.losses, []);
});

t.test('headers that only the gateway may set are removed before any step sets them', async (t) => {
  const { rule } = served(world + guard('sesame'));
  const { exchange, connection } = createExchange({}, { 'x-word': 'sesame', 'x-word-said': 'me' });
  for (const step of rule().phases.before) await step(exchange, connection);
  t.strictSame(
    exchange.fields.names.map(({ lower }) => lower),
    ['x-word'],
  );
});

t.test('the nearer policy overrides the farther one, with a warning', async (t) => {
  const far = guard('far', { target: gateway });
  const { rule, said, plan: made, message } = served(world + far + guard('near'));
  t.equal(await refusalOf(rule(), { 'x-word': 'near' }), undefined);
  t.match(await refusalOf(rule(), { 'x-word': 'far' }), /^csrf_origin_mismatch/);
  t.strictSame(said['WordGuard shop/far Gateway g'], ['Accepted=True Accepted', 'Overridden=True Overridden']);
  t.equal(
    message('WordGuard shop/far Gateway g', 'Overridden'),
    'This policy is being overridden by other WordGuard documents for these routes: [shop/r]',
  );
  t.strictSame(made.losses, [
    "WordGuard shop/near takes the place of 'spec' of WordGuard shop/far for HTTPRoute shop/r",
  ]);
  t.strictSame(
    served(world + far + own('Note', 'n', 'text: x')).plan.losses,
    [],
    'a policy of another kind overrides nothing',
  );
});

t.test('a rule that would lose a policy with required inheritance is closed', async (t) => {
  const metadata = ', annotations: { sallyport.dev/inherit: required }';
  const { rule, message } = served(world + guard('far', { target: gateway, metadata }) + guard('near'));
  t.match(rule().broken, { code: 'rule_broken', message: /'spec' of WordGuard shop\/far would be lost/ });
  t.match(message('WordGuard shop/near HTTPRoute r', 'Accepted'), /must be inherited/);
  t.equal(served(world + guard('far', { target: gateway, metadata })).rule().broken, undefined);
});

t.test('of two policies for one target the older applies, and the first worker decides for all', async (t) => {
  const at = (year: number): Head => ({ metadata: `, creationTimestamp: "${year}-01-01T00:00:00Z"` });
  const documents = world + guard('old', at(2020)) + guard('young', at(2021));
  const { rule, said, message } = served(documents);
  t.equal(await refusalOf(rule(), { 'x-word': 'old' }), undefined);
  t.strictSame(said['WordGuard shop/young HTTPRoute r'], ['Accepted=False Conflicted']);
  t.match(message('WordGuard shop/young HTTPRoute r', 'Accepted'), /shop\/old has the same target/);
  const { plan: first } = plan(world + guard('young', at(2021)));
  const owners = structuredClone(ownersIn(first));
  t.strictSame(owners.own, [
    ['WordGuard', [['HTTPRoute shop/r ', 'shop/young']]],
    ['Note', []],
  ]);
  t.equal(await refusalOf(served(documents, { owners }).rule(), { 'x-word': 'young' }), undefined, 'at another worker');
  t.equal(
    await refusalOf(served(documents, { last: first }).rule(), { 'x-word': 'young' }),
    undefined,
    'after an edit',
  );
});

t.test('an invalid policy closes its targets, and the rest is served', async (t) => {
  const cases: readonly (readonly [document: string, problem: RegExp])[] = [
    [guard('b', {}, 'word: 7'), /spec\.word: /],
    [guard('b', {}, 'wrod: x'), /unknown key 'wrod'/],
    [guard('b', {}, 'word: x, mergeType: JSONMerge'), /unknown key 'mergeType'/],
    [guard('b', { target: `${route}, namespace: other` }), /targets are always in the policy's namespace/],
    [
      guard('b', { metadata: ', annotations: { sallyport.dev/inherits: required }' }),
      /'sallyport\.dev\/inherits' is unknown/,
    ],
    [guard('b', { version: 'sallyport.dev/v1' }), /apiVersion: /],
  ];
  for (const [document, problem] of cases) {
    const { rule, list } = served(world + document);
    t.match(rule().broken, { code: 'rule_broken', message: problem }, document);
    t.match(JSON.stringify(list.items.find(({ kind }) => kind === 'WordGuard')), /"reason":"Invalid"/, document);
  }
  const other = documentOf(
    'HTTPRoute',
    'other',
    '{ parentRefs: [{ name: g }], rules: [{ matches: [{ path: { value: /o } }], backendRefs: [{ name: a, port: 80 }] }] }',
  );
  t.equal(served(world + other + guard('b', {}, 'word: 7')).rule('/o').broken, undefined);
  const conflicting = served(world + guard('a', {}, 'word: 7') + guard('b'));
  t.ok(conflicting.rule().broken, 'an invalid policy keeps its target');
});

t.test('if the target of an invalid policy is unknown, nothing is served', async (t) => {
  t.throws(
    () =>
      plan(
        `${world}---\napiVersion: sallyport.dev/v1alpha1\nkind: WordGuard\nmetadata: { name: b }\nspec: { word: x }\n`,
      ),
    {
      message: /needs exactly one of 'targetRef' and 'targetRefs'/,
    },
  );
  t.throws(() => plan(world + guard('a') + guard('a')), {
    message: /WordGuard shop\/a is already defined in all\.yaml/,
  });
  t.throws(() => plan(`${world}---\napiVersion: v1\nkind: WordGuard\nmetadata: { name: b }\nspec: {}\n`), {
    message: /a WordGuard belongs to group sallyport\.dev, not to apiVersion 'v1'/,
  });
});

t.test('a kind that no capability reads closes its targets', async (t) => {
  const { rule, warnings, plan: made } = served(world + own('WordGard', 'w', 'word: x'));
  t.match(rule().broken, { message: /WordGard shop\/w is not valid: .*may protect and is not evaluated here/ });
  t.strictSame(warnings, []);
  t.equal(made.closed.statuses.length, 1);
  t.match(JSON.stringify(made.closed.statuses), /did you mean 'WordGuard'/);
  t.match(planOf(world + guard('a')).plan.closed.statuses, [{ policy: { kind: 'WordGuard' } }], 'in this build');
  const gone: readonly AnyCapability[] = [];
  t.match(served(world + guard('a'), { table: gone }).rule().broken, { message: /nothing here evaluates 'WordGuard'/ });
});

t.test('its Secrets and backends are in its namespace, and its status reports missing ones', async (t) => {
  const secret =
    '---\napiVersion: v1\nkind: Secret\nmetadata: { name: s, namespace: shop }\nstringData: { word: hidden }\n';
  const spec = 'word: x, secret: s';
  t.equal(await refusalOf(served(world + secret + guard('a', {}, spec)).rule(), { 'x-word': 'hidden' }), undefined);
  const saidOf = (documents: string): readonly [string, readonly Failure[]] => {
    const { rule, failures, list } = served(documents);
    t.ok(rule().broken, 'the rule answers 500');
    const item = withFailures(list, failures).items.find(({ kind }) => kind === 'WordGuard');
    return [JSON.stringify(item), failures];
  };
  const [missing, failures] = saidOf(world + guard('a', {}, spec));
  t.match(
    missing,
    /"status":"False".*"reason":"Invalid".*WordGuard shop\/a: there is no Secret 's' in namespace 'shop'/,
  );
  t.match(failures, [{ kind: 'WordGuard', namespace: 'shop', name: 'a', type: 'Accepted' }]);
  const backend = 'word: x, backend: { name: a, namespace: other }';
  t.match(saidOf(world + guard('a', {}, backend))[0], /no ReferenceGrant in other lets shop\/a ask a/);
  const grant = documentOf(
    'ReferenceGrant',
    'other/g',
    '{ from: [{ group: sallyport.dev, kind: WordGuard, namespace: shop }], to: [{ group: "", kind: Service }] }',
  );
  const granted = served(world + grant + serviceOf('other/a') + guard('a', {}, backend));
  t.equal(granted.rule().broken, undefined);
  t.match(granted.plan.spoken.join(), /other\/a:80 .*for WordGuard of WordGuard shop\/a/);
});

t.test('a filter or a policy of another kind that would silently override it', async (t) => {
  const filter = { kind: 'filter', name: 'CORS', filter: { key: 'cors', grpc: false, repeatable: false } } as const;
  const withFilter = {
    ...wordGuard,
    fields: [{ ...filter, schema: wordGuard.fields[0]!.schema }, ...wordGuard.fields],
  };
  const table = [withFilter] as readonly AnyCapability[];
  const cors = documentOf(
    'HTTPRoute',
    'r',
    '{ parentRefs: [{ name: g }], rules: [{ filters: [{ type: CORS, cors: { allowOrigins: ["*"] } }], backendRefs: [{ name: a, port: 80 }] }] }',
  );
  const documents = webGateway + cors + serviceOf('a');
  t.strictSame(served(documents + guard('a'), { table }).plan.losses, [
    "the CORS filter of HTTPRoute shop/r takes the place of 'WordGuard' of WordGuard shop/a",
  ]);
  const metadata = ', annotations: { sallyport.dev/inherit: required }';
  t.match(served(documents + guard('a', { metadata }), { table }).rule().broken, {
    message: /its CORS filter would take the place of 'WordGuard' of WordGuard shop\/a, which has to be inherited/,
  });
  const second = { ...wordGuard.fields[0]!, kind: 'sallyport.dev/Other', name: 'Other' } as const;
  const twice = [{ ...wordGuard, fields: [...wordGuard.fields, second] }] as readonly AnyCapability[];
  const both = { table: twice, kinds: await loadOwnKinds(twice) };
  t.match(served(world + guard('a') + own('Other', 'b', 'word: b'), both).rule().broken, {
    message: /WordGuard shop\/a and Other shop\/b both configure 'word-guard'/,
  });
});

t.test('each capability reviews its own plans', async (t) => {
  const reviewing = {
    ...wordGuard,
    doubts: (plan: { readonly word: string }, { hosts }: { readonly hosts: readonly string[] }) => [
      `${plan.word} at ${hosts.join()}`,
    ],
    review: (_plan: object, _inForce: object, rulesFor: RulesFor) => ({
      ...{ type: 'Accepted', reason: 'Invalid' },
      message: JSON.stringify(rulesFor(new URL('http://a.test/'))),
    }),
  } as AnyCapability;
  const { failures, plan: made } = served(world + guard('a'), { table: [reviewing] });
  const rules = '[{"name":"httproute/shop/r/rule/0","underPolicy":true}]';
  t.strictSame(failures, [
    { kind: 'WordGuard', namespace: 'shop', name: 'a', type: 'Accepted', reason: 'Invalid', message: rules },
  ]);
  t.strictSame(reviewDoubts(made, [reviewing]), ['a at *']);
});

const streams =
  documentOf(
    'Gateway',
    'g',
    '{ gatewayClassName: x, listeners: [{ name: web, port: 80, protocol: HTTP }, { name: raw, port: 81, protocol: TCP }] }',
  ) +
  documentOf(
    'TCPRoute',
    's',
    '{ parentRefs: [{ name: g, sectionName: raw }], rules: [{ backendRefs: [{ name: a, port: 80 }] }] }',
  ) +
  serviceOf('a');

t.test('a stream under a guard is refused; one under a service passes, with a warning', async (t) => {
  const streamUnder = (document: string): string => {
    const { ports, plan: made } = served(streams + document);
    const { destination } = ports.find(({ key }) => key.endsWith(':81'))!.rules.findStream!(undefined, undefined)!;
    try {
      destination.acquire(false, false);
      return made.losses.join();
    } catch (error) {
      return (error as Error).message;
    }
  };
  t.equal(
    streamUnder(guard('a', { target: gateway })),
    'WordGuard shop/a applies to listener raw, but evaluates requests only: attach it to listeners for HTTP',
  );
  t.match(streamUnder(guard('a', { target: gateway }, 'wrod: x')), /^WordGuard shop\/a applies to listener raw/);
  t.equal(streamUnder(guard('a', { target: `${gateway}, sectionName: web` })), '');
  t.equal(
    streamUnder(own('Note', 'n', 'text: x', { target: gateway })),
    'Note shop/n has no effect on TCPRoute shop/s: it is about requests',
  );
});

t.test('hooks of an unchanged policy are kept', async (t) => {
  const keys: string[] = [];
  const kept: HookTools['kept'] = (key, make) => {
    keys.push(key);
    return make();
  };
  served(world + own('Note', 'n', 'text: x'), { tools: { ...hookTools, kept } });
  t.match(keys, [/^note-service \S+ \S+$/]);
});

t.test('credential fields of an invalid policy count if its kind authenticates callers', async (t) => {
  const caller: AnyCapability = { ...wordGuard, guards: 'callers' } as AnyCapability;
  const brokenOf = async (table: readonly AnyCapability[]) => {
    const document = guard('a', {}, 'wrod: x, header: x-who, params: [w]');
    return plan(world + document, { table, kinds: await loadOwnKinds(table) }).configuration.gateway!.broken;
  };
  t.match(await brokenOf([caller]), [{ ownHeaders: ['x-who'], secretParams: ['w'] }]);
  t.match(
    await brokenOf([wordGuard]),
    [{ ownHeaders: [], secretParams: ['w'] }],
    'it may be a header that clients send',
  );
});

t.test('checked alone, as by `sallyport check`', async (t) => {
  const problemsOf = (text: string): readonly string[] => {
    const [document] = parseYaml(text, 'x.yaml').documents;
    t.equal(isGatewayPolicy(document!, kinds), true);
    const read = readGatewayPolicy(document!, 'x.yaml', kinds);
    return 'problems' in read ? read.problems.map(formatProblem) : [];
  };
  t.strictSame(problemsOf(guard('a')), []);
  t.match(problemsOf(guard('a', {}, 'words: x')), [
    /^x\.yaml:5:\d+: .*spec\.word/,
    /^x\.yaml:5:\d+: unknown key 'words'.*did you mean 'word'/,
  ]);
  t.equal(
    isGatewayPolicy(parseYaml(guard('a'), 'x.yaml').documents[0]!, ownKinds),
    false,
    'no capability of this build reads it',
  );
});

t.test('a kind whose schema was not loaded is never accepted', async (t) => {
  const document = parseYaml(guard('a'), 'x.yaml').documents[0]!;
  const without = await loadOwnKinds(madeUp, new Set());
  t.strictSame([...without.keys()], [...kinds.keys()], 'it is known all the same');
  t.throws(() => readOwnPolicy(document, 'x.yaml', without), { code: 'internal' });
  t.throws(() => readPlaced([{ file: 'x.yaml', document }], without), { code: 'internal' });
});

t.test('the schemas of those kinds are loaded that documents have, in a List too', async (t) => {
  const loadedFor = async (text: string): Promise<string[]> => {
    const placed = parseYaml(text, 'x.yaml').documents.map((document) => ({ file: 'x.yaml', document }));
    const all = await loadOwnKindsIn(placed);
    return [...all].flatMap(([kind, { plan }]) => (plan === undefined ? [] : [kind]));
  };
  t.strictSame(await loadedFor('{}'), []);
  t.strictSame(await loadedFor('kind: "HTTP\\u0043ache"\n---\nkind: Service\n'), ['HTTPCache']);
  t.strictSame(await loadedFor('kind: List\nitems: [{ kind: GRPCWeb }, { kind: 7 }, null]\n'), ['GRPCWeb']);
});
